"""Statistics without rounding errors worth the name, and data made to break statistics.

The oracle is the two-pass formula on the stored values with `math.fsum`, which rounds each sum once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

VARIANCE_LAW = OUTPUT_LAW = 1e-6
"""What the statistics law promises: relative error of the variance, error of the output over 1 + |y|."""

VARIANCE_BOUND = 1e-9
"""What the block sums give by design: float64 rounding times the values of a block (16384), and a reserve."""

OUTPUT_BOUND = {np.dtype(np.float32): 1e-7, np.dtype(np.float64): 1e-9}
"""An output computed in float64 and rounded once: half a unit in the last place of float32 is 6e-8 of |y|."""

TINY = {"denormals": 1e-100, "sd near the smallest normal": 1e-90}
"""The eps that such data need to be seen at all."""


def exact_moments(values: Array) -> tuple[float, float]:
    """Mean and biased variance of all values, each within a few units in the last place of float64."""
    wide = np.asarray(values, np.float64).reshape(-1)
    mean = math.fsum(wide) / wide.size
    deviation = wide - mean
    rest = math.fsum(deviation) / wide.size
    return mean + rest, math.fsum(deviation * deviation) / wide.size - rest * rest


def exact_channels(x: Array, channel_axis: int) -> tuple[Array, Array]:
    """Mean and biased variance of each channel."""
    channels = np.moveaxis(x, channel_axis, 0)
    return tuple(np.array([exact_moments(channel) for channel in channels]).reshape(-1, 2).T)  # type: ignore[return-value]


def along(vector: Array, ndim: int, channel_axis: int) -> Array:
    """A per-channel vector that broadcasts over an array with these axes."""
    return vector.reshape([-1 if axis == channel_axis % ndim else 1 for axis in range(ndim)])


def exact_output(x: Array, moments: tuple[Array, Array], channel_axis: int, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) in float64."""
    mean, var = (along(vector, x.ndim, channel_axis) for vector in moments)
    return (x.astype(np.float64) - mean) / np.sqrt(var + eps)


def relative_error(computed: Array, exact: Array) -> float:
    """Largest |computed - exact| / |exact|; where exact is 0, computed must be."""
    exact = np.asarray(exact)
    error = np.abs(computed - exact)
    return float(np.max(np.divide(error, np.abs(exact), out=np.where(error == 0, 0.0, np.inf), where=exact != 0)))


def output_error(y: Array, exact: Array) -> float:
    """Largest error of an output over 1 + |y|."""
    return float(np.max(np.abs(y - exact) / (1.0 + np.abs(exact))))


def _normal(mean: float, sd: float) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, n: rng.normal(mean, sd, n)


def _with(values: Callable[[np.random.Generator, int], Array], places: slice, outlier: float) -> Any:
    def make(rng: np.random.Generator, n: int) -> Array:
        made = values(rng, n)
        made[places] = outlier
        return made

    return make


def _zeros(_rng: np.random.Generator, n: int) -> Array:
    return np.zeros(n)


def _full(value: float) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, n: np.full(n, value)


def _clusters(rng: np.random.Generator, n: int) -> Array:
    return np.where(np.arange(n) < n // 2, 0.0, 1e7) + rng.normal(size=n)


HARD: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "mean 300 sd 0.1": _normal(300.0, 0.1),
    "mean 1e4 sd 1": _normal(1e4, 1.0),
    "mean 1e6 sd 1": _normal(1e6, 1.0),
    "mean -1e6 sd 1": _normal(-1e6, 1.0),
    "mean 1e7 sd 1": _normal(1e7, 1.0),
    "sd near the smallest normal": _normal(0.0, 1.2e-38),
    "huge first value": _with(_normal(0.0, 1.0), slice(0, 1), 1e8),
    "large first value": _with(_normal(10.0, 1.0), slice(0, 1), 1e3),
    "huge last value": _with(_normal(0.0, 1.0), slice(-1, None), -1e8),
    "outlier at the start of every block": _with(_normal(1.0, 1.0), slice(None, None, 4096), 1e6),
    "one hot on zeros": _with(_zeros, slice(100, 101), 1.0),
    "one hot on a large mean": _with(_full(1e6), slice(100, 101), 1e6 + 1),
    "two clusters": _clusters,
    "ramp": lambda rng, n: np.arange(n, dtype=np.float64),
    "to the largest float32": lambda rng, n: rng.uniform(-3.4e38, 3.4e38, n),
    "all near the largest float32": lambda rng, n: rng.uniform(3.3e38, 3.4e38, n),
    "denormals": lambda rng, n: rng.integers(0, 100, n) * 1.401298464324817e-45,
}


def hard_rows(name: str, n_rows: int, n_channels: int) -> Array:
    """Hard data as float32 rows (N, C), each channel drawn anew."""
    rng = np.random.default_rng(len(name))
    return np.stack([HARD[name](rng, n_rows) for _ in range(n_channels)], axis=1).astype(np.float32)


def hard_values(name: str, n_rows: int, n_channels: int, dtype: np.dtype[Any], largest: float) -> Array:
    """Hard data as rows of any float dtype; what is beyond the largest value of the dtype is that value."""
    rng = np.random.default_rng(len(name))
    rows = np.stack([HARD[name](rng, n_rows) for _ in range(n_channels)], axis=1)
    return np.clip(rows, -largest, largest).astype(dtype)


def layouts(rows: Array, length: int) -> Iterator[tuple[str, Array, int]]:
    """The same values of each channel, in the same order, in every loop order: (name, x, channel axis)."""
    n_channels = rows.shape[1]
    last = rows.reshape(-1, length, n_channels)
    yield "(N, C)", rows, 1
    yield "(N, L, C)", last, -1
    yield "(N, C, L) in the memory of (N, L, C)", last.transpose(0, 2, 1), 1
    yield "(N, C, L)", np.ascontiguousarray(last.transpose(0, 2, 1)), 1
    yield "(1, C, L)", np.ascontiguousarray(rows.T)[np.newaxis], 1
    yield "(C, N)", np.ascontiguousarray(rows.T), 0
