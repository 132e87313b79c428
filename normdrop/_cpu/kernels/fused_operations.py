"""The operations of fused passes: batch norm or nothing, a residual sum, an activation, dropout, another sum.

Every step is rounded to the dtype of the arrays, as if it were a pass of its own, so that a fused pass has the bits of
the passes that it replaces.

An operation takes 16 elements of dy (or x, in a forward pass), x and residual, the bits of the mask, then mean, scale
and shift of normalization, the activation's parameter, the factor of kept elements, and an array of the arrays' dtype.
What an operation does not use is not loaded.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from normdrop._cpu.kernels.activations import activation
from normdrop._cpu.kernels.arithmetic import normalized
from normdrop._cpu.kernels.operations import copied
from normdrop._cpu.kinds import Lanes, Memory, Real
from normdrop._cpu.lanes.bits import choose, is_zero, keep
from normdrop._cpu.lanes.memory import as_stored, splat_for
from normdrop._cpu.lanes.simd import splat, widen
from normdrop._cpu.toolchain.launch import helper


class Fusion(NamedTuple):
    """What is fused: compiled kernels differ by it."""

    norm: bool
    """Whether there is batch norm before the activation."""
    residual: str
    """Where the residual is added: "" for nowhere, "before" the activation or "after" dropout."""
    activation: str
    """Name of the activation."""
    dropout: bool
    """Whether elements are dropped."""

    @property
    def name(self) -> str:
        """Name of the kernels' variants."""
        steps = "norm" if self.norm else "", self.residual, self.activation, "dropout" if self.dropout else ""
        return "_".join(filter(None, steps))


@helper
def _normalized(x: Lanes, r: Lanes, mean: Lanes, scale: Lanes, shift: Lanes, to: Memory) -> Lanes:
    return as_stored(to, normalized(widen(x), mean, scale, shift))


@helper
def _normalized_plus(x: Lanes, r: Lanes, mean: Lanes, scale: Lanes, shift: Lanes, to: Memory) -> Lanes:
    return as_stored(to, widen(as_stored(to, normalized(widen(x), mean, scale, shift))) + widen(r))


@helper
def _taken(x: Lanes, r: Lanes, mean: Lanes, scale: Lanes, shift: Lanes, to: Memory) -> Lanes:
    return x


@helper
def _rescaled(value: Lanes, factor: Real, to: Memory) -> Lanes:
    return as_stored(to, value * splat_for(to, factor))


@helper
def _not_rescaled(value: Lanes, factor: Real, to: Memory) -> Lanes:
    return value


@helper
def _every(bits: Any, value: Lanes) -> Lanes:
    return value


@helper
def _plus(value: Lanes, r: Lanes) -> Lanes:
    return widen(value) + widen(r)


@helper
def _alone(value: Lanes, r: Lanes) -> Lanes:
    return value


# What only chooses is computed in the arrays' own precision: it rounds nothing.
_EXACT_VALUES, _EXACT_DERIVATIVES = ("identity", "relu", "relu6"), ("relu",)


@helper
def _scaled(dy: Lanes, slope: Lanes) -> Lanes:
    """dy * slope, but +0 where the slope is 0."""
    return choose(is_zero(slope), slope - slope, dy * slope)


@cache
def operations(fusion: Fusion) -> tuple[Any, Any]:
    """Return (forward, backward): y, and the gradient of what the activation takes."""
    pre = _taken if not fusion.norm else _normalized_plus if fusion.residual == "before" else _normalized
    rescaled, kept = (_rescaled, keep) if fusion.dropout else (_not_rescaled, _every)
    last = _plus if fusion.residual == "after" else _alone
    value, derivative = activation(fusion.activation)
    for_value = copied if fusion.activation in _EXACT_VALUES else widen
    for_derivative = copied if fusion.activation in _EXACT_DERIVATIVES else widen

    def forward(
        dy: Lanes, x: Lanes, r: Lanes, bits: Any, mean: Lanes, scale: Lanes, shift: Lanes, parameter: Real,
        factor: Real, to: Memory,
    ) -> Lanes:  # fmt: skip
        u = pre(x, r, mean, scale, shift, to)
        return last(kept(bits, rescaled(as_stored(to, value(for_value(u), splat(parameter))), factor, to)), r)

    def backward(
        dy: Lanes, x: Lanes, r: Lanes, bits: Any, mean: Lanes, scale: Lanes, shift: Lanes, parameter: Real,
        factor: Real, to: Memory,
    ) -> Lanes:  # fmt: skip
        u = pre(x, r, mean, scale, shift, to)
        slope = derivative(for_derivative(u), splat(parameter))
        return kept(bits, _scaled(for_derivative(rescaled(dy, factor, to)), slope))

    for function in (forward, backward):  # so that their names tell them from those of other fusions
        function.__name__ += f"_{fusion.name}"
        function.__qualname__ = function.__name__
    return helper(forward), helper(backward)
