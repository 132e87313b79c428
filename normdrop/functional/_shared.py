"""Batch normalization of a batch whose parts several processes hold; what `reduce` adds over them is all they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _formulas
from normdrop._passes import Pass, Reading
from normdrop.statistics import ChannelStatistics

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]
Reduce: TypeAlias = Callable[[Any], Any]


def check(reduce: object, x: Array) -> None:
    """Check that `reduce` can be called, with what is on the host."""
    if not callable(reduce):
        raise TypeError(f"reduce must be callable, and return the sum over all processes; got {_checks.kind(reduce)}")
    if not _device.on_host(x):
        raise TypeError("reduce needs x on the host, and x is on a GPU; copy it there, or leave reduce out")


def statistics(x: Array, axis: int, eps: float, reduce: Reduce) -> tuple[Vectors, int]:
    """Return mean, variance and 1 / sqrt(variance + eps) of the whole batch, and its number of values per channel."""
    part = ChannelStatistics.of(x, axis)
    whole = reduce(part)
    if not isinstance(whole, ChannelStatistics):
        raise TypeError(f"reduce must return the ChannelStatistics of all processes; got {_checks.kind(whole)}")
    if whole.num_channels != part.num_channels or (whole.n != whole.n[0]).any() or whole.n[0] < part.n[0]:
        raise ValueError(
            f"reduce must return the sum over all processes of {part!r}; got {whole!r}. Give every process the same "
            "number of channels."
        )
    n = int(whole.n[0])
    if n == 1:
        raise ValueError(
            "x has one value per channel in all processes together, whose variance is no estimate; use a larger batch "
            "or batch_norm_inference with running statistics"
        )
    return np.stack([whole.mean, whole.var(), whole.inv_std(eps)]), n


def normalize(walk: Pass, rows: Vectors, scale: Array, shift: Array) -> None:
    """Write y of this process's part by the statistics of the whole."""
    mean, _, inv_std = rows
    if walk.x.size:
        _backend.normalize(walk.y, walk.x, np.stack([mean, scale * inv_std, shift]).astype(np.float64, copy=False))


def sums(dy: Array, reading: Reading, rows: Vectors, n: int, reduce: Reduce) -> Vectors:
    """Return the sums of dy * x_hat and of dy over the whole batch of n values per channel."""
    x = reading.x
    part = np.zeros((3, x.shape[1]))
    part[2] = x.shape[0] * x.shape[2]
    if x.size:
        _backend.parameter_gradients(part[:2], reading.beside(dy), x, rows)
    whole = reduce(part)
    if not isinstance(whole, np.ndarray) or whole.dtype != np.float64:
        kind = whole.dtype if isinstance(whole, np.ndarray) else _checks.kind(whole)
        raise TypeError(f"reduce must return the float64 array that is the sum over all processes; got {kind}")
    if whole.shape != part.shape or (whole[2] != n).any():
        counts = whole[2, 0] if whole.shape == part.shape else f"shape {whole.shape}"
        raise ValueError(
            f"reduce must return the sum over all processes, of {n} values per channel as in the forward pass; got "
            f"{counts}. Let every process go backward through the passes that it went forward, in the same order."
        )
    return np.ascontiguousarray(whole[:2])


def input_gradient(walk: Pass, dy: Array, rows: Vectors, whole: Vectors, scale: Array, n: int) -> None:
    """Write dx of this process's part by the sums of the whole."""
    mean, _, inv_std = rows
    if walk.x.size:
        slope = _formulas.slope(whole[0], inv_std, n)
        vectors = np.stack([mean, whole[1] / n, slope, scale * inv_std]).astype(np.float64, copy=False)
        _backend.input_gradient(walk.y, walk.beside(dy), walk.x, vectors)
