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


def of(mask: Array, weights: Array | None, others: str, like: Any) -> Positions:
    """Make it of arrays of positions on the host, where `like` is; weights are zero where the mask is False."""
    flat = np.zeros(mask.size + SPARE, np.bool_)
    flat[:-SPARE] = mask.reshape(-1)
    taken = np.zeros(0 if weights is None else flat.size, np.float32)
    count = int(np.count_nonzero(flat))
    total = float(count)
    if weights is not None:
        taken[:-SPARE] = np.where(mask, weights, np.float32(0)).reshape(-1)
        total = float(taken.sum(dtype=np.float64))
    return Positions(_placed(flat, like), _placed(taken, like), count, int(flat.argmax()), total, others)


def _placed(values: Array, like: Any) -> Array:
    """Return the array, or a copy of it on the GPU of `like`."""
    if _device.on_host(like):
        return values
    copy: Array = _device.empty(values.shape, values.dtype, like)
    _device.assign(copy, values)
    return copy
