"""The arithmetic of batch normalization, written once for every target.

Each function takes and returns float64: scalars, and all but the first and the last also vectors of 16 lanes. The
order of operations is part of a formula: it decides the last bit.
"""

from __future__ import annotations

from typing import Any


def centered(s: Any, t: Any, n: Any) -> Any:
    """Return mean and sum of squares about it of n values with sum s and sum of squares t."""
    m2 = t - s * s / n
    return s / n, (0.0 if m2 < 0.0 else m2)  # a NaN stays


def normalized(x: Any, mean: Any, scale: Any, shift: Any) -> Any:
    """Return y = (x - mean) * scale + shift."""
    return (x - mean) * scale + shift


def input_gradient(dy: Any, x: Any, mean: Any, mean_dy: Any, slope: Any, scale: Any) -> Any:
    """Return dx = (dy - mean_dy - (x - mean) * slope) * scale, with slope = inv_std**2 * mean(dy * (x - mean))."""
    return (dy - mean_dy - (x - mean) * slope) * scale


def squares_about(m2: Any, delta: Any, n: Any) -> Any:
    """Return the squares of n values about what lies `delta` from their mean, m2 being those about the mean (Chan)."""
    return m2 + delta * delta * n


def slope(dgamma: Any, inv_std: Any, n: Any) -> Any:
    """Return the slope of `input_gradient` of n values: inv_std * mean(dy * x_hat)."""
    return dgamma * inv_std / n


def running(old: Any, batch: Any, momentum: Any, weight: Any) -> Any:
    """Return momentum * old + weight * batch; an old value of no weight counts not even as a NaN."""
    new = weight * batch
    if momentum > 0.0:
        new += momentum * old
    return new
