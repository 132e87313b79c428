"""The statistics of an array, as blocks of `normdrop._merging` and `normdrop._exact`, with a mask or weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _exact, _merging, _positions
from normdrop._passes import Reading

Array: TypeAlias = npt.NDArray[Any]

_AT_ONCE = 1 << 16  # elements of a block of masked or weighted values


def rounded(x: Array, axis: int, mask: Array | None, weights: Array | None) -> _merging.Moments:
    """Return n, mean and squares about it of each channel."""
    n_channels = x.shape[axis]
    n = math.prod(x.shape) // n_channels
    if n == 0:
        return _merging.empty(n_channels)
    reading = Reading(x, axis)
    statistics = _device.empty((3, n_channels), np.float64, x)
    if mask is not None or weights is not None:
        counted = _counted(x, mask, weights)
        if counted.strides[axis] or counted.dtype not in (np.bool_, np.float32):
            return _weighted(reading.x, reading.beside(counted))
        w = reading.positions(counted.take([0], axis))
        marked = counted.dtype == np.bool_
        positions = _positions.of(w if marked else None, None if marked else w, "zero", like=x)
        if positions.total == 0:
            return _merging.empty(n_channels)
        _backend.masked_moments(statistics, reading.x, positions)
        n = positions.total
    else:
        _backend.moments(statistics, reading.x)
    mean, var, _ = _device.to_host(statistics)
    return _merging.of(n, mean, var)


def exact(x: Array, axis: int, mask: Array | None, weights: Array | None) -> _exact.Block:
    """Return the exact sums of each channel; values that a mask leaves out are zeros there."""
    if weights is not None:
        raise ValueError(
            "weights must be None with exact=True: a weighted square has more digits than the sums hold. Pass a mask, "
            "or exact=False."
        )
    n_channels = x.shape[axis]
    grid = _exact.grid_of(x.dtype)
    block = np.zeros((n_channels, 1 + grid.n_columns), np.int64)
    block[:, 0] = math.prod(x.shape) // n_channels
    if mask is not None:
        kept = _counted(x, mask, None)
        block[:, 0] = np.count_nonzero(kept, axis=tuple(k for k in range(x.ndim) if k != axis))
        x = np.where(kept, x, x.dtype.type(0))
    if x.size:
        sums = _device.empty((n_channels, grid.n_columns), np.int64, x)
        _backend.exact_sums(sums, Reading(x, axis).x)
        block[:, 1:] = _device.to_host(sums)
    return block


def _weighted(x: Array, weights: Array) -> _merging.Moments:
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
            mean, rest = _merging.two_sum(shift, offset)
        moments = _merging.merge(moments, np.stack([n, mean, np.where(np.isfinite(mean), rest, 0.0), m2]))
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


def _counted(x: Array, mask: Array | None, weights: Array | None) -> Array:
    """Return mask, weights or their product, of the shape of `x`, after checks."""
    name = "weights" if mask is None else "mask"
    if not _device.on_host(x):
        raise TypeError(f"x is on a GPU, and {name} need it on the host; copy it there, or leave {name} out")
    kept: Array = np.array(True)
    if mask is not None:
        kept = _checks.mask(mask, np.shape(mask), x)
        _broadcast(kept, x.shape, "mask")
    if weights is None:
        return _broadcast(kept, x.shape, "mask")
    w = _checks.array(weights, "weights")
    _broadcast(w, x.shape, "weights")
    if w.size and not (w.min() >= 0.0 and w.max() < np.inf):  # a NaN is neither
        raise ValueError("weights must be finite and not negative; leave a value out with the weight 0 or a mask")
    return _broadcast(w if mask is None else np.where(kept, w, w.dtype.type(0)), x.shape, "weights")


def _broadcast(values: Array, shape: tuple[int, ...], name: str) -> Array:
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"{name} must have the shape of x, {shape}, or one that broadcasts to it; got {values.shape}"
        ) from None
