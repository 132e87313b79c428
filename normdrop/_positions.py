"""Which positions of a batch count, and how often: a mask or weights that all channels share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]

OTHERS = ("zero", "normalize", "keep")
SPARE = 16  # places of a mask beyond the last, which kernels read


class Positions(NamedTuple):
    """The places (outer, inner) of an array of shape (outer, C, inner), flat."""

    mask: Mask
    """Which of them count; `SPARE` places more than there are."""
    weights: Weights
    """How often each counts; empty if all that count do so once."""
    total: float
    """Sum of the weights of those that count."""
    others: str
    """What becomes of the rest: "zero", "normalize" or "keep"."""


def of(mask: Any, weights: Any, others: str) -> Positions:
    """Make it of arrays of shape (outer, inner), `weights` of float32 or None for ones; both are copied."""
    n = mask.size
    places = np.zeros(n + SPARE, np.bool_)
    places[:n] = mask.reshape(-1)
    if weights is None:
        return Positions(places, np.zeros(0, np.float32), float(np.count_nonzero(places)), others)
    taken = np.where(mask, weights, np.float32(0)).reshape(-1)
    return Positions(places, taken, float(taken.sum(dtype=np.float64)), others)
