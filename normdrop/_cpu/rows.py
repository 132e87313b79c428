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
from normdrop._cpu.simd import LANES, address, fence, load, widen
from normdrop._cpu.streaming import put, streams

__all__ = ["backward", "batch_norm", "gradients", "moments", "normalize", "workspace"]

_CHUNK = 1 << 14  # elements per task of the element-wise loops
_STRIP = 256  # columns whose vectors stay in the first-level cache


@helper
def _spread(row: Any, vector: Any, inner: Any) -> None:
    """row[v] = vector[(v // inner) % C]."""
    if row.size == vector.size:
        row[:] = vector
        return
    c = 0
    for start in range(0, row.size, inner):
        for v in range(start, start + inner):
            row[v] = vector[c]
        c = c + 1 if c + 1 < vector.size else 0


@helper
def _normalized_at(x: Any, v: Any, vectors: Any) -> Any:
    """y of the 16 columns from v on; vectors = (mean, scale, shift)."""
    mean, scale, shift = vectors
    return normalized(widen(x), load(mean, v), load(scale, v), load(shift, v))


@helper
def _normalize_rows(y: Any, x: Any, block: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift per column; block = (start, rows, stride).

    Four vectors are read before the first of them is written: a load waits for a store before it whose address agrees
    with its own modulo 4096, as happens all the time in a loop over two arrays.
    """
    begin, n_rows, stride = block
    mean, scale, shift = vectors
    streaming = streams(y, x, begin, stride)
    for start in range(begin, begin + n_rows * stride, stride):
        v = 0
        while v + 4 * LANES <= mean.size:
            i = start + v
            x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
            put(y, i, _normalized_at(x0, v, vectors), streaming)
            put(y, i + LANES, _normalized_at(x1, v + LANES, vectors), streaming)
            put(y, i + 2 * LANES, _normalized_at(x2, v + 2 * LANES, vectors), streaming)
            put(y, i + 3 * LANES, _normalized_at(x3, v + 3 * LANES, vectors), streaming)
            v += 4 * LANES
        while v + LANES <= mean.size:
            put(y, start + v, _normalized_at(load(x, start + v), v, vectors), streaming)
            v += LANES
        while v < mean.size:
            y[start + v] = normalized(np.float64(x[start + v]), mean[v], scale[v], shift[v])
            v += 1


@helper
def _gradient_at(dy: Any, x: Any, v: Any, vectors: Any) -> Any:
    """dx of the 16 columns from v on; vectors = (mean, mean_dy, slope, scale)."""
    mean, mean_dy, slope, scale = vectors
    return input_gradient(widen(dy), widen(x), load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v))


@helper
def _gradient_rows(dx: Any, dy: Any, x: Any, block: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` per column; block = (start, rows, stride)."""
    begin, n_rows, stride = block
    mean, mean_dy, slope, scale = vectors
    streaming = streams(dx, x, begin, stride) and address(dx) != address(dy)
    for start in range(begin, begin + n_rows * stride, stride):
        v = 0
        while v + 4 * LANES <= mean.size:
            i = start + v
            x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
            d0, d1, d2, d3 = load(dy, i), load(dy, i + LANES), load(dy, i + 2 * LANES), load(dy, i + 3 * LANES)
            put(dx, i, _gradient_at(d0, x0, v, vectors), streaming)
            put(dx, i + LANES, _gradient_at(d1, x1, v + LANES, vectors), streaming)
            put(dx, i + 2 * LANES, _gradient_at(d2, x2, v + 2 * LANES, vectors), streaming)
            put(dx, i + 3 * LANES, _gradient_at(d3, x3, v + 3 * LANES, vectors), streaming)
            v += 4 * LANES
        while v + LANES <= mean.size:
            i = start + v
            put(dx, i, _gradient_at(load(dy, i), load(x, i), v, vectors), streaming)
            v += LANES
        while v < mean.size:
            i = start + v
            dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean[v], mean_dy[v], slope[v], scale[v])
            v += 1


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
    for v in range(0, mean.size, _STRIP):
        end = min(v + _STRIP, mean.size)
        _normalize_rows(y, x, (start + v, rows, mean.size), (mean[v:end], scale[v:end], shift[v:end]))
    if left > 0:
        begin = start + rows * mean.size
        _normalize_rows(y, x, (begin, 1, mean.size), (mean[:left], scale[:left], shift[:left]))
    fence()


@helper
def _gradient_chunk(dx: Any, dy: Any, x: Any, chunk: Any, vectors: Any) -> None:
    mean, mean_dy, slope, scale = vectors
    start, rows, left = _chunk(chunk, x.size, mean.size)
    for v in range(0, mean.size, _STRIP):
        end = min(v + _STRIP, mean.size)
        strip = (mean[v:end], mean_dy[v:end], slope[v:end], scale[v:end])
        _gradient_rows(dx, dy, x, (start + v, rows, mean.size), strip)
    if left > 0:
        short = (mean[:left], mean_dy[:left], slope[:left], scale[:left])
        _gradient_rows(dx, dy, x, (start + rows * mean.size, 1, mean.size), short)
    fence()


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
