"""The operations of element-wise passes, each a formula for 16 elements of the result.

An operation takes 16 elements of each input, as they are stored, and its numbers in float64, all as vectors. The loops
that call it are in `normdrop._cpu.kernels.elementwise`. Batch normalization followed by something else is one more of
these: ``at_least_zero(normalize(x, mean, scale, shift))``.
"""

from __future__ import annotations

from normdrop._cpu.kernels.arithmetic import input_gradient, normalized
from normdrop._cpu.kinds import Lanes
from normdrop._cpu.lanes.simd import widen
from normdrop._cpu.toolchain.launch import helper


@helper
def normalize(x: Lanes, mean: Lanes, scale: Lanes, shift: Lanes) -> Lanes:
    """Return y = (x - mean) * scale + shift."""
    return normalized(widen(x), mean, scale, shift)


@helper
def copied(x: Lanes) -> Lanes:
    """Return y = x."""
    return x


@helper
def gradient(dy: Lanes, x: Lanes, mean: Lanes, mean_dy: Lanes, slope: Lanes, scale: Lanes) -> Lanes:
    """Return dx of `_formulas.input_gradient`."""
    return input_gradient(widen(dy), widen(x), mean, mean_dy, slope, scale)
