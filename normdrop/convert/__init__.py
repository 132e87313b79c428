"""Layers from and to PyTorch, Keras, Flax and ONNX, none of which is imported but to make a layer of its own."""

from normdrop.convert._common import Exported
from normdrop.convert._flax import from_flax, to_flax
from normdrop.convert._keras import from_keras, to_keras
from normdrop.convert._onnx import from_onnx, to_onnx
from normdrop.convert._torch import from_torch, to_torch

__all__ = [
    "Exported",
    "from_flax",
    "from_keras",
    "from_onnx",
    "from_torch",
    "to_flax",
    "to_keras",
    "to_onnx",
    "to_torch",
]
