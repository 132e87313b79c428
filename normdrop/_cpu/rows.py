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
    AT_ONCE,
    merge_gradients,
    merge_moments,
    n_tiles,
    tile_gradients,
    tile_moments,
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
def _rows_of(chunk: Any, size: Any, width: Any) -> Any:
    """Chunk -> (first element, last element + 1) of whole rows; the last chunk also has what is left over."""
    per_chunk = max(1, _CHUNK // width) * width
    return chunk * per_chunk, min(chunk * per_chunk + per_chunk, size)


@helper
def _n_chunks(size: Any, width: Any) -> Any:
    per_chunk = max(1, _CHUNK // width) * width
    return (size + per_chunk - 1) // per_chunk


@helper
def _normalize_rows(y: Any, x: Any, run: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift per column on run = [start, stop); vectors = (mean, scale, shift)."""
    start, stop = run
    mean, scale, shift = vectors
    width = mean.size
    while start < stop:
        at_once = min(AT_ONCE, (stop - start) // width)  # 0: a left-over row
        n = width if at_once else stop - start
        rows = max(1, at_once)
        whole = n - n % LANES
        for v in range(0, whole, LANES):
            means, scales, shifts = load(mean, v), load(scale, v), load(shift, v)
            i = start + v
            for _ in range(rows):
                store(y, i, normalized(widen(load(x, i)), means, scales, shifts))
                i += width
        for v in range(whole, n):
            i = start + v
            for _ in range(rows):
                y[i] = normalized(np.float64(x[i]), mean[v], scale[v], shift[v])
                i += width
        start += n * rows


@helper
def _gradient_rows(dx: Any, dy: Any, x: Any, run: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` per column on run = [start, stop); vectors = (mean, mean_dy, slope, scale)."""
    start, stop = run
    mean, mean_dy, slope, scale = vectors
    width = mean.size
    while start < stop:
        at_once = min(AT_ONCE, (stop - start) // width)
        n = width if at_once else stop - start
        rows = max(1, at_once)
        whole = n - n % LANES
        for v in range(0, whole, LANES):
            means, means_dy, slopes, scales = load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v)
            i = start + v
            for _ in range(rows):
                value = input_gradient(widen(load(dy, i)), widen(load(x, i)), means, means_dy, slopes, scales)
                store(dx, i, value)
                i += width
        for v in range(whole, n):
            i = start + v
            for _ in range(rows):
                value = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean[v], mean_dy[v], slope[v], scale[v])
                dx[i] = value
                i += width
        start += n * rows


@kernel("VVIP")
def moments(mean: Any, var: Any, x: Any, work: Any) -> None:
    """Mean and biased variance of each channel. Parallel over tiles."""
    flat = x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat, x.shape, task)
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
        _normalize_rows(flat_y, flat_x, _rows_of(chunk, x.size, width), vectors)


@kernel("OIVVvvPf")
def batch_norm(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """Moments and y of each channel. Parallel over tiles, then over chunks of rows."""
    inner, width = x.shape[2], work.shape[1]
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat_x, x.shape, task)
    merge_moments(mean, var, work, x.shape)
    scale = np.empty(mean.size)
    for c in range(mean.size):
        scale[c] = gamma[c] * (1.0 / np.sqrt(var[c] + eps))
    vectors = work[-4], work[-3], work[-2]
    _spread(vectors[0], mean, inner)
    _spread(vectors[1], scale, inner)
    _spread(vectors[2], beta, inner)
    for chunk in prange(_n_chunks(x.size, width)):
        _normalize_rows(flat_y, flat_x, _rows_of(chunk, x.size, width), vectors)


@kernel("PIIvP")
def gradients(sums: Any, dy: Any, x: Any, mean: Any, work: Any) -> None:
    """sums[0], sums[1] = sum(dy), sum(dy * (x - mean)) of each channel. Parallel over tiles."""
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    work[-1] = 0.0
    _spread(work[-2], mean, x.shape[2])
    for task in prange(n_tiles(x.shape)):
        tile_gradients(work, flat_dy, flat_x, x.shape, task)
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
        tile_gradients(work, flat_dy, flat_x, x.shape, task)
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
        _gradient_rows(flat_dx, flat_dy, flat_x, _rows_of(chunk, x.size, width), vectors)
