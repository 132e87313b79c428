"""The operations of passes in which not all positions count: `normdrop._cpu.kernels.operations` has the others.

`counted` are 16 decisions, the bits of a mask; `rest` is all ones if the other elements keep what they have, else 0.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.kernels.arithmetic import input_gradient, normalized
from normdrop._cpu.kinds import Index, Lanes, Memory
from normdrop._cpu.lanes.bits import choose, keep
from normdrop._cpu.lanes.memory import element, load
from normdrop._cpu.lanes.simd import splat, widen
from normdrop._cpu.toolchain.launch import helper


@helper
def once(weights: Memory, k: Index) -> Any:
    """Return how often 16 positions count, if each counts once."""
    return splat(1.0)


@helper
def weight(weights: Memory, k: Index) -> Any:
    """Return the weights of 16 positions."""
    return widen(load(weights, k))


@helper
def once_each(weights: Memory, k: Index) -> Any:
    """Return how often a position counts, if each counts once."""
    return 1.0


@helper
def weight_of(weights: Memory, k: Index) -> Any:
    """Return the weight of a position."""
    return element(weights, k)


@helper
def masked(x: Lanes, counted: Any, mean: Lanes, scale: Lanes, shift: Lanes, rest: Any) -> Lanes:
    """Return y of normalization where it counts, else 0 or x."""
    return choose(counted, normalized(widen(x), mean, scale, shift), keep(rest, widen(x)))


@helper
def masked_gradient(
    dy: Lanes, x: Lanes, counted: Any, mean: Lanes, mean_dy: Lanes, slope: Lanes, scale: Lanes, factor: Lanes, rest: Any
) -> Lanes:
    """Return dx where it counts, else 0 or factor * dy."""
    dx = input_gradient(widen(dy), widen(x), mean, mean_dy, slope, scale)
    return choose(counted, dx, keep(rest, widen(dy) * factor))


@helper
def weighted_gradient(
    dy: Lanes, x: Lanes, counted: Any, w: Lanes, mean: Lanes, mean_dy: Lanes, slope: Lanes, scale: Lanes,
    factor: Lanes, rest: Any,
) -> Lanes:  # fmt: skip
    """Return the same where positions have weights."""
    dx = (widen(dy) - widen(w) * (mean_dy + (widen(x) - mean) * slope)) * scale
    return choose(counted, dx, keep(rest, widen(dy) * factor))
