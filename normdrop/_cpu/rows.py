"""Kernels by rows: all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

`normdrop._cpu.row_sums` says how the array is read as rows and what is in the workspace. The element-wise loops go over
the flat array and follow the column, or over strips of wide rows; their vectors are spread over the columns and go on
beyond the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.memory import address, fence, load, load_part, pointer, store_part
from normdrop._cpu.row_sums import (
    BEYOND,
    merge_gradients,
    merge_moments,
    n_tiles,
    tile_gradients,
    tile_moments,
    tile_of,
    width_of,
    workspace_shape,
)
from normdrop._cpu.simd import LANES, widen
from normdrop._cpu.streaming import first_whole, is_long, put, streams

__all__ = ["backward", "batch_norm", "gradients", "moments", "normalize", "workspace_shape"]

_CHUNK = 1 << 14  # elements per task of the element-wise loops, about
_STRIP = 512  # columns whose vectors stay in the first-level cache


@helper
def _spread(row: Any, vector: Any, shape: Any) -> None:
    """row[v] = vector[(v // inner) % C], beyond the last column too."""
    stop = width_of(shape) + BEYOND
    if shape[2] == 1:
        for start in range(0, stop, vector.size):
            for c in range(min(vector.size, stop - start)):
                row[start + c] = vector[c]
        return
    c = 0
    for start in range(0, stop, shape[2]):
        for v in range(start, min(start + shape[2], stop)):
            row[v] = vector[c]
        c = c + 1 if c + 1 < vector.size else 0


@helper
def _wrapped(v: Any, width: Any) -> Any:
    """Column of a column that may lie beyond the last."""
    while v >= width:
        v -= width
    return v


@helper
def _by_strips(y: Any, x: Any, width: Any) -> Any:
    """Whether rows are taken in strips; what is streamed is written in the order of memory."""
    return width > _STRIP and not streams(y, x)


@helper
def _n_tasks(y: Any, x: Any, width: Any) -> Any:
    """Tasks of the element-wise loops: so many elements, or whole rows if those are taken in strips."""
    elements = max(1, _CHUNK // width) * width if _by_strips(y, x, width) else _CHUNK
    return (x.size + elements - 1) // elements


@helper
def _runs(y: Any, x: Any, width: Any, task: Any) -> Any:
    """Task -> (first element, end, elements from a run to the next below it, elements of a run)."""
    if _by_strips(y, x, width):
        elements = max(1, _CHUNK // width) * width
        return task * elements, min(task * elements + elements, x.size), width, _STRIP
    return task * _CHUNK, min(task * _CHUNK + _CHUNK, x.size), _CHUNK, _CHUNK


@helper
def _normalized_at(x: Any, v: Any, vectors: Any) -> Any:
    """y of the 16 columns from v on; vectors = (mean, scale, shift)."""
    mean, scale, shift = vectors
    return normalized(widen(x), load(mean, v), load(scale, v), load(shift, v))


@helper
def _normalize_run(y: Any, x: Any, run: Any, columns: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift on run = (start, stop, whether long runs are streamed); columns = (first, width).

    Four vectors are read before the first of them is written: a load waits for a store before it whose address agrees
    with its own modulo 4096, as happens all the time in a loop over two arrays.
    """
    i, stop = run[0], run[1]
    v, width = columns
    streaming = run[2] and is_long(stop - i)
    head = first_whole(y, i, stop, streaming)
    if head > i:
        store_part(y, i, _normalized_at(load_part(x, i, i, head), v, vectors), i, head)
        v = _wrapped(v + head - i, width)
        i = head
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        put(y, i, _normalized_at(x0, v, vectors), streaming)
        put(y, i + LANES, _normalized_at(x1, v + LANES, vectors), streaming)
        put(y, i + 2 * LANES, _normalized_at(x2, v + 2 * LANES, vectors), streaming)
        put(y, i + 3 * LANES, _normalized_at(x3, v + 3 * LANES, vectors), streaming)
        i += 4 * LANES
        v = _wrapped(v + 4 * LANES, width)
    while i + LANES <= stop:
        put(y, i, _normalized_at(load(x, i), v, vectors), streaming)
        i += LANES
        v = _wrapped(v + LANES, width)
    if i < stop:
        store_part(y, i, _normalized_at(load_part(x, i, i, stop), v, vectors), i, stop)


@helper
def _normalize_task(y: Any, x: Any, task: Any, width: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift per column on a task's elements; vectors = (mean, scale, shift)."""
    first, end, step, length = _runs(y, x, width, task)
    large = streams(y, x)
    for column in range(0, step, length):
        for start in range(first + column, end, step):
            stop = min(start + min(length, step - column), end)
            _normalize_run(pointer(y), pointer(x), (start, stop, large), (start % width, width), vectors)
    fence()


@helper
def _gradient_at(dy: Any, x: Any, v: Any, vectors: Any) -> Any:
    """dx of the 16 columns from v on; vectors = (mean, mean_dy, slope, scale)."""
    mean, mean_dy, slope, scale = vectors
    return input_gradient(widen(dy), widen(x), load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v))


@helper
def _gradient_run(arrays: Any, run: Any, columns: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on a run as of `_normalize_run`; arrays = (dx, dy, x)."""
    dx, dy, x = arrays
    i, stop = run[0], run[1]
    v, width = columns
    streaming = run[2] and is_long(stop - i)
    head = first_whole(dx, i, stop, streaming)
    if head > i:
        d0, x0 = load_part(dy, i, i, head), load_part(x, i, i, head)
        store_part(dx, i, _gradient_at(d0, x0, v, vectors), i, head)
        v = _wrapped(v + head - i, width)
        i = head
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        d0, d1, d2, d3 = load(dy, i), load(dy, i + LANES), load(dy, i + 2 * LANES), load(dy, i + 3 * LANES)
        put(dx, i, _gradient_at(d0, x0, v, vectors), streaming)
        put(dx, i + LANES, _gradient_at(d1, x1, v + LANES, vectors), streaming)
        put(dx, i + 2 * LANES, _gradient_at(d2, x2, v + 2 * LANES, vectors), streaming)
        put(dx, i + 3 * LANES, _gradient_at(d3, x3, v + 3 * LANES, vectors), streaming)
        i += 4 * LANES
        v = _wrapped(v + 4 * LANES, width)
    while i + LANES <= stop:
        put(dx, i, _gradient_at(load(dy, i), load(x, i), v, vectors), streaming)
        i += LANES
        v = _wrapped(v + LANES, width)
    if i < stop:
        d0, x0 = load_part(dy, i, i, stop), load_part(x, i, i, stop)
        store_part(dx, i, _gradient_at(d0, x0, v, vectors), i, stop)


@helper
def _gradient_task(arrays: Any, task: Any, width: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on a task's elements; vectors = (mean, mean_dy, slope, scale)."""
    dx, dy, x = arrays
    first, end, step, length = _runs(dx, x, width, task)
    large = streams(dx, x) and address(dx) != address(dy)
    pointers = pointer(dx), pointer(dy), pointer(x)
    for column in range(0, step, length):
        for start in range(first + column, end, step):
            stop = min(start + min(length, step - column), end)
            _gradient_run(pointers, (start, stop, large), (start % width, width), vectors)
    fence()


@kernel("PIP")
def moments(statistics: Any, x: Any, work: Any) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over tiles."""
    flat = x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat, x.shape, tile_of(x.shape, task))
    merge_moments(statistics, work, x.shape)


@kernel("OIpP")
def normalize(y: Any, x: Any, vectors: Any, work: Any) -> None:
    """y = (x - mean) * scale + shift per channel; vectors = [mean, scale, shift]. Parallel over chunks."""
    spread = work[-4], work[-3], work[-2]
    for k in range(3):
        _spread(spread[k], vectors[k], x.shape)
    width = width_of(x.shape)
    pointers = pointer(spread[0]), pointer(spread[1]), pointer(spread[2])
    for task in prange(_n_tasks(y, x, width)):
        _normalize_task(y, x, task, width, pointers)


@kernel("OIPpPf")
def batch_norm(y: Any, x: Any, statistics: Any, affine: Any, work: Any, eps: Any) -> None:
    """Statistics and y of each channel. Parallel over tiles, then over chunks."""
    flat_x = x.reshape(x.size)
    for task in prange(n_tiles(x.shape)):
        tile_moments(work, flat_x, x.shape, tile_of(x.shape, task))
    merge_moments(statistics, work, x.shape)
    n_channels = x.shape[1]
    scale = work[0, :n_channels]
    for c in range(n_channels):
        statistics[2, c] = 1.0 / np.sqrt(statistics[1, c] + eps)
        scale[c] = affine[0, c] * statistics[2, c]
    spread = work[-4], work[-3], work[-2]
    _spread(spread[0], statistics[0], x.shape)
    _spread(spread[1], scale, x.shape)
    _spread(spread[2], affine[1], x.shape)
    width = width_of(x.shape)
    pointers = pointer(spread[0]), pointer(spread[1]), pointer(spread[2])
    for task in prange(_n_tasks(y, x, width)):
        _normalize_task(y, x, task, width, pointers)


@kernel("PIIpP")
def gradients(sums: Any, dy: Any, x: Any, statistics: Any, work: Any) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel. Parallel over tiles."""
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    _spread(work[-2], statistics[0], x.shape)
    for task in prange(n_tiles(x.shape)):
        tile_gradients(work, flat_dy, flat_x, x.shape, tile_of(x.shape, task))
    merge_gradients(sums, work, x.shape, statistics[2])


@kernel("OIIPpvP")
def backward(dx: Any, dy: Any, x: Any, sums: Any, statistics: Any, gamma: Any, work: Any) -> None:
    """sums of `gradients`, and dx of each channel. Parallel over tiles, then over chunks."""
    n_channels, n = x.shape[1], np.float64(x.shape[0] * x.shape[2])
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    _spread(work[-2], statistics[0], x.shape)
    for task in prange(n_tiles(x.shape)):
        tile_gradients(work, flat_dy, flat_x, x.shape, tile_of(x.shape, task))
    merge_gradients(sums, work, x.shape, statistics[2])
    spread = work[-2], work[-1], work[-3], work[-4]
    vector = work[0, :n_channels]
    for c in range(n_channels):
        vector[c] = sums[1, c] / n
    _spread(spread[1], vector, x.shape)
    for c in range(n_channels):
        vector[c] = sums[0, c] * statistics[2, c] / n
    _spread(spread[2], vector, x.shape)
    for c in range(n_channels):
        vector[c] = gamma[c] * statistics[2, c]
    _spread(spread[3], vector, x.shape)
    width = width_of(x.shape)
    pointers = pointer(spread[0]), pointer(spread[1]), pointer(spread[2]), pointer(spread[3])
    for task in prange(_n_tasks(dx, x, width)):
        _gradient_task((dx, dy, x), task, width, pointers)
