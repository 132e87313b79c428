"""What compiled code calls of batch normalization, as `normdrop.numba._loops`: the library's own kernels, serial.

A shape is folded to (outer, C, inner) when it runs, so that the channel axis may be any number. Of an array with two
axes, rows are all that is compiled; of others, planes, too. That other kernels divide the work for threads changes no
bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu import launchers
from normdrop._cpu.kernels import per_channel, plane_sums, planes, row_sums, rows
from normdrop._cpu.kinds import Index, Memory, Real, Shape, Table
from normdrop._cpu.lanes.memory import CACHE_LINE, address
from normdrop._cpu.lanes.simd import apart
from normdrop._cpu.toolchain.launch import helper, outlined
from normdrop.numba._kinds import also_compiled
from normdrop.numba._loops import VERSION, overlap, overlap_partly

for _function in (plane_sums.geometry, row_sums.geometry, plane_sums.workspace_shape, row_sums.workspace_shape):
    also_compiled(_function)
also_compiled(launchers.by_rows)

_row_moments, _plane_moments = helper(rows.moments.function), helper(planes.moments.function)
_row_norm, _plane_norm = helper(rows.batch_norm.function), helper(planes.batch_norm.function)
_row_normalize, _plane_normalize = helper(rows.normalize.function), helper(planes.normalize.function)
_row_backward, _plane_backward = helper(rows.backward.function), helper(planes.backward.function)
_inference_vectors = helper(per_channel.inference_vectors.function)


@helper
def _fold(shape: Shape, axis: Index) -> Any:
    """Shape as (outer, C, inner)."""
    place = axis + len(shape) if axis < 0 else axis
    if place < 0 or place >= len(shape):
        raise ValueError("channel_axis must be an axis of x, from -x.ndim to x.ndim - 1")
    outer, inner = 1, 1
    for k in range(len(shape)):
        if k < place:
            outer *= shape[k]
        elif k > place:
            inner *= shape[k]
    return outer, shape[place], inner


@helper
def n_channels(shape: Shape, axis: Any) -> Any:
    """C of a shape."""
    return _fold(shape, np.int64(axis))[1]


@helper
def _workspace(shape: Any) -> Any:
    """A new float64 array of two axes that begins with a cache line, as `normdrop._cpu.toolchain.scratch` has them."""
    n = shape[0] * shape[1]
    memory = np.empty(n + CACHE_LINE // 8)
    start = -address(memory) % CACHE_LINE // 8
    return memory[start : start + n].reshape(shape)


@helper
def _check_eps(eps: Real) -> None:
    if not 0.0 < eps < np.inf:
        raise ValueError("eps must be positive and finite, for example 1e-5")


@helper
def _check_vectors(y: Memory, gamma: Memory, beta: Memory, n_channels: Index) -> None:
    if gamma.size != n_channels or beta.size != n_channels:
        raise ValueError("gamma and beta must have one value per channel of x")
    if overlap(y, gamma) or overlap(y, beta):
        raise ValueError("y overlaps gamma or beta in memory")


@helper
def _check_result(y: Memory, x: Memory) -> None:
    if y.shape != x.shape:
        raise ValueError("the result must have the shape of x")
    if overlap_partly(y, x):
        raise ValueError("the result overlaps x in memory, without being x")


@helper
def _check_statistics(statistics: Table, n_channels: Index) -> None:
    if statistics.shape[0] != 3 or statistics.shape[1] != n_channels:
        raise ValueError("statistics must have shape (3, C), a column per channel of x")


def _moments(statistics: Table, x: Memory, axis: Index) -> None:
    """statistics[0], [1] = mean and biased variance of each channel."""
    apart()
    shape = _fold(x.shape, axis)
    if x.size == 0:
        statistics[:] = np.nan
        return
    x3 = x.reshape(shape)
    if x.ndim == 2 or launchers.by_rows(shape):
        _row_moments(statistics, x3, _workspace(row_sums.workspace_shape(shape)))
    else:
        _plane_moments(statistics, x3, _workspace(plane_sums.workspace_shape(shape)))


def _norm(y: Memory, statistics: Table, x: Memory, gamma: Memory, beta: Memory, eps: Real, axis: Index) -> None:
    """Statistics, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    apart()
    shape = _fold(x.shape, axis)
    _check_result(y, x)
    _check_statistics(statistics, shape[1])
    _check_vectors(y, gamma, beta, shape[1])
    _check_eps(eps)
    if overlap(statistics, x) or overlap(statistics, y):
        raise ValueError("statistics overlap x or y in memory")
    if x.size == 0:
        statistics[:] = np.nan
        return
    if x.size == shape[1]:
        raise ValueError("x has one value per channel, whose variance is no estimate; use a larger batch")
    x3, y3 = x.reshape(shape), y.reshape(shape)
    if x.ndim == 2 or launchers.by_rows(shape):
        _row_norm(y3, x3, statistics, gamma, beta, _workspace(row_sums.workspace_shape(shape)), eps)
    else:
        _plane_norm(y3, x3, statistics, gamma, beta, _workspace(plane_sums.workspace_shape(shape)), eps)


def _normalize(y: Memory, x: Memory, given: Any, gamma: Memory, beta: Memory, eps: Real, axis: Index) -> None:
    """y = gamma * (x - mean) / sqrt(var + eps) + beta; given = (mean, var)."""
    apart()
    mean, var = given
    shape = _fold(x.shape, axis)
    _check_result(y, x)
    _check_vectors(y, gamma, beta, shape[1])
    _check_vectors(y, mean, var, shape[1])
    _check_eps(eps)
    for c in range(var.size):
        if var[c] < 0:
            raise ValueError("var must not be negative")
    if x.size == 0:
        return
    vectors = np.empty((4, shape[1]))
    _inference_vectors(vectors, mean, var, gamma, beta, eps)
    x3, y3 = x.reshape(shape), y.reshape(shape)
    if x.ndim == 2 or launchers.by_rows(shape):
        _row_normalize(y3, x3, vectors, _workspace(row_sums.workspace_shape(shape)))
    else:
        _plane_normalize(y3, x3, vectors, _workspace((1, 1)))


def _backward(dx: Memory, gradients: Any, dy: Memory, x: Memory, statistics: Table, gamma: Memory, axis: Index) -> None:
    """dx, and gradients = (dgamma, dbeta)."""
    apart()
    dgamma, dbeta = gradients
    shape = _fold(x.shape, axis)
    _check_result(dx, x)
    _check_result(dx, dy)
    _check_statistics(statistics, shape[1])
    _check_vectors(dx, dgamma, dbeta, shape[1])
    _check_vectors(dx, gamma, gamma, shape[1])
    if overlap(dx, statistics):
        raise ValueError("dx overlaps statistics in memory")
    sums = np.zeros((2, shape[1]))
    if x.size > 0:
        x3, dy3, dx3 = x.reshape(shape), dy.reshape(shape), dx.reshape(shape)
        if x.ndim == 2 or launchers.by_rows(shape):
            work = _workspace(row_sums.workspace_shape(shape))
            _row_backward(dx3, dy3, x3, sums, statistics, gamma, work)
        else:
            work = _workspace(plane_sums.workspace_shape(shape))
            _plane_backward(dx3, dy3, x3, sums, statistics, gamma, work)
    for c in range(shape[1]):
        dgamma[c], dbeta[c] = sums[0, c], sums[1, c]


moments, norm = outlined(_moments, VERSION), outlined(_norm, VERSION)
normalize, backward = outlined(_normalize, VERSION), outlined(_backward, VERSION)
