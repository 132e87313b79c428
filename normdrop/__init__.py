"""Dropout and batch normalization for NumPy arrays, in kernels compiled by Numba."""

from normdrop import functional
from normdrop._pool import pool_info, set_pool_limit
from normdrop._warmup import warmup
from normdrop.ensembles import exact_ensemble, mc_predict, sampling
from normdrop.folding import fold
from normdrop.layers import (
    AlphaDropout,
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormAct,
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    BatchRenorm,
    ConcreteDropout,
    ConditionalBatchNorm,
    DomainBatchNorm,
    DropBlock1d,
    DropBlock2d,
    DropBlock3d,
    DropConnect,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureAlphaDropout,
    GaussianDropout,
    GaussianNoise,
    GhostBatchNorm,
    Layer,
)
from normdrop.random import MaskStream, seed
from normdrop.statistics import ChannelStatistics

__version__ = "0.1.0"

__all__ = [
    "AlphaDropout",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchRenorm",
    "ChannelStatistics",
    "ConcreteDropout",
    "ConditionalBatchNorm",
    "DomainBatchNorm",
    "DropBlock1d",
    "DropBlock2d",
    "DropBlock3d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "GhostBatchNorm",
    "Layer",
    "MaskStream",
    "exact_ensemble",
    "fold",
    "functional",
    "mc_predict",
    "pool_info",
    "sampling",
    "seed",
    "set_pool_limit",
    "warmup",
]
