"""Launchers of batch normalization: by planes, in one go or in blocks, or by rows, or by columns of wide rows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import config

from normdrop._cpu import columns, planes, rows
from normdrop._cpu.half import stored
from normdrop._cpu.launch import Kernel, kernel
from normdrop._cpu.scratch import scratch
from normdrop._cpu.simd import LANES
from normdrop._cpu.tuning import CHANNEL_SLAB, PARALLEL_SIZE

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]

_FLOAT64 = np.dtype(np.float64)


Plan: TypeAlias = tuple[Kernel, tuple[int, int]]


def _by_rows(shape: tuple[int, ...]) -> bool:
    """Whether runs are too short for vectors."""
    return shape[2] < LANES and shape[0] * shape[1] > 1


def _in_one_go(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether each channel can be read again from the cache, and there are channels for every thread."""
    outer, n_channels, inner = shape
    if outer * inner * itemsize > CHANNEL_SLAB:
        return False
    return outer * n_channels * inner < PARALLEL_SIZE or n_channels >= 4 * int(config.NUMBA_NUM_THREADS)


def _by_columns(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether the columns of a task can be read again from the cache, and there are some for every thread."""
    outer, n_channels, inner = shape
    if inner > 1 or outer * columns.AT_ONCE * itemsize > CHANNEL_SLAB:
        return False
    return n_channels >= 2 * columns.AT_ONCE * int(config.NUMBA_NUM_THREADS)


@lru_cache(maxsize=1024)
def _plan(name: str, shape: tuple[int, ...], itemsize: int) -> Plan:
    """Kernel and shape of its workspace: decided once per shape."""
    order: Any = rows if _by_rows(shape) else planes
    work = order.workspace_shape(shape)
    if name in ("batch_norm", "backward"):
        if order is planes and not _in_one_go(shape, itemsize):
            name += "_in_blocks"
        if order is rows and _by_columns(shape, itemsize):
            order = columns
    return getattr(order, name), work


def moments(statistics: Vectors, x: Array) -> None:
    """Fill mean and biased variance of each channel."""
    run, work = _plan("moments", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(statistics, stored(x), scratch(work))


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """y = (x - mean) * scale + shift per channel."""
    run, work = _plan("normalize", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(stored(y), stored(x), vectors, scratch(work))


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Fill the statistics, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    run, work = _plan("batch_norm", x.shape, x.itemsize)
    run.variant(x.dtype, x.size, gamma.dtype)(stored(y), stored(x), statistics, gamma, beta, scratch(work), eps)


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel."""
    run, work = _plan("gradients", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(sums, stored(dy), stored(x), statistics, scratch(work))


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """Fill sums = [dgamma, dbeta], and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values each."""
    run, work = _plan("backward", x.shape, x.itemsize)
    variant = run.variant(x.dtype, x.size, gamma.dtype)
    variant(stored(dx), stored(dy), stored(x), sums, statistics, gamma, scratch(work))


@kernel("Pddwwf")
def _inference_vectors(vectors: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: Any) -> None:
    """vectors = [mean, gamma * inv_std, beta, inv_std]. Serial: they are short."""
    for c in range(mean.size):
        inv_std = 1.0 / np.sqrt(var[c] + eps)
        vectors[0, c], vectors[1, c] = mean[c], np.float64(gamma[c]) * inv_std
        vectors[2, c], vectors[3, c] = beta[c], inv_std


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """Fill in what `normalize` needs, and 1 / sqrt(var + eps)."""
    _inference_vectors.variant(_FLOAT64, 0, gamma.dtype)(vectors, mean, var, gamma, beta, eps)


@kernel("oopff")
def _update_running(mean: Any, var: Any, statistics: Any, momentum: Any, correction: Any) -> None:
    """running = momentum * running + (1 - momentum) * batch. Serial."""
    new = 1.0 - momentum
    for c in range(mean.size):
        next_mean, next_var = new * statistics[0, c], new * correction * statistics[1, c]
        if momentum > 0.0:
            next_mean += momentum * mean[c]
            next_var += momentum * var[c]
        mean[c], var[c] = next_mean, next_var


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """running = momentum * running + (1 - momentum) * batch; what has no weight counts not even as a NaN."""
    if momentum < 1.0:
        _update_running.variant(_FLOAT64, 0)(mean, var, statistics, momentum, correction)
