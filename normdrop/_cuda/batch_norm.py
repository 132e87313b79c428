"""Batch normalization: the kernels of the second half of a pass, and the launchers. Sums are in `moments`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from normdrop import _formulas
from normdrop._cuda import merging
from normdrop._cuda import moments as sums_of
from normdrop._cuda.arrays import DeviceArray, scratch
from normdrop._cuda.launch import THREADS, cuda, helper, kernel, n_blocks
from normdrop._cuda.memory import as_value, load_quad, store_quad
from normdrop._cuda.tiles import ROWS_PER_THREAD, RUN_PER_THREAD, column_shift, is_aligned, least, plane_shift

_FLOAT64 = np.dtype(np.float64)
_SHORTEST_PLANE = 16  # values; shorter planes are read by rows

normalized = helper(_formulas.normalized)
input_gradient = helper(_formulas.input_gradient)
per_column = sums_of.per_column


@kernel("xxdnnnn")
def _plane_normalize(y: Any, x: Any, vectors: Any, n_channels: Any, inner: Any, shift: Any, aligned: Any) -> None:
    """y = (x - mean) * scale + shift in planes of `inner` elements; tiles as in `tiles`."""
    zero = as_value(x, 0.0)
    run, planes = RUN_PER_THREAD << shift, THREADS >> shift
    n_runs, n_planes = (inner + run - 1) // run, x.size // inner
    for tile in range(cuda.blockIdx.x, (n_planes + planes - 1) // planes * n_runs, cuda.gridDim.x):
        plane = tile // n_runs * planes + (cuda.threadIdx.x >> shift)
        if plane < n_planes:
            c = plane % n_channels
            m, a, b = vectors[c], vectors[n_channels + c], vectors[2 * n_channels + c]
            start = tile % n_runs * run
            stop = plane * inner + least(start + run, inner)
            start += plane * inner + (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
            for i in range(start, stop, 4 << shift):
                v = load_quad(x, i, stop, zero, aligned)
                store_quad(y, i, stop, _normalized(v, (m, m, m, m), (a, a, a, a), (b, b, b, b)), aligned)


@helper
def _normalized(v: Any, m: Any, a: Any, b: Any) -> Any:
    """`normalized` of four."""
    return (
        normalized(v[0], m[0], a[0], b[0]),
        normalized(v[1], m[1], a[1], b[1]),
        normalized(v[2], m[2], a[2], b[2]),
        normalized(v[3], m[3], a[3], b[3]),
    )


@kernel("xxdnnnnn")
def _row_normalize(
    y: Any, x: Any, vectors: Any, n_columns: Any, inner: Any, outer: Any, shift: Any, aligned: Any
) -> None:
    """y = (x - mean) * scale + shift in rows of columns; tiles as in `tiles`."""
    zero = as_value(x, 0.0)
    side, height = 4 << shift, THREADS >> shift
    strips, n_rows = (n_columns + side - 1) // side, height * ROWS_PER_THREAD
    n_channels = n_columns // inner
    for tile in range(cuda.blockIdx.x, (outer + n_rows - 1) // n_rows * strips, cuda.gridDim.x):
        column = tile % strips * side + (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
        row = tile // strips * n_rows
        if column < n_columns:
            m = per_column(vectors, 0, column, n_columns, inner)
            a = per_column(vectors, n_channels, column, n_columns, inner)
            b = per_column(vectors, 2 * n_channels, column, n_columns, inner)
            for r in range(row + (cuda.threadIdx.x >> shift), least(row + n_rows, outer), height):
                i, stop = r * n_columns + column, (r + 1) * n_columns
                store_quad(y, i, stop, _normalized(load_quad(x, i, stop, zero, aligned), m, a, b), aligned)


@helper
def _gradients(u: Any, v: Any, m: Any, d: Any, w: Any, a: Any) -> Any:
    """`input_gradient` of four."""
    return (
        input_gradient(u[0], v[0], m[0], d[0], w[0], a[0]),
        input_gradient(u[1], v[1], m[1], d[1], w[1], a[1]),
        input_gradient(u[2], v[2], m[2], d[2], w[2], a[2]),
        input_gradient(u[3], v[3], m[3], d[3], w[3], a[3]),
    )


@kernel("xxxdnnnn")
def _plane_gradient(
    dx: Any, dy: Any, x: Any, vectors: Any, n_channels: Any, inner: Any, shift: Any, aligned: Any
) -> None:
    """dx from dy and x in planes, vectors = [mean, mean(dy), slope, scale]; tiles as in `tiles`."""
    zero = as_value(x, 0.0)
    run, planes = RUN_PER_THREAD << shift, THREADS >> shift
    n_runs, n_planes = (inner + run - 1) // run, x.size // inner
    for tile in range(cuda.blockIdx.x, (n_planes + planes - 1) // planes * n_runs, cuda.gridDim.x):
        plane = tile // n_runs * planes + (cuda.threadIdx.x >> shift)
        if plane < n_planes:
            c = plane % n_channels
            m, d = vectors[c], vectors[n_channels + c]
            w, a = vectors[2 * n_channels + c], vectors[3 * n_channels + c]
            start = tile % n_runs * run
            stop = plane * inner + least(start + run, inner)
            start += plane * inner + (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
            for i in range(start, stop, 4 << shift):
                u = load_quad(dy, i, stop, zero, aligned)
                v = load_quad(x, i, stop, zero, aligned)
                g = _gradients(u, v, (m, m, m, m), (d, d, d, d), (w, w, w, w), (a, a, a, a))
                store_quad(dx, i, stop, g, aligned)


@kernel("xxxdnnnnn")
def _row_gradient(
    dx: Any, dy: Any, x: Any, vectors: Any, n_columns: Any, inner: Any, outer: Any, shift: Any, aligned: Any
) -> None:
    """dx from dy and x in rows, vectors = [mean, mean(dy), slope, scale]; tiles as in `tiles`."""
    zero = as_value(x, 0.0)
    side, height = 4 << shift, THREADS >> shift
    strips, n_rows = (n_columns + side - 1) // side, height * ROWS_PER_THREAD
    n_channels = n_columns // inner
    for tile in range(cuda.blockIdx.x, (outer + n_rows - 1) // n_rows * strips, cuda.gridDim.x):
        column = tile % strips * side + (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
        row = tile // strips * n_rows
        if column < n_columns:
            m = per_column(vectors, 0, column, n_columns, inner)
            d = per_column(vectors, n_channels, column, n_columns, inner)
            w = per_column(vectors, 2 * n_channels, column, n_columns, inner)
            a = per_column(vectors, 3 * n_channels, column, n_columns, inner)
            for r in range(row + (cuda.threadIdx.x >> shift), least(row + n_rows, outer), height):
                i, stop = r * n_columns + column, (r + 1) * n_columns
                u, v = load_quad(dy, i, stop, zero, aligned), load_quad(x, i, stop, zero, aligned)
                store_quad(dx, i, stop, _gradients(u, v, m, d, w, a), aligned)


class _Plan(NamedTuple):
    """How an array (outer, C, inner) is read; decided once per shape."""

    by_rows: bool
    parts: sums_of.Parts
    shift: int
    """Threads side by side in the second half of a pass, as a power of two."""
    blocks: int
    """Blocks of the second half."""

    @property
    def places(self) -> tuple[int, int, int]:
        """Where the parts of a channel lie."""
        return self.parts.n_parts, self.parts.run, self.parts.stride


@lru_cache(maxsize=1024)
def _plan(shape: tuple[int, int, int]) -> _Plan:
    outer, n_channels, inner = shape
    if inner < _SHORTEST_PLANE and outer * n_channels > 1:
        columns = n_channels * inner
        shift = column_shift(columns)
        blocks = n_blocks(outer, (THREADS >> shift) * ROWS_PER_THREAD) * n_blocks(columns, 4 << shift)
        return _Plan(True, sums_of.row_parts(*shape), shift, blocks)
    shift = plane_shift(inner)
    blocks = n_blocks(outer * n_channels, THREADS >> shift) * n_blocks(inner, RUN_PER_THREAD << shift)
    return _Plan(False, sums_of.plane_parts(*shape), shift, blocks)


def _aligned(by_rows: bool, *arrays: DeviceArray) -> bool:
    _, n_channels, inner = arrays[0].shape
    return is_aligned(n_channels * inner if by_rows else inner, *arrays)


def _merged_moments(
    statistics: DeviceArray, x: DeviceArray, vectors: DeviceArray, affine: DeviceArray, eps: float
) -> None:
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    parts, aligned = plan.parts, _aligned(plan.by_rows, x)
    work = scratch(x, 4 * parts.n_parts * n_channels)
    if plan.by_rows:
        columns = n_channels * inner
        sums_of.row_moments(x.dtype, parts.blocks, work, x, columns, outer, parts.n_rows, parts.shift, aligned)
    else:
        tiling = n_channels, inner, parts.n_rows, parts.length, parts.n_parts, parts.shift
        sums_of.plane_moments(x.dtype, parts.blocks, work, x, *tiling, aligned)
    merging.merge_moments(
        _FLOAT64, n_channels, statistics, vectors, affine, work, n_channels, *plan.places, outer * inner, eps
    )


def _merged_gradients(
    sums: DeviceArray,
    dy: DeviceArray,
    x: DeviceArray,
    statistics: DeviceArray,
    vectors: DeviceArray,
    gamma: DeviceArray,
    n: int,
) -> None:
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    parts, aligned = plan.parts, _aligned(plan.by_rows, x, dy)
    work = scratch(x, 2 * parts.n_parts * n_channels)
    if plan.by_rows:
        shape = n_channels * inner, inner, outer
        sums_of.row_gradients(
            x.dtype, parts.blocks, work, dy, x, statistics, *shape, parts.n_rows, parts.shift, aligned
        )
    else:
        tiling = n_channels, inner, parts.n_rows, parts.length, parts.n_parts, parts.shift
        sums_of.plane_gradients(x.dtype, parts.blocks, work, dy, x, statistics, *tiling, aligned)
    merging.merge_gradients(_FLOAT64, n_channels, sums, vectors, statistics, gamma, work, n_channels, *plan.places, n)


def moments(statistics: DeviceArray, x: DeviceArray) -> None:
    """Fill mean and biased variance of each channel."""
    _merged_moments(statistics, x, statistics, statistics, 0.0)


def normalize(y: DeviceArray, x: DeviceArray, vectors: DeviceArray) -> None:
    """y = (x - mean) * scale + shift per channel."""
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    aligned = _aligned(plan.by_rows, x, y)
    if plan.by_rows:
        _row_normalize(x.dtype, plan.blocks, y, x, vectors, n_channels * inner, inner, outer, plan.shift, aligned)
    else:
        _plane_normalize(x.dtype, plan.blocks, y, x, vectors, n_channels, inner, plan.shift, aligned)


def _rows(like: DeviceArray, *given: DeviceArray) -> DeviceArray:
    """Vectors per channel as rows of one array of float64."""
    rows = like.empty((len(given), given[0].size), _FLOAT64)
    for k, vector in enumerate(given):
        rows[k] = vector
    return rows


def batch_norm(
    y: DeviceArray, x: DeviceArray, statistics: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float
) -> None:
    """Fill the statistics, and y = gamma * (x - mean) / sqrt(var + eps) + beta: three kernels."""
    vectors = scratch(x, 3 * x.shape[1], 1)
    _merged_moments(statistics, x, vectors, _rows(x, gamma, beta), eps)
    normalize(y, x, vectors)


def inference_vectors(
    vectors: DeviceArray, mean: DeviceArray, var: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float
) -> None:
    """Fill in what `normalize` needs, and 1 / sqrt(var + eps)."""
    n_channels = mean.size
    given = _rows(vectors, mean, var, gamma, beta)
    merging.fill_vectors(_FLOAT64, n_blocks(n_channels, THREADS), vectors, given, n_channels, eps)


def parameter_gradients(sums: DeviceArray, dy: DeviceArray, x: DeviceArray, statistics: DeviceArray) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel."""
    _merged_gradients(sums, dy, x, statistics, sums, statistics, 0)


def batch_norm_backward(
    dx: DeviceArray, dy: DeviceArray, x: DeviceArray, sums: DeviceArray, statistics: DeviceArray, gamma: DeviceArray
) -> None:
    """Fill sums = [dgamma, dbeta], and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n): three kernels."""
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    aligned = _aligned(plan.by_rows, x, dy, dx)
    vectors = scratch(x, 4 * n_channels, 1)
    _merged_gradients(sums, dy, x, statistics, vectors, gamma.astype(_FLOAT64), outer * inner)
    if plan.by_rows:
        shape = n_channels * inner, inner, outer
        _row_gradient(x.dtype, plan.blocks, dx, dy, x, vectors, *shape, plan.shift, aligned)
    else:
        _plane_gradient(x.dtype, plan.blocks, dx, dy, x, vectors, n_channels, inner, plan.shift, aligned)


def update_running(
    mean: DeviceArray, var: DeviceArray, statistics: DeviceArray, momentum: float, correction: float
) -> None:
    """running = momentum * running + (1 - momentum) * batch; what has no weight counts not even as a NaN."""
    if momentum < 1.0:
        blocks = n_blocks(mean.size, THREADS)
        merging.update(_FLOAT64, blocks, mean, var, statistics, mean.size, momentum, correction)
