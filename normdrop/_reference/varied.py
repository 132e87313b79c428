"""The reference of dropout whose p varies."""

from __future__ import annotations

import numpy as np

from normdrop._reference.masks import numbers
from normdrop._reference.rounding import Array, Integers, Mask, Vector


def _scaled(x: Array, factors: Vector) -> Array:
    values = x.astype(np.float32) if x.itemsize == 2 else x
    with np.errstate(all="ignore"):
        product: Array = values * factors.astype(values.dtype)
    return product


def dropout_varied(y: Array, x: Array, thresholds: Vector, key: tuple[int, int], call: int, inverted: bool) -> None:
    """Set y[a, c, b] = x[a, c, b] / (1 - T / 2**32), or x alone, where its number is T = thresholds[c] or more.

    Elsewhere it is +0. x is in C order; a number is that of the mask law.
    """
    kept = numbers(x.size, key, call).reshape(x.shape) > thresholds[:, None]
    with np.errstate(divide="ignore"):
        factors = 1.0 / (1.0 - thresholds * 2.0**-32) if inverted else np.ones_like(thresholds)
    y[...] = np.where(kept, _scaled(x, factors[:, None]), 0)


def keep_varied(mask: Mask, thresholds: Vector, keys: Integers, call: int) -> None:
    """Set mask[n, j] = whether element j is kept under key n with T = thresholds[n, j]; all (N, L), keys (N, 2)."""
    for row, limits, (first, second) in zip(mask, thresholds, keys.tolist(), strict=True):
        row[...] = numbers(row.size, (first, second), call) > limits


def apply_factors(y: Array, x: Array, mask: Mask, factors: Vector) -> None:
    """Set y[a, s, b] = factors[a, b] * x[a, s, b] where mask[a, b] and the factor is above 0, else +0."""
    kept = mask & (factors > 0.0)
    y[...] = np.where(kept[:, None, :], _scaled(x, factors[:, None, :]), 0)
