"""Kernels by rows: all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

`normdrop._cpu.row_sums` says how the array is read as rows and what is in the workspace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.row_sums import (
    merge_gradients,
    merge_moments,
    n_tiles,
    tile_gradients,
    tile_moments,
    tile_of,
    workspace,
)
from normdrop._cpu.simd import LANES, load, store, widen

__all__ = ["backward", "batch_norm", "gradients", "moments", "normalize", "workspace"]

_CHUNK = 1 << 14  # elements per task of the element-wise loops


@helper
def _spread(row: Any, vector: Any, inner: Any) -> None:
    """row[v] = vector[(v // inner) % C]."""
    c = 0
    for start in range(0, row.size, inner):
        for v in range(start, start + inner):
            row[v] = vector[c]
        c = c + 1 if c + 1 < vector.size else 0


@helper
def _normalize_rows(y: Any, x: Any, block: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift per column; block = (start, rows, stride), vectors = (mean, scale, shift)."""
    begin, n_rows, stride = block
    mean, scale, shift = vectors
    whole = mean.size - mean.size % LANES
    fours = n_rows - n_rows % 4
    for first in range(0, fours, 4):
        for v in range(0, whole, LANES):
            means, scales, shifts = load(mean, v), load(scale, v), load(shift, v)
            i = begin + first * stride + v
            x0, x1, x2, x3 = load(x, i), load(x, i + stride), load(x, i + 2 * stride), load(x, i + 3 * stride)
            store(y, i, normalized(widen(x0), means, scales, shifts))
            store(y, i + stride, normalized(widen(x1), means, scales, shifts))
            store(y, i + 2 * stride, normalized(widen(x2), means, scales, shifts))
            store(y, i + 3 * stride, normalized(widen(x3), means, scales, shifts))
    for r in range(fours, n_rows):
        for v in range(0, whole, LANES):
            i = begin + r * stride + v
            store(y, i, normalized(widen(load(x, i)), load(mean, v), load(scale, v), load(shift, v)))
    for r in range(n_rows):
        for v in range(whole, mean.size):
            i = begin + r * stride + v
            y[i] = normalized(np.float64(x[i]), mean[v], scale[v], shift[v])


@helper
def _gradient_rows(dx: Any, dy: Any, x: Any, block: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` per column; vectors = (mean, mean_dy, slope, scale)."""
    begin, n_rows, stride = block
    mean, mean_dy, slope, scale = vectors
    whole = mean.size - mean.size % LANES
    fours = n_rows - n_rows % 4
    for first in range(0, fours, 4):
        for v in range(0, whole, LANES):
            means, means_dy, slopes, scales = load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v)
            i = begin + first * stride + v
            x0, x1, x2, x3 = load(x, i), load(x, i + stride), load(x, i + 2 * stride), load(x, i + 3 * stride)
            d0, d1, d2, d3 = load(dy, i), load(dy, i + stride), load(dy, i + 2 * stride), load(dy, i + 3 * stride)
            store(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales))
            store(dx, i + stride, input_gradient(widen(d1), widen(x1), means, means_dy, slopes, scales))
            store(dx, i + 2 * stride, input_gradient(widen(d2), widen(x2), means, means_dy, slopes, scales))
            store(dx, i + 3 * stride, input_gradient(widen(d3), widen(x3), means, means_dy, slopes, scales))
    for r in range(fours, n_rows):
        for v in range(0, whole, LANES):
            i = begin + r * stride + v
            vectors_v = load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v)
            store(dx, i, input_gradient(widen(load(dy, i)), widen(load(x, i)), *vectors_v))
    for r in range(n_rows):
        for v in range(whole, mean.size):
            i = begin + r * stride + v
            dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean[v], mean_dy[v], slope[v], scale[v])


@helper
def _n_chunks(size: Any, width: Any) -> Any:
    """Tasks of the element-wise loops."""
    per_chunk = max(1, _CHUNK // width)
    return max(1, (size // width + per_chunk - 1) // per_chunk)


@helper
def _chunk(chunk: Any, size: Any, width: Any) -> Any:
    """Chunk -> (start, rows, elements of the left-over row after them)."""
    per_chunk = max(1, _CHUNK // width)
    first = chunk * per_chunk
    rows = min(per_chunk, size // width - first)
    return first * width, rows, size % width if first + rows == size // width else 0


@helper
def _normalize_chunk(y: Any, x: Any, chunk: Any, vectors: Any) -> None:
    mean, scale, shift = vectors
    start, rows, left = _chunk(chunk, x.size, mean.size)
    _normalize_rows(y, x, (start, rows, mean.size), vectors)
    if left > 0:
        begin = start + rows * mean.size
        _normalize_rows(y, x, (begin, 1, mean.size), (mean[:left], scale[:left], shift[:left]))


@helper
def _gradient_chunk(dx: Any, dy: Any, x: Any, chunk: Any, vectors: Any) -> None:
    mean, mean_dy, slope, scale = vectors
    start, rows, left = _chunk(chunk, x.size, mean.size)
    _gradient_rows(dx, dy, x, (start, rows, mean.size), vectors)
    if left > 0:
        short = (mean[:left], mean_dy[:left], slope[:left], scale[:left])
        _gradient_rows(dx, dy, x, (start + rows * mean.size, 1, mean.size), short)


@kernel("VVIP")
def moments(mean: Any, var: Any, x: Any, work: Any) -> None:
    """Mean and biased variance of each channel. Parallel over tiles."""
    flat = x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat, x.shape, tile_of(x.shape, task))
    merge_moments(mean, var, work, x.shape)


@kernel("OIvvvP")
def normalize(y: Any, x: Any, mean: Any, scale: Any, shift: Any, work: Any) -> None:
    """y = (x - mean) * scale + shift per channel. Parallel over chunks of rows."""
    inner, width = x.shape[2], work.shape[1]
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    vectors = work[-4], work[-3], work[-2]
    _spread(vectors[0], mean, inner)
    _spread(vectors[1], scale, inner)
    _spread(vectors[2], shift, inner)
    for chunk in prange(_n_chunks(x.size, width)):
        _normalize_chunk(flat_y, flat_x, chunk, vectors)


@kernel("OIVVvvPf")
def batch_norm(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """Moments and y of each channel. Parallel over tiles, then over chunks of rows."""
    inner, width = x.shape[2], work.shape[1]
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat_x, x.shape, tile_of(x.shape, task))
    merge_moments(mean, var, work, x.shape)
    vectors = work[-4], work[-3], work[-2]
    for c in range(mean.size):
        work[0, c] = gamma[c] * (1.0 / np.sqrt(var[c] + eps))
    _spread(vectors[0], mean, inner)
    _spread(vectors[1], work[0, : mean.size], inner)
    _spread(vectors[2], beta, inner)
    for chunk in prange(_n_chunks(x.size, width)):
        _normalize_chunk(flat_y, flat_x, chunk, vectors)


@kernel("PIIvP")
def gradients(sums: Any, dy: Any, x: Any, mean: Any, work: Any) -> None:
    """sums[0], sums[1] = sum(dy), sum(dy * (x - mean)) of each channel. Parallel over tiles."""
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    work[-1] = 0.0
    _spread(work[-2], mean, x.shape[2])
    for task in prange(n_tiles(x.shape)):
        tile_gradients(work, flat_dy, flat_x, x.shape, tile_of(x.shape, task))
    merge_gradients(sums, work, x.shape)


@kernel("OIIvvvPP")
def backward(dx: Any, dy: Any, x: Any, mean: Any, inv_std: Any, gamma: Any, sums: Any, work: Any) -> None:
    """sums of `gradients`, and dx of each channel. Parallel over tiles, then over chunks of rows."""
    inner, width = x.shape[2], work.shape[1]
    n = np.float64(x.shape[0] * inner)
    flat_dx, flat_dy, flat_x = dx.reshape(x.size), dy.reshape(x.size), x.reshape(x.size)
    work[-1] = 0.0
    _spread(work[-2], mean, inner)
    for task in prange(n_tiles(x.shape)):
        tile_gradients(work, flat_dy, flat_x, x.shape, tile_of(x.shape, task))
    merge_gradients(sums, work, x.shape)
    mean_dy, slope, scale = np.empty(mean.size), np.empty(mean.size), np.empty(mean.size)
    for c in range(mean.size):
        mean_dy[c], scale[c] = sums[0, c] / n, gamma[c] * inv_std[c]
        slope[c] = sums[1, c] * inv_std[c] * inv_std[c] / n
    vectors = work[-2], work[-1], work[-3], work[-4]
    _spread(vectors[1], mean_dy, inner)
    _spread(vectors[2], slope, inner)
    _spread(vectors[3], scale, inner)
    for chunk in prange(_n_chunks(x.size, width)):
        _gradient_chunk(flat_dx, flat_dy, flat_x, chunk, vectors)
