"""Layers: everything that has state."""

from normdrop.layers.base import Layer
from normdrop.layers.batch_norm import BatchNorm
from normdrop.layers.by_rank import BatchNorm1d, BatchNorm2d, BatchNorm3d, Dropout1d, Dropout2d, Dropout3d
from normdrop.layers.dropout import Dropout

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Layer",
]
