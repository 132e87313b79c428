"""The statistics of a batch without its normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _device
from normdrop._passes import Reading
from normdrop._positions import Positions
from normdrop.functional import _as_one as as_one
from normdrop.functional import _counted as counted
from normdrop.functional import _per_channel as per_channel
from normdrop.functional import _shared as shared
from normdrop.functional._batch_norm import more_than_one_value

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


class Batch(NamedTuple):
    """What running statistics take of a batch."""

    statistics: Vectors
    """Mean, biased variance and 1 / sqrt(var + eps) of each channel, shape (3, C); NaN if nothing counts."""
    n: float
    """Number of values per channel; with weights, the sum of those."""
    n_shared: int | None
    """The same of a batch that processes share; None: of one that they do not."""


def batch(
    reading: Reading, x: Array, axis: int, positions: Positions | None, eps: float, reduce: Callable[[Any], Any] | None
) -> Batch:
    """Return the statistics of what counts in `x`, which `reading` views, or of the whole that processes share."""
    if reduce is not None:
        shared.check(reduce, x)
        if positions is not None:
            raise ValueError("mask and weights must be None where reduce is given; pass one or the other")
        statistics, n_shared = shared.statistics(x, axis, eps, reduce)
        return Batch(statistics, n_shared, n_shared)
    n_channels = x.shape[axis]
    rows = per_channel.empty(3, n_channels, x)
    if positions is None:
        more_than_one_value(x, n_channels, "batch_norm_inference")
        n: float = x.size // n_channels
        if n:
            _backend.moments(rows, reading.x)
    else:
        counted.more_than_one(positions)
        n = positions.n
        if n:
            _backend.masked_moments(rows, reading.x, positions)
    if not n:
        rows.fill(np.nan)
        return Batch(_device.native(rows), 0, None)
    scale, shift = per_channel.vectors(("gamma", "beta"), (None, None), n_channels, x)
    vectors = per_channel.empty(4, n_channels, x)
    _backend.inference_vectors(vectors, rows[0], rows[1], scale, shift, eps)
    rows[2] = vectors[3]
    return Batch(_device.native(rows), n, None)


def of(
    x: Array,
    axis: as_one.Axes,
    eps: float,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduce: Callable[[Any], Any] | None = None,
) -> Batch:
    """Return the statistics of a batch that was checked, and of as many channels as it should have."""
    x, axis = as_one.merged(x, axis)
    axis %= x.ndim
    reading = Reading(x, axis)
    positions = counted.positions(reading, x.shape, axis, mask, weights, "zero")
    return batch(reading, x, axis, positions, eps, reduce)
