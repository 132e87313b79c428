"""The arithmetic of batch normalization, written once for every target.

Each function takes and returns float64: scalars, and all but the first also vectors of 16 lanes.
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
