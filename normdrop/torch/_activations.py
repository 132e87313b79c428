"""The activations of fused passes by PyTorch's operators, and the modules that compute them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as peer
from torch import nn

Tensor: TypeAlias = torch.Tensor

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda u: u,
    "relu": peer.relu,
    "relu6": peer.relu6,
    "hardswish": peer.hardswish,
    "hardtanh": peer.hardtanh,
    "silu": peer.silu,
    "gelu": peer.gelu,
    "gelu_tanh": partial(peer.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "selu": peer.selu,
}
_WITH_PARAMETER: dict[str, Callable[[Tensor, float], Tensor]] = {"leaky_relu": peer.leaky_relu, "elu": peer.elu}


def activate(u: Tensor, name: str, parameter: float) -> Tensor:
    """Apply an activation by PyTorch's operator."""
    return _PLAIN[name](u) if name in _PLAIN else _WITH_PARAMETER[name](u, parameter)


_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ELU: "elu",
    nn.SELU: "selu",
}


def activation_of(module: nn.Module) -> tuple[str, float] | None:
    """Return name and parameter of what exactly this module computes, if fused passes have it."""
    kind = type(module)
    if kind is nn.Hardtanh:
        return ("hardtanh", 0.0) if (module.min_val, module.max_val) == (-1.0, 1.0) else None
    name, parameter = _NAMES.get(kind), 0.0
    if kind is nn.GELU and module.approximate != "none":
        name = "gelu_tanh"
    if kind is nn.LeakyReLU or kind is nn.ELU:
        parameter = module.negative_slope if kind is nn.LeakyReLU else module.alpha
        if not isinstance(parameter, (int, float)) or not math.isfinite(parameter):
            return None
    return None if name is None else (name, float(parameter))
