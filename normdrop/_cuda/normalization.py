"""Batch normalization: the kernels of the second half of a pass. Sums are in `moments`."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop import _formulas
from normdrop._cuda import moments as sums_of
from normdrop._cuda.launch import THREADS, cuda, helper, kernel
from normdrop._cuda.memory import as_value, load_quad, store_quad
from normdrop._cuda.tiles import ROWS_PER_THREAD, RUN_PER_THREAD, least

_FLOAT64 = np.dtype(np.float64)
_SHORTEST_PLANE = 16  # values; shorter planes are read by rows

normalized = helper(_formulas.normalized)
input_gradient = helper(_formulas.input_gradient)
per_column = sums_of.per_column


@kernel("xxdnnnn")
def plane_normalize(y: Any, x: Any, vectors: Any, n_channels: Any, inner: Any, shift: Any, aligned: Any) -> None:
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
def row_normalize(
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
def plane_gradient(
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
def row_gradient(
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
