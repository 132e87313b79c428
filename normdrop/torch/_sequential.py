"""A sequence of layers that computes batch normalization, an activation and dropout that follow each other in one pass.

It holds the layers as they are, and decides at each call which go together, by their classes, modes and hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from normdrop.functional import _masking
from normdrop.torch import batch_norm, dropout
from normdrop.torch._activations import activation_of
from normdrop.torch._arrays import is_served
from normdrop.torch.functional._dropout import CHANNELS

_NORMS = frozenset({batch_norm.BatchNorm1d, batch_norm.BatchNorm2d, batch_norm.BatchNorm3d})
# Curved ones take longer in float64 than PyTorch's in float32, by more than what the pass over memory saves.
_CHEAP = frozenset({"identity", "relu", "leaky_relu", "relu6", "hardtanh", "hardswish"})
_DROPOUTS = frozenset({dropout.Dropout, dropout.Dropout1d, dropout.Dropout2d, dropout.Dropout3d})

# Bytes of a batch whose channels lie in planes or side by side. Smaller ones stay in a cache, where passes one after
# the other are as fast or faster.
SMALLEST = {"planes": 1 << 20, "rows": 1 << 23}


def _is_cheap(module: nn.Module) -> bool:
    known = activation_of(module)
    return known is not None and known[0] in _CHEAP


def is_left_for_speed(norm: nn.Module, module: nn.Module) -> bool:
    """Whether these could be fused, and would be slower."""
    return type(norm) in _NORMS and activation_of(module) is not None and not _is_cheap(module)


def run_at(modules: Sequence[nn.Module], start: int) -> list[nn.Module]:
    """Return the layers from here on whose classes can be fused: batch normalization first, at most three."""
    run = [modules[start]]
    if type(run[0]) not in _NORMS:
        return run
    for module in modules[start + 1 : start + 3]:
        if type(module) not in _DROPOUTS and (len(run) > 1 or not _is_cheap(module)):
            break
        run.append(module)
        if type(module) in _DROPOUTS:
            break
    return run[:-1] if type(run[-1]) is nn.Identity else run


def n_free(run: Sequence[nn.Module]) -> int:
    """Return how many of these, from the first on, nobody looks on when they are called."""
    return next((i for i, module in enumerate(run) if not _is_free(module)), len(run))


def _is_free(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks and "forward" not in module.__dict__


class Fusing(nn.Sequential):
    """What makes `torch.nn.Sequential` or a subclass one that fuses."""

    def forward(self, input: Any) -> Any:  # noqa: A002
        """Compute the modules one after the other, as many as can be in one pass."""
        modules, i = list(self), 0
        while i < len(modules):
            steps, n = _steps(input, run_at(modules, i))
            input = modules[i]._fused(input, **steps) if steps else modules[i](input)  # noqa: A001
            i += n
        return input

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the class that everyone can import."""
        _, (kind, *arguments), *rest = super().__reduce_ex__(protocol)
        return _made, (plain(kind), *arguments), *rest


def _steps(x: Any, run: list[nn.Module]) -> tuple[dict[str, Any], int]:
    """Return what follows batch normalization in its pass, and how many modules that is in all."""
    if len(run) < 2 or not isinstance(x, torch.Tensor) or not is_served(x) or _has_any_global_hook():
        return {}, 1
    n = n_free(run)
    if n < 2 or not (torch.compiler.is_compiling() or x.numel() * x.itemsize >= SMALLEST[_order(x)]):
        return {}, 1
    rest, steps = run[1:n], {}
    if type(rest[-1]) in _DROPOUTS:
        steps = _drops(x, rest.pop())
    activation = activation_of(rest[0]) if rest else ("identity", 0.0)
    if not steps and activation == ("identity", 0.0):
        return {}, 1
    return {**steps, "activation": activation}, 1 + len(rest) + bool(steps)


def _order(x: torch.Tensor) -> str:
    return "planes" if x.dim() > 2 and x.is_contiguous() else "rows"


def _drops(x: torch.Tensor, drop: Any) -> dict[str, Any]:
    """Return the arguments of dropout; none if it drops nothing, or what PyTorch has its own mind about."""
    kind = type(drop).__name__.lower()
    axes = CHANNELS[kind].get(x.dim()) if kind in CHANNELS else ()
    if not drop.training or axes is None or not 0.0 <= drop.p <= 1.0:
        return {}
    if _masking.threshold_of(drop.p) == 0:
        return {}
    return {"p": drop.p, "shared_axes": axes, "generator": drop.generator, "rng": drop.stream}


def can_fuse(kind: type[nn.Module]) -> bool:
    """Whether instances of this class do what `torch.nn.Sequential` does."""
    own = issubclass(kind, nn.Sequential) and not issubclass(kind, Fusing)
    return own and kind.forward is nn.Sequential.forward and kind.__iter__ is nn.Sequential.__iter__


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def fusing(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of the same name that fuses."""
    if kind not in _CLASSES:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        _CLASSES[kind] = type(kind.__name__, (Fusing, kind), names)
    return _CLASSES[kind]


def plain(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that such a class was made of."""
    return kind.__bases__[1]


def _made(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    kind = fusing(kind)
    return kind.__new__(kind, *arguments)
