"""Means and sums of squares of parts, merged to those of the whole (Chan), and those of masked and weighted values.

A block of moments is float64 of shape (4, C): n, mean, rest, M2. n counts values or adds weights, M2 is the sum of
squares about the mean, and mean + rest is the mean as two numbers, the second below the last digit of the first: of
many parts far from zero, one float64 would lose a digit in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _formulas

Array: TypeAlias = npt.NDArray[Any]
Moments: TypeAlias = npt.NDArray[np.float64]

NAMES = ("n", "mean", "rest", "m2")

_AT_ONCE = 1 << 16  # elements of a block


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union of two parts; one of n = 0 changes nothing, not even with a NaN as its mean."""
    n = a[0] + b[0]
    with np.errstate(all="ignore"):  # channels without values, and those that are not finite
        part = b[0] / n
        delta = (b[1] - a[1]) + (b[2] - a[2])
        mean, rest = _two_sum(a[1], a[2] + delta * part)
        m2 = _formulas.squares_about(a[3] + b[3], delta, a[0] * part)
    both = np.stack([n, mean, np.where(np.isfinite(mean), rest, 0.0), m2])
    return np.where(b[0] == 0.0, a, np.where(a[0] == 0.0, b, both))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded, and what the rounding has left out (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def of_batch(n: int, statistics: Array) -> Moments:
    """Return the moments of a batch of n values per channel whose mean and biased variance are given."""
    if n == 0:
        return np.zeros((4, statistics.shape[1]))
    mean, var = statistics[:2]
    return np.stack([np.full_like(mean, n), mean, np.zeros_like(mean), var * n])


def weighted(x: Array, weights: Array) -> Moments:
    """Return the moments of x, (outer, C, inner), each value with a weight or, if those are a mask, where it is True.

    In NumPy, block by block: of each the mean, then the squares about it. What has no weight counts not even as a NaN.
    """
    moments = np.zeros((4, x.shape[1]))
    for place in _blocks(x.shape):
        w = weights[place].astype(np.float64)
        values = np.where(w > 0.0, x[place], x.dtype.type(0)).astype(np.float64)
        with np.errstate(all="ignore"):
            n = w.sum(axis=(0, 2))
            shift = (w * values).sum(axis=(0, 2)) / n
            deviation = np.where(w > 0.0, values - shift[:, None], 0.0)
            offset = (w * deviation).sum(axis=(0, 2)) / n
            m2 = (w * np.square(deviation - np.where(w > 0.0, offset[:, None], 0.0))).sum(axis=(0, 2))
            mean, rest = _two_sum(shift, offset)
        moments = merge(moments, np.stack([n, mean, np.where(np.isfinite(mean), rest, 0.0), m2]))
    return moments


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    outer, n_channels, inner = shape
    if outer * n_channels * inner == 0:
        return
    length = min(inner, max(1, _AT_ONCE // n_channels))
    rows = max(1, _AT_ONCE // (n_channels * length))
    for o in range(0, outer, rows):
        for i in range(0, inner, length):
            yield slice(o, o + rows), slice(None), slice(i, i + length)


def summary(n: Array, mean: Array, std: Array) -> str:
    """Say in a line what a person wants to know."""
    channels = f"{n.size} channel{'s' if n.size > 1 else ''}"
    if not n.any():
        return f"{channels}, no values"
    return f"{channels}, n = {_span(n)}: mean {_span(mean)}, sd {_span(std)}"


def _span(values: Array) -> str:
    """Give the smallest and the largest value."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "not finite"
    low, high = (f"{v:.0f}" if v % 1 == 0 and abs(v) < 1e15 else f"{v:.3g}" for v in (finite.min(), finite.max()))
    more = "" if finite.size == values.size else f" and {values.size - finite.size} not finite"
    return (low if low == high else f"{low} to {high}") + more


def counted(x: Array, mask: Array | None, weights: Array | None) -> Array:
    """Return mask, weights or their product, of the shape of `x`, after checks."""
    name = "weights" if mask is None else "mask"
    if not _device.on_host(x):
        raise TypeError(f"x is on a GPU, and {name} need it on the host; copy it there, or leave {name} out")
    kept: Array = np.array(True)
    if mask is not None:
        kept = _checks.mask(mask, np.shape(mask), x)
    kept = _broadcast(kept, x.shape, "mask")
    if weights is None:
        return kept
    w = _broadcast(_checks.array(weights, "weights"), x.shape, "weights").astype(np.float64)
    if not (np.isfinite(w) & (w >= 0.0)).all():
        raise ValueError("weights must be finite and not negative; leave a value out with the weight 0 or a mask")
    return np.where(kept, w, 0.0)


def _broadcast(values: Array, shape: tuple[int, ...], name: str) -> Array:
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"{name} must have the shape of x, {shape}, or one that broadcasts to it; got {values.shape}"
        ) from None
