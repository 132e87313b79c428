"""Quantiles of many arrays that come one after the other: of a few exact, of more by markers.

Markers lie at the minimum, the maximum, the quantiles and half way between them. Each has a height and a rank; with
every array the ranks move on, and a marker whose rank is off by one or more goes to the next rank, along a parabola
through its neighbors or, where that would overtake one, along a line. For one quantile this is
the algorithm as published, which starts from five values instead of 128.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks

Vector: TypeAlias = npt.NDArray[np.float64]

KEPT = 128
"""So many arrays are kept, and their quantiles exact."""
_MOST = 31  # quantiles, so that the markers find places among what was kept


def checked(quantiles: Any) -> tuple[float, ...]:
    """Return the probabilities of the quantiles that are wanted."""
    remedy = "a probability from 0 to 1, such as 0.95"
    given = quantiles if isinstance(quantiles, Iterable) and not isinstance(quantiles, (str, bytes)) else (quantiles,)
    values = tuple(_checks.real(value, "quantiles", remedy) for value in given)
    if not all(0.0 <= value <= 1.0 for value in values) or len(values) > _MOST:
        raise ValueError(f"quantiles must be at most {_MOST}, each {remedy}; got {_checks.kind(quantiles)}")
    return values


class Quantiles:
    """The P² algorithm of Jain and Chlamtac (1985), for several quantiles at once and for all elements of arrays."""

    def __init__(self, probabilities: tuple[float, ...], size: int) -> None:
        self._probabilities = np.array(probabilities, np.float64)
        ends = np.unique([0.0, *probabilities, 1.0])
        self._fractions = np.unique([*ends, *(ends[1:] + ends[:-1]) / 2])
        self._kept = np.empty((KEPT, size))
        self._n = 0
        self._heights = self._ranks = np.empty((0, size))

    def add(self, y: Vector) -> None:
        """Count an array."""
        if self._n == KEPT:
            self._start()
        self._n += 1
        if self._n <= KEPT:
            self._kept[self._n - 1] = y
        else:
            with np.errstate(all="ignore"):  # infinities
                self._move(y)

    def values(self) -> Vector:
        """Return the quantiles, one row for each."""
        if self._n > KEPT:
            rows = self._heights[np.searchsorted(self._fractions, self._probabilities)]
            return np.where(np.isnan(self._heights[0]), np.nan, rows)  # minimum and maximum keep a NaN
        with np.errstate(all="ignore"):
            kept = self._kept[: self._n]  # in which the order is free
            return np.asarray(np.quantile(kept, self._probabilities, axis=0, overwrite_input=True))

    def _start(self) -> None:
        """Take the markers from the arrays that were kept."""
        ranks = np.rint(1 + (KEPT - 1) * self._fractions)
        for i in range(1, len(ranks)):
            ranks[i] = max(ranks[i], ranks[i - 1] + 1)
        for i in reversed(range(len(ranks))):
            ranks[i] = min(ranks[i], KEPT + 1 + i - len(ranks))
        kept, self._kept = self._kept, self._heights
        kept.sort(axis=0)
        self._heights = kept[ranks.astype(np.int64) - 1]
        self._heights[0] = np.where(np.isnan(kept[-1]), np.nan, kept[0])  # NaN are sorted to the end
        self._ranks = np.repeat(ranks[:, np.newaxis], kept.shape[1], axis=1)

    def _move(self, y: Vector) -> None:
        q, ranks = self._heights, self._ranks
        np.minimum(q[0], y, out=q[0])
        np.maximum(q[-1], y, out=q[-1])
        ranks[1:-1] += y < q[1:-1]
        ranks[-1] += 1
        for i in range(1, len(q) - 1):
            off = 1 + (self._n - 1) * self._fractions[i] - ranks[i]
            above, below = ranks[i + 1] - ranks[i], ranks[i] - ranks[i - 1]
            step = 1.0 * ((off >= 1) & (above > 1)) - ((off <= -1) & (below > 1))
            rise, fall = (q[i + 1] - q[i]) / above, (q[i] - q[i - 1]) / below
            parabola = q[i] + step / (above + below) * ((below + step) * rise + (above - step) * fall)
            line = q[i] + np.where(step > 0, rise, -fall)
            inside = (q[i - 1] < parabola) & (parabola < q[i + 1])
            q[i] = np.where(step == 0, q[i], np.where(inside, parabola, line))
            ranks[i] += step
