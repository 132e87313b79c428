"""Launchers of batch normalization: by planes or by rows, in one go or in two."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu import planes, rows
from normdrop._cpu.launch import threads
from normdrop._cpu.simd import LANES

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]

_F64 = np.dtype(np.float64)
_SLAB = 1 << 22  # bytes of a channel's values that are still in a cache when they are read again


def _by_rows(x: Array) -> bool:
    """Whether the runs of `x` are too short for vectors."""
    return bool(x.shape[2] < LANES and x.shape[0] * x.shape[1] > 1)


def _in_one_go(x: Array) -> bool:
    """Whether each channel can be read again from the cache, and there are channels for every thread."""
    outer, n_channels, inner = x.shape
    return bool(outer * inner * x.itemsize <= _SLAB and n_channels >= 4 * threads())


def _partial_planes(x: Array) -> Array:
    return np.empty((x.shape[1], 2 * planes.tiling(x.shape)[2]))


def moments(mean: Vector, var: Vector, x: Array) -> None:
    """Fill mean and biased variance of each channel."""
    if not _by_rows(x):
        planes.moments(x.dtype, x.size, mean, var, x, _partial_planes(x))
        return
    order = rows.Rows(x.shape)
    partial = np.empty((2 * order.n_blocks, order.width))
    rows.moments(x.dtype, x.size, partial, x.reshape(-1), order.per_block)
    rows.merge_moments(_F64, 16 * partial.size, mean, var, partial, x.size, x.shape[2], order.per_block)


def normalize(y: Array, x: Array, mean: Vector, scale: Vector, shift: Vector) -> None:
    """y = (x - mean) * scale + shift per channel."""
    if not _by_rows(x):
        planes.normalize(x.dtype, x.size, y, x, mean, scale, shift)
        return
    order = rows.Rows(x.shape)
    vectors = [order.spread(vector) for vector in (mean, scale, shift)]
    rows.normalize(x.dtype, x.size, y.reshape(-1), x.reshape(-1), *vectors, order.per_block)


def batch_norm(y: Array, x: Array, mean: Vector, var: Vector, gamma: Vector, beta: Vector, eps: float) -> None:
    """Fill mean and var, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    if not _by_rows(x) and _in_one_go(x):
        planes.batch_norm(x.dtype, x.size, y, x, mean, var, gamma, beta, _partial_planes(x), eps)
        return
    moments(mean, var, x)
    normalize(y, x, mean, gamma * (1.0 / np.sqrt(var + eps)), beta)


def parameter_gradients(dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector) -> None:
    """dbeta = sum dy, dgamma = sum dy * (x - mean) * inv_std per channel."""
    if not _by_rows(x):
        planes.gradients(x.dtype, x.size, dbeta, dgamma, dy, x, mean, _partial_planes(x))
    else:
        order = rows.Rows(x.shape)
        partial = np.empty((2 * order.n_blocks, order.width))
        vectors = np.zeros(order.width), order.spread(mean)
        rows.gradients(x.dtype, x.size, partial, dy.reshape(-1), x.reshape(-1), *vectors, order.per_block)
        rows.merge_gradients(_F64, 16 * partial.size, dbeta, dgamma, partial, x.shape[2])
    dgamma *= inv_std


def batch_norm_backward(
    dx: Array, dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector, gamma: Vector
) -> None:
    """Fill dgamma and dbeta, and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values per channel."""
    if not _by_rows(x) and _in_one_go(x):
        partial = _partial_planes(x)
        planes.backward(x.dtype, x.size, dx, dy, x, mean, inv_std, gamma, partial)
        dbeta[...], dgamma[...] = partial[:, 0], partial[:, 1] * inv_std
        return
    parameter_gradients(dgamma, dbeta, dy, x, mean, inv_std)
    n = x.shape[0] * x.shape[2]
    vectors = mean, dbeta / n, inv_std * dgamma / n, gamma * inv_std
    if not _by_rows(x):
        planes.input_gradients(x.dtype, x.size, dx, dy, x, *vectors)
        return
    order = rows.Rows(x.shape)
    spread = [order.spread(vector) for vector in vectors]
    rows.input_gradients(x.dtype, x.size, dx.reshape(-1), dy.reshape(-1), x.reshape(-1), *spread, order.per_block)
