"""The sums of `normdrop._cpu.kernels.exact_sums` in vectors of float64, without rounding, for float32 and shorter ones.

Where the values of a lane are finite and within some binary orders of each other, float64 holds the sum of some hundred
of them. Of their squares, which have twice as many digits, it holds the sum of the upper parts, multiples of one power
of two, and that of the lower parts. Such sums go into the limbs as values do. A lane of a block whose values are not so
near each other, as where one is a NaN or almost zero, is added one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.exact_sums import add, carry, clear, deposit, merge, part_of
from normdrop._cpu.kinds import Grid, Index, Memory, Shape, Table
from normdrop._cpu.lanes.magnitudes import NONE, greatest, lane, least, magnitude, splitter, within
from normdrop._cpu.lanes.memory import element, load, load_part, pointer
from normdrop._cpu.lanes.simd import LANES, splat, widen
from normdrop._cpu.toolchain.launch import helper, kernel

VALUES = 1 << 8  # of a lane, between deposits
ORDERS = 21  # binary orders between them
NARROW = 8 * LANES  # columns from which the lanes of a last vector may be idle


@helper
def _range_of(x: Memory, block: Any) -> Any:
    """(least, greatest magnitude) in each lane; block = (first element, rows, their distance, values of a row)."""
    start, n_rows, stride, length = block
    low, high = splat(NONE), splat(np.uint32(0))
    for row in range(n_rows):
        i = start + row * stride
        stop = i + length
        while i + LANES <= stop:
            m = magnitude(load(x, i))
            low, high = least(low, m), greatest(high, m)
            i += LANES
        if i < stop:
            m = magnitude(load_part(x, i, i, stop))
            low, high = least(low, m), greatest(high, m)
    return low, high


@helper
def _lane_sums(x: Memory, block: Any, split: Any) -> Any:
    """Sums of the values in each lane, and of the upper and lower parts of their squares; `block` as of `_range_of`."""
    start, n_rows, stride, length = block
    s, upper, lower = splat(0.0), splat(0.0), splat(0.0)
    for row in range(n_rows):
        i = start + row * stride
        stop = i + length
        while i + LANES <= stop:
            value = widen(load(x, i))
            square = value * value
            part = (square + split) - split
            s += value
            upper += part
            lower += square - part
            i += LANES
        if i < stop:
            value = widen(load_part(x, i, i, stop))
            square = value * value
            part = (square + split) - split
            s += value
            upper += part
            lower += square - part
    return s, upper, lower


@helper
def _add_block(sums: Table, x: Memory, block: Any, columns: Any, grid: Grid) -> None:
    """Add a block to its channels, that of lane k being first + (column + k * step) // inner % n_channels.

    columns = (first, column, step, inner, n_channels).
    """
    unit, n, _, _ = grid
    start, n_rows, stride, length = block
    first, column, step, inner, n_channels = columns
    low, high = _range_of(x, block)
    near = within(low, high, ORDERS)
    s, upper, lower = _lane_sums(x, block, splitter(high))
    for k in range(min(LANES, length)):
        channel = first + (column + k * step) // inner % n_channels
        if (near >> k) & 1:
            deposit(sums, channel, 0, lane(s, k), unit)
            deposit(sums, channel, n, lane(upper, k), 2 * unit)
            deposit(sums, channel, n, lane(lower, k), 2 * unit)
        else:
            for row in range(n_rows):
                for i in range(start + row * stride + k, start + row * stride + length, LANES):
                    add(sums, channel, element(x, i), grid)


@helper
def _add_rows(sums: Table, x: Memory, rows: Any, places: Any, grid: Grid) -> None:
    """Add rows = (first element, number, width), of which every column belongs to one channel.

    places = (first row of sums, channels, inner).
    """
    start, n_rows, width = rows
    first, n_channels, inner = places
    for column in range(0, width, LANES):
        block = start + column, n_rows, width, min(LANES, width - column)
        _add_block(sums, x, block, (first, column, 1, inner, n_channels), grid)


@helper
def _sums_by_rows(sums: Table, x: Memory, shape: Shape, part: Any, how: Any) -> None:
    """Fill the rows of a part as `_sums_by_runs`, where runs are shorter than vectors; narrow rows are joined."""
    _, n_channels, inner = shape
    o_first, o_end, _, _ = part
    first, grid, carry_after = how
    size = n_channels * inner
    joined = 1
    while joined * size % LANES > 0 and joined * size < NARROW:
        joined *= 2
    done = 0
    o = o_first
    while o < o_end:
        n_rows = min((o_end - o) // joined, VALUES)
        if n_rows == 0:  # what is left over makes one shorter row
            n_rows, joined = 1, o_end - o
        _add_rows(sums, x, (o * size, n_rows, joined * size), (first, n_channels, inner), grid)
        o += n_rows * joined
        done += n_rows * joined * inner
        if done >= carry_after or o == o_end:
            done = 0
            for c in range(first, first + n_channels):
                carry(sums, c, grid)


@helper
def _sums_by_runs(sums: Table, x: Memory, shape: Shape, part: Any, how: Any) -> None:
    """Fill the rows of a part from `first` on; how = (first, grid, values after which carries go on)."""
    _, n_channels, inner = shape
    o_first, o_end, i_first, i_end = part
    first, grid, carry_after = how
    length = max(1, min(i_end - i_first, VALUES * LANES))
    at_once = VALUES // ((length + LANES - 1) // LANES)
    done = 0
    for o in range(o_first, o_end, at_once):
        n_rows = min(at_once, o_end - o)
        for i in range(i_first, i_end, length):
            for c in range(n_channels):
                block = (o * n_channels + c) * inner + i, n_rows, n_channels * inner, min(length, i_end - i)
                _add_block(sums, x, block, (first, c, 0, 1, n_channels), grid)
            done += n_rows * length
            if done >= carry_after:
                done = 0
                for c in range(first, first + n_channels):
                    carry(sums, c, grid)
    for c in range(first, first + n_channels):
        carry(sums, c, grid)


@kernel("LILnnnn")
def exact_sums_in_lanes(
    sums: Table, x: Memory, work: Table, unit: Index, n: Index, n_squares: Index, carry_after: Index
) -> None:
    """Fill sums of each channel as `exact_sums` does, on the narrow grid. Parallel over parts."""
    outer, n_channels, inner = x.shape
    n_parts = work.shape[0] // n_channels
    grid = unit, n, n_squares, False
    for p in prange(n_parts):
        first = p * n_channels
        clear(work, (first, first + n_channels))
        if inner < LANES:
            part = p * outer // n_parts, (p + 1) * outer // n_parts, np.int64(0), inner
            _sums_by_rows(work, pointer(x, 0), x.shape, part, (first, grid, carry_after))
        else:
            part = part_of(p, n_parts, x.shape)
            _sums_by_runs(work, pointer(x, 0), x.shape, part, (first, grid, carry_after))
    merge(sums, work, grid)
