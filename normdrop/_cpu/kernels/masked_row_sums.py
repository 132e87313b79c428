"""Sums of channels in rows of which not all count: those of `normdrop._cpu.kernels.row_sums` otherwise.

`counted` are the numbers of the rows that count, in order; the others are not read, and cost nothing. `weights` say how
often each of them counts, or nothing if that is once. Blocks are those of rows that count. The workspace has, after the
sums of blocks, a row for each vector over the columns, one more than elsewhere, and rows for the blocks' weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.blocks import MAX_ROWS, MIN_ROWS, ROW_BLOCK
from normdrop._cpu.kernels.arithmetic import centered_lanes, squares_about
from normdrop._cpu.kernels.masked_operations import once_each, weight_of
from normdrop._cpu.kernels.row_sums import geometry
from normdrop._cpu.kernels.row_sums import grid_of as grid_of_all
from normdrop._cpu.kernels.row_vectors import channel_rows
from normdrop._cpu.kinds import Grid, Index, Memory, Operation, Shape, Table, Workspace
from normdrop._cpu.lanes.memory import element, load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, widen
from normdrop._cpu.toolchain.launch import helper
from normdrop._cpu.tuning import ROWS_AT_ONCE, TILE

_SPREAD = 5  # vectors spread over the columns


def blocks(grid: Grid, n_channels: Index, n_counted: Index) -> Any:
    """Return a grid of `normdrop._cpu.kernels.row_sums` with blocks of rows that count instead of its own."""
    size, width, stride, _, _ = grid
    per_block = min(MAX_ROWS, max(MIN_ROWS, ROW_BLOCK // n_channels))
    return size, width, stride, per_block, max(1, (n_counted + per_block - 1) // per_block)


def workspace_shape(shape: tuple[int, ...], n_counted: int) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    _, _, stride, _, n_blocks = blocks(geometry(shape), shape[1], n_counted)
    return 2 * n_blocks + _SPREAD + (n_blocks + stride - 1) // stride, stride


_blocks = helper(blocks)


@helper
def grid_of(shape: Shape, n_counted: Index) -> Any:
    """The grid of an array."""
    return _blocks(grid_of_all(shape), shape[1], n_counted)


@helper
def vectors_of(work: Workspace, grid: Grid) -> Any:
    """Where the five vectors are that are spread over the columns."""
    fifth = (pointer(work, (2 * grid[4] + 4) * grid[2]),)
    return channel_rows(work, grid) + fifth


@helper
def _totals(work: Workspace, grid: Grid) -> Any:
    """Where the sums of the blocks' weights are."""
    return pointer(work, (2 * grid[4] + _SPREAD) * grid[2])


@helper
def _tile(grid: Grid, n_channels: Index, task: Index) -> Any:
    """(block, first column, end) of a task."""
    n = (n_channels + TILE - 1) // TILE
    start = task % n * TILE
    return task // n, start, min(start + TILE, n_channels)


@helper
def n_tiles(grid: Grid, n_channels: Index) -> Any:
    """Tiles of all blocks."""
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
def measure(work: Workspace, rows: Any, grid: Grid, weigh: Operation) -> None:
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
        work[2 * grid[4] + _SPREAD + b // grid[2], b % grid[2]] = total


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
def merge_moments(statistics: Table, x: Memory, work: Workspace, grid: Grid, first_row: Index) -> None:
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
    """The same of a task, with weights or without; places = (grid, channels, task)."""
    grid, n_channels, task = places
    if rows[1].size > 0:
        _tile_moments(work, x, rows, (grid, _tile(grid, n_channels, task), n_channels), weight_of)
    else:
        _tile_moments(work, x, rows, (grid, _tile(grid, n_channels, task), n_channels), once_each)


@helper
def gradients_of_task(work: Workspace, inputs: Any, counted: Memory, places: Any, mean: Any) -> None:
    """work[2b], work[2b + 1] = sum(dy), sum(dy * (x - mean)) of each column of a tile; inputs = (dy, x)."""
    grid, n_channels, task = places
    tile = grid, _tile(grid, n_channels, task), n_channels
    _tile_sums(work, inputs, (counted, counted), tile, once_each, None, mean)


@helper
def merge_gradients(sums: Table, statistics: Table, work: Workspace, grid: Grid) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of all blocks."""
    n_channels = sums.shape[1]
    rows, stride = pointer(work, 0), grid[2]
    for v in range(0, n_channels, LANES):
        s, t = splat(0.0), splat(0.0)
        inv_std = load_part(pointer(statistics, 2 * n_channels), v, 0, n_channels)
        for b in range(grid[4]):
            s += load(rows, 2 * b * stride + v)
            t += load(rows, (2 * b + 1) * stride + v)
        store_part(pointer(sums, 0), v, t * inv_std, 0, n_channels)
        store_part(pointer(sums, n_channels), v, s, 0, n_channels)
