"""Kernels by rows of which not all count: arrays (M, C, 1); `normdrop._cpu.kernels.rows` has those in which all do.

`counted` are the numbers of the rows that count, in order; what does not is not read for sums, and costs nothing there.
`weights` say how often each of them counts, or nothing if that is once. Sums are those of
`normdrop._cpu.kernels.row_sums`, over blocks of rows that count; the workspace has, after what it has there, a row for
the sums of the blocks' weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.blocks import MAX_ROWS, MIN_ROWS, ROW_BLOCK
from normdrop._cpu.kernels.arithmetic import centered_lanes, squares_about
from normdrop._cpu.kernels.elementwise import Run
from normdrop._cpu.kernels.elementwise_rows import Columns, loops_of
from normdrop._cpu.kernels.masked_operations import once_each, rescaled, weight_of, weighted_row_gradient
from normdrop._cpu.kernels.operations import gradient
from normdrop._cpu.kernels.operations import normalize as normalized
from normdrop._cpu.kernels.row_sums import geometry
from normdrop._cpu.kernels.row_sums import grid_of as grid_of_all
from normdrop._cpu.kernels.row_vectors import channel_rows, row_part, spread, spread_means
from normdrop._cpu.kinds import Grid, Index, Memory, Operation, Shape, Table, Workspace
from normdrop._cpu.lanes.bits import keep
from normdrop._cpu.lanes.memory import address, element, load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, widen
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN, ROWS_AT_ONCE, TILE

__all__ = ["gradients", "input_gradient", "moments", "normalize", "workspace_shape"]

_, _write_normalized = loops_of(normalized)
_, _write_gradient = loops_of(gradient)
_, _write_weighted = loops_of(weighted_row_gradient)
_, _write_rescaled = loops_of(rescaled)


def blocks(grid: Grid, n_channels: Index, n_counted: Index) -> Any:
    """Return a grid of `normdrop._cpu.kernels.row_sums` with blocks of rows that count instead of its own."""
    size, width, stride, _, _ = grid
    per_block = min(MAX_ROWS, max(MIN_ROWS, ROW_BLOCK // n_channels))
    return size, width, stride, per_block, max(1, (n_counted + per_block - 1) // per_block)


def workspace_shape(shape: tuple[int, ...], n_counted: int) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    _, _, stride, _, n_blocks = blocks(geometry(shape), shape[1], n_counted)
    return 2 * n_blocks + 4 + (n_blocks + stride - 1) // stride, stride


_blocks = helper(blocks)


@helper
def grid_of(shape: Shape, n_counted: Index) -> Any:
    """The grid of an array."""
    return _blocks(grid_of_all(shape), shape[1], n_counted)


@helper
def _totals(work: Workspace, grid: Grid) -> Any:
    """Where the sums of the blocks' weights are."""
    return pointer(work, (2 * grid[4] + 4) * grid[2])


@helper
def _tile(grid: Grid, n_channels: Index, task: Index) -> Any:
    """(block, first column, end) of a task."""
    n = (n_channels + TILE - 1) // TILE
    start = task % n * TILE
    return task // n, start, min(start + TILE, n_channels)


@helper
def _n_tiles(grid: Grid, n_channels: Index) -> Any:
    return grid[4] * ((n_channels + TILE - 1) // TILE)


@helper
def _add(sums: Any, arrays: Any, rows: Any, v: Index, weigh: Operation, p: Any, q: Any) -> Any:
    """Add 16 columns from v on of rows = (counted, weights, first, number, elements of each) to sums.

    sums = (sum(a - p), sum((a - p) * (b - q))), arrays = (a, b); p may be None for zeros.
    """
    (s, t), (a, b) = sums, arrays
    counted, weights, first, n, width = rows
    for row in range(first, first + n):
        i = counted[row] * width + v
        u = widen(load(a, i))
        if p is not None:
            u = u - widen(load(p, v))
        u = u * splat(weigh(weights, row))
        t += u * (widen(load(b, i)) - widen(load(q, v)))
        s += u
    return s, t


@helper
def _add_part(sums: Any, arrays: Any, rows: Any, columns: Any, weigh: Operation, p: Any, q: Any) -> Any:
    """The same for columns [first, end), fewer than 16."""
    (s, t), (a, b) = sums, arrays
    (counted, weights, first, n, width), (v, end) = rows, columns
    for row in range(first, first + n):
        i = counted[row] * width
        u = widen(load_part(a, i + v, i + v, i + end))
        if p is not None:
            u = u - widen(load_part(p, v, v, end))
        u = u * splat(weigh(weights, row))
        t += u * (widen(load_part(b, i + v, i + v, i + end)) - widen(load_part(q, v, v, end)))
        s += u
    return s, t


@helper
def _tile_sums(work: Workspace, arrays: Any, rows: Any, places: Any, weigh: Operation, p: Any, q: Any) -> None:
    """work[2b], work[2b + 1] = the sums of a tile; rows = (counted, weights), places = (grid, tile, channels)."""
    (counted, weights), (grid, (b, start, end), width) = rows, places
    first, stop = b * grid[3], min(b * grid[3] + grid[3], counted.size)
    s, t = pointer(work, 2 * b * grid[2]), pointer(work, (2 * b + 1) * grid[2])
    whole = start + (end - start) // LANES * LANES
    for v in range(start, end, LANES):
        store(s, v, splat(0.0))
        store(t, v, splat(0.0))
    while first < stop:
        n = min(ROWS_AT_ONCE, stop - first)
        for v in range(start, whole, LANES):
            before = load(s, v), load(t, v)
            if n == ROWS_AT_ONCE:  # a constant number of rows, for which there is no loop
                ss, ts = _add(before, arrays, (counted, weights, first, ROWS_AT_ONCE, width), v, weigh, p, q)
            else:
                ss, ts = _add(before, arrays, (counted, weights, first, n, width), v, weigh, p, q)
            store(s, v, ss)
            store(t, v, ts)
        if whole < end:
            before = load(s, whole), load(t, whole)
            ss, ts = _add_part(before, arrays, (counted, weights, first, n, width), (whole, end), weigh, p, q)
            store(s, whole, ss)
            store(t, whole, ts)
        first += n


@helper
def _measured(work: Workspace, rows: Any, grid: Grid, weigh: Operation) -> None:
    """The sums of the blocks' weights."""
    counted, weights = rows
    for b in range(grid[4]):
        first, stop = b * grid[3], min(b * grid[3] + grid[3], counted.size)
        total = 0.0
        if weights.size > 0:
            for row in range(first, stop):
                total += weigh(weights, row)
        else:
            total = np.float64(stop - first)
        work[2 * grid[4] + 4 + b // grid[2], b % grid[2]] = total


@helper
def _tile_moments(work: Workspace, x: Memory, rows: Any, places: Any, weigh: Operation) -> None:
    """work[2b], work[2b + 1] = mean of each column of a tile, less the first row that counts, and squares about it."""
    grid, (b, start, end), width = places
    counted = rows[0]
    shift, base = pointer(x, counted[b * grid[3]] * width), pointer(x, counted[0] * width)
    _tile_sums(work, (x, x), rows, places, weigh, shift, shift)
    s, t = pointer(work, 2 * b * grid[2]), pointer(work, (2 * b + 1) * grid[2])
    n = splat(element(_totals(work, grid), b))
    for v in range(start, end, LANES):
        offset, m2 = centered_lanes(load(s, v), load(t, v), n)
        store(s, v, widen(load_part(shift, v, v, end)) - widen(load_part(base, v, v, end)) + offset)
        store(t, v, m2)


@helper
def _merge(statistics: Table, x: Memory, work: Workspace, grid: Grid, first_row: Index) -> None:
    """statistics[0], [1] = mean and variance of all blocks; only non-negative terms are added."""
    n_channels = statistics.shape[1]
    rows, totals, stride = pointer(work, 0), _totals(work, grid), grid[2]
    base = pointer(x, first_row * n_channels)
    n = 0.0
    for b in range(grid[4]):
        n += element(totals, b)
    for v in range(0, n_channels, LANES):
        first, offset, m2 = load(rows, v), splat(0.0), splat(0.0)
        for b in range(1, grid[4]):
            offset += (load(rows, 2 * b * stride + v) - first) * splat(element(totals, b))
        mean = first + offset / splat(n)
        for b in range(grid[4]):
            delta = load(rows, 2 * b * stride + v) - mean
            m2 += squares_about(load(rows, (2 * b + 1) * stride + v), delta, splat(element(totals, b)))
        store_part(pointer(statistics, 0), v, widen(load_part(base, v, 0, n_channels)) + mean, 0, n_channels)
        store_part(pointer(statistics, n_channels), v, m2 / splat(n), 0, n_channels)


@helper
def moments_of_task(work: Workspace, x: Memory, rows: Any, places: Any) -> None:
    """The same with weights or without; places = (grid, channels, task)."""
    grid, n_channels, task = places
    if rows[1].size > 0:
        _tile_moments(work, x, rows, (grid, _tile(grid, n_channels, task), n_channels), weight_of)
    else:
        _tile_moments(work, x, rows, (grid, _tile(grid, n_channels, task), n_channels), once_each)


@helper
def _write_rest(y: Memory, x: Memory, n: Index, rest: Any) -> None:
    """y = 0, or x if `rest` is all ones."""
    i = 0
    while i + LANES <= n:
        store(y, i, keep(rest, load(x, i)))
        i += LANES
    if i < n:
        store_part(y, i, keep(rest, load_part(x, i, i, n)), i, n)


@helper
def _end_of_run(mask: Memory, row: Index, end: Index) -> Any:
    """The row before which all are like this one in whether they count."""
    stop = row + 1
    while stop < end and mask[stop] == mask[row]:
        stop += 1
    return stop


@helper
def _rows_of_task(shape: Shape, task: Index) -> Any:
    """Rows [first, end) of a task, and how many tasks there are."""
    size = max(1, CHUNK // shape[1])
    return task * size, min(task * size + size, shape[0]), (shape[0] + size - 1) // size


@helper
def _write_rows(y: Memory, x: Memory, mask: Memory, rows: Any, how: Any, vectors: Any) -> None:
    """y of rows [first, end); how = (channels, width of the vectors, whether streamed, what becomes of the rest)."""
    row, end = rows
    n_channels, width, streaming, rest = how
    while row < end:
        stop = _end_of_run(mask, row, end)
        i, n = row * n_channels, (stop - row) * n_channels
        if mask[row]:
            run, numbers = Run(0, n, streaming), Columns(vectors, ())
            _write_normalized(pointer(y, i), (pointer(x, i),), run, i % width, width, numbers)
        else:
            _write_rest(pointer(y, i), pointer(x, i), n, rest)
        row = stop
    fence()


@helper
def _write_gradients(dx: Memory, inputs: Any, places: Any, rows: Any, how: Any, vectors: Any) -> None:
    """dx of rows [first, end); places = (mask, weights of all rows), how as in `_write_rows` and whether scaled."""
    (dy, x), (mask, weights), (row, end) = inputs, places, rows
    n_channels, width, streaming, rest, scaled = how
    while row < end:
        stop = _end_of_run(mask, row, end)
        if mask[row] and weights.size > 0:
            stop = row + 1
        i, n = row * n_channels, (stop - row) * n_channels
        run, two = Run(0, n, streaming), (pointer(dy, i), pointer(x, i))
        if not mask[row] and scaled > 0:
            scales = Columns((vectors[3],), ())
            _write_rescaled(pointer(dx, i), (pointer(dy, i),), run, i % width, width, scales)
        elif not mask[row]:
            _write_rest(pointer(dx, i), pointer(dy, i), n, rest)
        elif weights.size > 0:
            numbers = Columns(vectors, (element(weights, row),))
            _write_weighted(pointer(dx, i), two, run, i % width, width, numbers)
        else:
            _write_gradient(pointer(dx, i), two, run, i % width, width, Columns(vectors, ()))
        row = stop
    fence()


@kernel("PIqsP")
def moments(statistics: Table, x: Memory, counted: Memory, weights: Memory, work: Workspace) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over tiles."""
    grid = grid_of(x.shape, counted.size)
    _measured(work, (counted, weights), grid, weight_of)
    for task in prange(_n_tiles(grid, x.shape[1])):
        moments_of_task(work, pointer(x, 0), (counted, weights), (grid, x.shape[1], task))
    _merge(statistics, pointer(x, 0), work, grid, counted[0])


@kernel("OIpmnP")
def normalize(y: Memory, x: Memory, vectors: Table, mask: Memory, rest: Index, work: Workspace) -> None:
    """y = (x - mean) * scale + shift where it counts, else 0, or x if `rest`. Parallel over rows."""
    grid = grid_of(x.shape, 0)
    rows = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(rows[0], c, row_part(vectors, 0, c))
        store(rows[1], c, row_part(vectors, 1, c))
        store(rows[2], c, row_part(vectors, 2, c))
    spread(work, x.shape, grid, (0, 3))
    large = should_stream(y, x, READ_AGAIN)
    for task in prange(_rows_of_task(x.shape, 0)[2]):
        first, end, _ = _rows_of_task(x.shape, task)
        how = x.shape[1], grid[1], large, np.uint16(rest)
        _write_rows(pointer(y, 0), pointer(x, 0), mask, (first, end), how, (rows[0], rows[1], rows[2]))


@kernel("PIIpqP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, counted: Memory, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel, over what counts. Parallel over tiles."""
    grid = grid_of(x.shape, counted.size)
    n_channels = x.shape[1]
    mean = spread_means(work, statistics, x.shape, grid)[0]
    for task in prange(_n_tiles(grid, n_channels)):
        inputs, places = (pointer(dy, 0), pointer(x, 0)), (grid, _tile(grid, n_channels, task), n_channels)
        _tile_sums(work, inputs, (counted, counted), places, once_each, None, mean)
    for v in range(0, n_channels, LANES):
        s, t = splat(0.0), splat(0.0)
        rows, inv_std = pointer(work, 0), load_part(pointer(statistics, 2 * n_channels), v, 0, n_channels)
        for b in range(grid[4]):
            s += load(rows, 2 * b * grid[2] + v)
            t += load(rows, (2 * b + 1) * grid[2] + v)
        store_part(pointer(sums, 0), v, t * inv_std, 0, n_channels)
        store_part(pointer(sums, n_channels), v, s, 0, n_channels)


@kernel("OIIpmsnnP")
def input_gradient(
    dx: Memory, dy: Memory, x: Memory, vectors: Table, mask: Memory, weights: Memory, rest: Index, scaled: Index,
    work: Workspace,
) -> None:  # fmt: skip
    """dx by vectors = [mean, mean_dy, slope, scale]; weights of all rows. Parallel over rows."""
    grid = grid_of(x.shape, 0)
    rows = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(rows[0], c, row_part(vectors, 0, c))
        store(rows[1], c, row_part(vectors, 1, c))
        store(rows[2], c, row_part(vectors, 2, c))
        store(rows[3], c, row_part(vectors, 3, c))
    spread(work, x.shape, grid, (0, 4))
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for task in prange(_rows_of_task(x.shape, 0)[2]):
        first, end, _ = _rows_of_task(x.shape, task)
        how = x.shape[1], grid[1], large, np.uint16(rest), scaled
        inputs = pointer(dy, 0), pointer(x, 0)
        _write_gradients(pointer(dx, 0), inputs, (mask, weights), (first, end), how, rows)
