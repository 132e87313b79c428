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
from normdrop._cpu.memory import address, load, load_part, pointer, store, store_part
from normdrop._cpu.row_sums import (
    grid_of,
    merge_gradients,
    merge_moments,
    n_tiles,
    tile_gradients,
    tile_moments,
    tile_of,
    workspace_shape,
)
from normdrop._cpu.row_vectors import (
    channel_rows,
    finish_gradients,
    finish_statistics,
    row_part,
    spread,
    spread_means,
)
from normdrop._cpu.simd import LANES, widen
from normdrop._cpu.streaming import fence, first_whole, is_long, put, streams

__all__ = ["backward", "batch_norm", "gradients", "moments", "normalize", "workspace_shape"]

_CHUNK = 1 << 14  # elements per task of the element-wise loops, about
_STRIP = 512  # columns whose vectors stay in the first-level cache


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
def normalize_run(y: Any, x: Any, run: Any, columns: Any, vectors: Any) -> None:
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
            normalize_run(pointer(y, 0), pointer(x, 0), (start, stop, large), (start % width, width), vectors)
    fence()


@helper
def _gradient_at(dy: Any, x: Any, v: Any, vectors: Any) -> Any:
    """dx of the 16 columns from v on; vectors = (mean, mean_dy, slope, scale)."""
    mean, mean_dy, slope, scale = vectors
    return input_gradient(widen(dy), widen(x), load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v))


@helper
def gradient_run(arrays: Any, run: Any, columns: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on a run as of `normalize_run`; arrays = (dx, dy, x)."""
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
    pointers = pointer(dx, 0), pointer(dy, 0), pointer(x, 0)
    for column in range(0, step, length):
        for start in range(first + column, end, step):
            stop = min(start + min(length, step - column), end)
            gradient_run(pointers, (start, stop, large), (start % width, width), vectors)
    fence()


@kernel("PIP")
def moments(statistics: Any, x: Any, work: Any) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over tiles."""
    grid = grid_of(x.shape)
    width = grid[1]
    for task in prange(n_tiles(grid)):
        tile_moments(pointer(work, 0), pointer(x, 0), grid, tile_of(grid, task))
    merge_moments(statistics, pointer(work, 0), x.shape, grid, (0, width))


@kernel("OIpP")
def normalize(y: Any, x: Any, vectors: Any, work: Any) -> None:
    """y = (x - mean) * scale + shift per channel; vectors = [mean, scale, shift]. Parallel over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    mean, scale, shift, _ = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(mean, c, row_part(vectors, 0, c))
        store(scale, c, row_part(vectors, 1, c))
        store(shift, c, row_part(vectors, 2, c))
    spread(work, x.shape, grid, (0, 3))
    for task in prange(_n_tasks(y, x, width)):
        _normalize_task(y, x, task, width, (mean, scale, shift))


@kernel("OIPwwPf")
def batch_norm(y: Any, x: Any, statistics: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """Statistics and y of each channel. Parallel over tiles, then over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    for task in prange(n_tiles(grid)):
        tile_moments(pointer(work, 0), pointer(x, 0), grid, tile_of(grid, task))
    merge_moments(statistics, pointer(work, 0), x.shape, grid, (0, width))
    rows = channel_rows(work, grid)
    finish_statistics(statistics, (gamma, beta), eps, rows, (0, x.shape[1]))
    spread(work, x.shape, grid, (0, 3))
    for task in prange(_n_tasks(y, x, width)):
        _normalize_task(y, x, task, width, (rows[0], rows[1], rows[2]))


@kernel("PIIpP")
def gradients(sums: Any, dy: Any, x: Any, statistics: Any, work: Any) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel. Parallel over tiles."""
    grid = grid_of(x.shape)
    rows = spread_means(work, statistics, x.shape, grid)
    for task in prange(n_tiles(grid)):
        tile_gradients(pointer(work, 0), (pointer(dy, 0), pointer(x, 0)), grid, tile_of(grid, task), rows[0])
    merge_gradients(sums, pointer(work, 0), (x.shape, grid), statistics, (0, grid[1]))


@kernel("OIIPpwP")
def backward(dx: Any, dy: Any, x: Any, sums: Any, statistics: Any, gamma: Any, work: Any) -> None:
    """sums of `gradients`, and dx of each channel. Parallel over tiles, then over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    rows = spread_means(work, statistics, x.shape, grid)
    for task in prange(n_tiles(grid)):
        tile_gradients(pointer(work, 0), (pointer(dy, 0), pointer(x, 0)), grid, tile_of(grid, task), rows[0])
    merge_gradients(sums, pointer(work, 0), (x.shape, grid), statistics, (0, grid[1]))
    finish_gradients(sums, (statistics, gamma), np.float64(x.shape[0] * x.shape[2]), rows, (0, x.shape[1]))
    spread(work, x.shape, grid, (1, 4))
    for task in prange(_n_tasks(dx, x, width)):
        _gradient_task((dx, dy, x), task, width, rows)
