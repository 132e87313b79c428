"""Launchers of batch normalization: by planes or by rows, and by planes in one go or in blocks."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu import planes, rows
from normdrop._cpu.launch import PARALLEL_SIZE, threads
from normdrop._cpu.simd import LANES

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]

_SLAB = 1 << 22  # bytes of a channel's values that are still in a cache when they are read again


def _by_rows(x: Array) -> bool:
    """Whether the runs of `x` are too short for vectors."""
    return bool(x.shape[2] < LANES and x.shape[0] * x.shape[1] > 1)


def _in_one_go(x: Array) -> bool:
    """Whether each channel can be read again from the cache, and there are channels for every thread."""
    outer, n_channels, inner = x.shape
    if outer * inner * x.itemsize > _SLAB:
        return False
    return x.size < PARALLEL_SIZE or n_channels >= 4 * threads()


def moments(mean: Vector, var: Vector, x: Array) -> None:
    """Fill mean and biased variance of each channel."""
    order: Any = rows if _by_rows(x) else planes
    order.moments(x.dtype, x.size, mean, var, x, order.workspace(x.shape))


def normalize(y: Array, x: Array, mean: Vector, scale: Vector, shift: Vector) -> None:
    """y = (x - mean) * scale + shift per channel."""
    if _by_rows(x):
        rows.normalize(x.dtype, x.size, y, x, mean, scale, shift, rows.workspace(x.shape))
    else:
        planes.normalize(x.dtype, x.size, y, x, mean, scale, shift)


def batch_norm(y: Array, x: Array, mean: Vector, var: Vector, gamma: Vector, beta: Vector, eps: float) -> None:
    """Fill mean and var, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    if _by_rows(x):
        kernel, work = rows.batch_norm, rows.workspace(x.shape)
    else:
        kernel, work = planes.batch_norm if _in_one_go(x) else planes.batch_norm_in_blocks, planes.workspace(x.shape)
    kernel(x.dtype, x.size, y, x, mean, var, gamma, beta, work, eps)


def parameter_gradients(dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector) -> None:
    """dbeta = sum dy, dgamma = sum dy * (x - mean) * inv_std per channel."""
    order: Any = rows if _by_rows(x) else planes
    sums = np.empty((2, mean.size))
    order.gradients(x.dtype, x.size, sums, dy, x, mean, order.workspace(x.shape))
    dbeta[...], dgamma[...] = sums[0], sums[1] * inv_std


def batch_norm_backward(
    dx: Array, dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector, gamma: Vector
) -> None:
    """Fill dgamma and dbeta, and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values per channel."""
    if _by_rows(x):
        kernel, work = rows.backward, rows.workspace(x.shape)
    else:
        kernel, work = planes.backward if _in_one_go(x) else planes.backward_in_blocks, planes.workspace(x.shape)
    sums = np.empty((2, mean.size))
    kernel(x.dtype, x.size, dx, dy, x, mean, inv_std, gamma, sums, work)
    dbeta[...], dgamma[...] = sums[0], sums[1] * inv_std
