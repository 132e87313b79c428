"""Which positions of a batch count, and how often: a mask or weights that all channels share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop import _device

Array = npt.NDArray[Any]

OTHERS = ("zero", "normalize", "keep")
SPARE = 16  # places of a mask beyond the last, which kernels read


class Positions(NamedTuple):
    """The places (outer, inner) of an array of shape (outer, C, inner), flat, with `SPARE` more that do not count."""

    mask: Array
    """Which of them count; boolean."""
    weights: Array
    """How often each counts, float32; empty if all that count do so once."""
    n_counted: int
    """How many of them count."""
    first: int
    """The first that counts, if any does."""
    total: float
    """Sum of the weights of those that count."""
    others: str
    """What becomes of the rest: "zero", "normalize" or "keep"."""

    @property
    def n(self) -> float:
        """How many values a channel has: an int, if the weights add up to one."""
        return int(self.total) if self.total == int(self.total) else self.total


def of(mask: Array | None, weights: Array | None, others: str, like: Any) -> Positions:
    """Make it of arrays of positions on the host, where `like` is; either is None or both are of one shape.

    The arrays are copied: callers may change theirs. What has the weight 0 does not count.
    """
    given: Any = weights if mask is None else mask
    flat = np.zeros(given.size + SPARE, np.bool_)
    counted = flat[:-SPARE].reshape(given.shape)
    taken = np.zeros(0 if weights is None else flat.size, np.float32)
    if weights is None:
        counted[...] = given
    else:
        placed = taken[:-SPARE].reshape(given.shape)
        np.greater(weights, 0.0, out=counted)
        if mask is None:
            placed[...] = weights
        else:
            counted &= mask
            np.multiply(weights, counted, out=placed)  # they are finite; a choice would take ten times as long
    count = int(np.count_nonzero(flat))
    total = float(count if weights is None else taken.sum(dtype=np.float64))
    return Positions(_copied(flat, like), _copied(taken, like), count, int(flat.argmax()), total, others)


def _copied(values: Array, like: Any) -> Array:
    """Return the array, or a copy of it on the GPU of `like`."""
    if _device.on_host(like):
        return values
    copy: Array = _device.empty(values.shape, values.dtype, like)
    _device.assign(copy, values)
    return copy
