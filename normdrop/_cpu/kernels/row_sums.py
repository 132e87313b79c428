"""Sums of columns: an array in which all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

The array is read as rows of one width, several of its own rows joined where they are narrow; column v of a row
belongs to channel (v // inner) % C, and a last, shorter row may be left over. The sums are sum(a - p) and sum((a - p)
* (b - q)) of each column over blocks of rows: the moments with a = b = x and p = q the block's first row, the
gradients with a = dy, p = 0, b = x, q = mean. Blocks and then the columns of a channel are merged in order, so that
the bits depend on the shape alone. Until then the mean of a block is kept as what it is above the column's first value:
as a number of its own it would lose digits to a mean far from zero.

A workspace has two rows for the sums of each block and four for vectors spread over the columns; the latter go on
periodically beyond the last column, so that a loop over the flat array can read them from any column on. Its rows are
whole vectors, so that only the loads from the array itself must stop at its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.blocks import MAX_ROWS, MIN_ROWS, MIN_WIDTH, ROW_BLOCK
from normdrop._cpu.kernels.arithmetic import centered_lanes, squares_about
from normdrop._cpu.kinds import Grid, Index, Memory, Shape, Table
from normdrop._cpu.lanes.bits import keep
from normdrop._cpu.lanes.memory import element, item_size, load, load_part, pointer, prefetch, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, widen
from normdrop._cpu.lanes.streaming import exceeds_last_level_cache, prefetch_distance
from normdrop._cpu.toolchain.launch import helper
from normdrop._cpu.tuning import ROWS_AT_ONCE, TILE

_SPREAD = 4  # vectors spread over the columns
BEYOND = 4 * LANES  # elements by which they go on


def geometry(shape: Shape) -> Any:
    """Return the grid (elements, width of a row, elements per row of the workspace, rows per block, blocks)."""
    outer, n_channels, inner = shape
    joined = max(1, min(outer, (MIN_WIDTH + n_channels * inner - 1) // (n_channels * inner)))
    width = joined * n_channels * inner
    per_block = min(MAX_ROWS, max(MIN_ROWS, ROW_BLOCK // width))
    n_blocks = max(1, (outer // joined + per_block - 1) // per_block)
    return outer * n_channels * inner, width, (width + BEYOND + LANES - 1) // LANES * LANES, per_block, n_blocks


def workspace_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    _, _, stride, _, n_blocks = geometry(shape)
    return 2 * n_blocks + _SPREAD, stride


def row_width(shape: tuple[int, ...]) -> int:
    """Return the elements of a row."""
    return int(geometry(shape)[1])


grid_of = helper(geometry)


@helper
def n_tiles(grid: Grid) -> Any:
    """Tiles of all blocks."""
    return grid[4] * ((grid[1] + TILE - 1) // TILE)


@helper
def tile_of(grid: Grid, task: Index) -> Any:
    """Task -> tile = (block, first column, end)."""
    width = grid[1]
    n = (width + TILE - 1) // TILE
    start = (task % n) * TILE
    return task // n, start, min(start + TILE, width)


@helper
def _block_rows(grid: Grid, b: Index) -> Any:
    """(rows of block b, columns to which the left-over row adds one)."""
    size, width, _, per_block, n_blocks = grid
    return min(per_block, size // width - b * per_block), size % width if b == n_blocks - 1 else 0


@helper
def _counts(n_rows: Any, left: Index) -> Any:
    """Values in each of 16 columns: one more in the first `left`."""
    more = np.uint16((1 << min(max(left, 0), LANES)) - 1)
    return splat(np.float64(n_rows)) + keep(more, splat(1.0))


@helper
def _rows_ahead(x: Memory, grid: Grid, n_arrays: Index) -> Any:
    """Elements to the rows that are prefetched: the next ones, or further ones where rows are narrow; 0 for none."""
    if not exceeds_last_level_cache(grid[0] * (n_arrays + 1) * item_size(x)):
        return 0
    group = ROWS_AT_ONCE * grid[1]
    return max(1, prefetch_distance(x) // (n_arrays * group)) * group


@helper
def _add_rows(sums: Any, arrays: Any, rows: Any, v: Index, p: Any, q: Any) -> Any:
    """sums = (sum(a - p), sum((a - p) * (b - q))) of 16 columns from v on, and those of rows = (first, number, stride).

    arrays = (a, b); p may be None for zeros.
    """
    (s, t), (a, b) = sums, arrays
    i = rows[0] * rows[2] + v
    for _ in range(rows[1]):
        u = widen(load(a, i))
        if p is not None:
            u = u - widen(load(p, v))
        t += u * (widen(load(b, i)) - widen(load(q, v)))
        s += u
        i += rows[2]
    return s, t


@helper
def _row_sums(sums: Any, arrays: Any, block: Any, p: Any, q: Any) -> None:
    """Add to sums = (s, t) of each column what `_add_rows` does; all are pointers to the first column.

    block = (columns, rows, elements from a row to the next, elements to those that are prefetched).
    """
    (s, t), (a, b) = sums, arrays
    n_columns, n_rows, stride, rows_ahead = block
    rest = n_columns % LANES
    whole = n_columns - rest
    for first in range(0, n_rows, ROWS_AT_ONCE):
        at_once = min(ROWS_AT_ONCE, n_rows - first)
        for v in range(0, whole, LANES):
            if rows_ahead > 0:
                for row in range(first, first + ROWS_AT_ONCE):
                    prefetch(b, row * stride + rows_ahead + v)
                    if p is None:  # else a is b
                        prefetch(a, row * stride + rows_ahead + v)
            if at_once == ROWS_AT_ONCE:  # a constant number of rows, for which there is no loop
                ss, ts = _add_rows((load(s, v), load(t, v)), arrays, (first, ROWS_AT_ONCE, stride), v, p, q)
            else:
                ss, ts = _add_rows((load(s, v), load(t, v)), arrays, (first, at_once, stride), v, p, q)
            store(s, v, ss)
            store(t, v, ts)
        if rest > 0:
            qs = widen(load_part(q, whole, 0, n_columns))
            ss, ts = load(s, whole), load(t, whole)
            i = first * stride + whole
            for _ in range(at_once):
                u = widen(load_part(a, i, i, i + rest))
                if p is not None:
                    u = u - widen(load_part(p, whole, 0, n_columns))
                ts += u * (widen(load_part(b, i, i, i + rest)) - qs)
                ss += u
                i += stride
            store(s, whole, ss)
            store(t, whole, ts)


@helper
def _tile_sums(sums: Any, arrays: Any, places: Any, p: Any, q: Any) -> None:
    """sums = (s, t) of `_row_sums` over a tile's rows and its part of the left-over row; places = (grid, tile)."""
    grid, (b, start, end) = places
    rows_ahead = _rows_ahead(arrays[1], grid, 2 if p is None else 1)
    rows, left = _block_rows(grid, b)
    for v in range(0, end - start, LANES):
        store(sums[0], v, splat(0.0))
        store(sums[1], v, splat(0.0))
    left = min(left, end) - start
    for part in range(2):  # the rows, then the left-over one; one call, so that it is compiled once
        n_columns, n_rows = (end - start, rows) if part == 0 else (left, 1)
        if n_columns > 0:
            i = part * rows * grid[1]
            block = n_columns, n_rows, grid[1], rows_ahead
            _row_sums(sums, (pointer(arrays[0], i), pointer(arrays[1], i)), block, p, q)


@helper
def _tile_places(work: Memory, grid: Grid, tile: Any) -> Any:
    """A tile's first element, and where its sums are in the workspace."""
    b, start, _ = tile
    _, width, stride, per_block, _ = grid
    row = pointer(work, 2 * b * stride + start)
    return b * per_block * width + start, (row, pointer(row, stride))


@helper
def tile_moments(work: Memory, x: Memory, grid: Grid, tile: Any) -> None:
    """work[2b], work[2b + 1] = mean of each column of a tile in block b, less its first x, and squares about it."""
    b, start, end = tile
    first, (s, t) = _tile_places(work, grid, tile)
    rows, left = _block_rows(grid, b)
    shift = pointer(x, first)
    _tile_sums((s, t), (shift, shift), (grid, tile), shift, shift)
    for v in range(0, end - start, LANES):
        offset, m2 = centered_lanes(load(s, v), load(t, v), _counts(rows, left - start - v))
        above = widen(load_part(shift, v, 0, end - start)) - widen(load_part(x, start + v, start, end))
        store(s, v, above + offset)
        store(t, v, m2)


@helper
def tile_gradients(work: Memory, arrays: Any, grid: Grid, tile: Any, mean: Any) -> None:
    """work[2b], work[2b + 1] = sum(dy), sum(dy * (x - mean)) of each column of a tile in block b; arrays = (dy, x)."""
    dy, x = arrays
    first, sums = _tile_places(work, grid, tile)
    _tile_sums(sums, (pointer(dy, first), pointer(x, first)), (grid, tile), None, pointer(mean, tile[1]))


@helper
def _merge_blocks(work: Memory, grid: Grid, columns: Any) -> None:
    """work[0], work[1] = what `tile_moments` gives of columns = (first, end), over all blocks."""
    size, width, stride, _, n_blocks = grid
    if n_blocks == 1:
        return
    for v in range(columns[0], columns[1], LANES):
        first = load(work, v)
        offset, m2 = splat(0.0), splat(0.0)
        for b in range(1, n_blocks):
            rows, left = _block_rows(grid, b)
            offset += (load(work, 2 * b * stride + v) - first) * _counts(rows, left - v)
        mean = first + offset / _counts(size // width, size % width - v)
        for b in range(n_blocks):
            rows, left = _block_rows(grid, b)
            delta = load(work, 2 * b * stride + v) - mean
            m2 += squares_about(load(work, (2 * b + 1) * stride + v), delta, _counts(rows, left - v))
        store(work, v, mean)
        store(work, stride + v, m2)


@helper
def merge_moments(statistics: Table, x: Memory, work: Memory, places: Any, columns: Any) -> None:
    """statistics[0], [1] = mean and variance: merge blocks, then columns; only non-negative terms are added.

    places = (shape, grid). Of all columns, or of columns = (first, end) where each is a channel.
    """
    (outer, n_channels, inner), grid = places
    size, width, stride, _, _ = grid
    n_rows, left, n = size // width, size % width, np.float64(outer * inner)
    _merge_blocks(work, grid, columns)
    if width == n_channels:
        for c in range(columns[0], columns[1], LANES):
            mean = widen(load_part(x, c, 0, n_channels)) + load(work, c)
            store_part(pointer(statistics, 0), c, mean, 0, n_channels)
            store_part(pointer(statistics, n_channels), c, load(work, stride + c) / splat(n), 0, n_channels)
        return
    for c in range(n_channels):
        base, first = element(x, c * inner), element(work, c * inner)
        offset, m2 = 0.0, 0.0
        for start in range(c * inner, width, n_channels * inner):
            for v in range(start, start + inner):
                above = element(x, v) - base + element(work, v)
                offset += (above - first) * np.float64(n_rows + (1 if v < left else 0))
        mean = first + offset / n
        for start in range(c * inner, width, n_channels * inner):
            for v in range(start, start + inner):
                delta = element(x, v) - base + element(work, v) - mean
                m2 += squares_about(element(work, stride + v), delta, np.float64(n_rows + (1 if v < left else 0)))
        statistics[0, c], statistics[1, c] = base + mean, m2 / n


@helper
def merge_gradients(sums: Any, work: Memory, places: Any, statistics: Table, columns: Any) -> None:
    """sums = [sum(dy * x_hat), sum(dy)]: add the sums of blocks, then those of each channel's columns.

    places = (shape, grid); columns as in `merge_moments`.
    """
    (_, n_channels, inner), (_, width, stride, _, n_blocks) = places
    inv_std = pointer(statistics, 2 * n_channels)
    first, end = columns if width == n_channels else (0, n_channels)
    for v in range(columns[0], columns[1], LANES):
        s, t = load(work, v), load(work, stride + v)
        for b in range(1, n_blocks):
            s += load(work, 2 * b * stride + v)
            t += load(work, (2 * b + 1) * stride + v)
        store(work, v, s)
        store(work, stride + v, t)
    for c in range(first, end):
        s, t = 0.0, 0.0
        for start in range(c * inner, width, n_channels * inner):
            for v in range(start, start + inner):
                s += element(work, v)
                t += element(work, stride + v)
        sums[0, c], sums[1, c] = t * element(inv_std, c), s
