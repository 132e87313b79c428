"""Layers: everything that has state."""

import sys

from normdrop.layers.alpha_dropout import AlphaDropout
from normdrop.layers.base import Layer
from normdrop.layers.batch_norm import BatchNorm
from normdrop.layers.batch_norm_act import BatchNormAct
from normdrop.layers.batch_norm_act_ranks import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d
from normdrop.layers.batch_norm_ranks import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normdrop.layers.concrete_dropout import ConcreteDropout
from normdrop.layers.conditional import ConditionalBatchNorm
from normdrop.layers.domains import DomainBatchNorm
from normdrop.layers.drop_block_ranks import DropBlock1d, DropBlock2d, DropBlock3d
from normdrop.layers.drop_connect import DropConnect
from normdrop.layers.drop_path import DropPath
from normdrop.layers.dropout import Dropout
from normdrop.layers.dropout_ranks import Dropout1d, Dropout2d, Dropout3d
from normdrop.layers.feature_alpha_dropout import FeatureAlphaDropout
from normdrop.layers.gaussian import GaussianDropout, GaussianNoise
from normdrop.layers.ghost import GhostBatchNorm
from normdrop.layers.renorm import BatchRenorm

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
]

# Pickles name layers by what users import; older ones by files that now have other names.
for _name in __all__:
    globals()[_name].__module__ = "normdrop"
sys.modules[f"{__name__}.by_rank"] = sys.modules[__name__]
