"""Means and sums of squares of parts, merged to those of the whole (Chan).

A block of moments is float64 of shape (4, C): n, mean, rest, M2. n counts values or adds weights, M2 is the sum of
squares about the mean, and mean + rest is the mean as two numbers, the second below the last digit of the first: of
many parts far from zero, one float64 would lose a digit in each.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _formulas

Array: TypeAlias = npt.NDArray[Any]
Moments: TypeAlias = npt.NDArray[np.float64]


def empty(n_channels: int) -> Moments:
    """Return the moments of no values."""
    return np.zeros((4, n_channels))


def of(n: float, mean: Array, var: Array) -> Moments:
    """Return the moments of n values per channel, whose mean and biased variance are given."""
    return np.stack([np.full_like(mean, n), mean, np.zeros_like(mean), var * n])


def checked(block: Array) -> Moments:
    """Return a float64 array after checking that it is a block of moments."""
    if block.ndim != 2 or block.shape[0] != 4 or block.shape[1] == 0:
        raise ValueError(f"array must have shape (4, C) as to_array() returns it; got {block.shape}")
    if not (np.isfinite(block[0]) & (block[0] >= 0.0)).all():
        raise ValueError("array[0] must be numbers of values, zero or more; pass what to_array() returned")
    _checks.not_negative(block[3], "array[3]")
    return block


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union of two parts; one of n = 0 changes nothing, not even with a NaN as its mean."""
    n = a[0] + b[0]
    with np.errstate(all="ignore"):  # channels without values, and those that are not finite
        part = b[0] / n
        delta = (b[1] - a[1]) + (b[2] - a[2])
        mean, rest = two_sum(a[1], a[2] + delta * part)
        m2 = _formulas.squares_about(a[3] + b[3], delta, a[0] * part)
    both = np.stack([n, mean, np.where(np.isfinite(mean), rest, 0.0), m2])
    return np.where(b[0] == 0.0, a, np.where(a[0] == 0.0, b, both))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded, and what the rounding has left out (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def n(block: Moments) -> Array:
    """Return the number of values of each channel."""
    values: Array = block[0].copy()
    return values


def mean(block: Moments) -> Array:
    """Return the mean of each channel, NaN without values."""
    return np.where(block[0] > 0.0, block[1], np.nan)


def var(block: Moments, ddof: float) -> Array:
    """Return M2 / (n - ddof), NaN where that is not positive."""
    n = block[0] - ddof
    with np.errstate(all="ignore"):
        return np.where((n > 0.0) & (block[0] > 0.0), block[3] / n, np.nan)


def equal(a: Moments, b: Moments) -> bool:
    """Whether two blocks are the same."""
    return np.array_equal(a, b, equal_nan=True)
