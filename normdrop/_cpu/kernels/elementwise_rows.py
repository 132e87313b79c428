"""The loops of element-wise passes over rows: as those over planes, with vectors of numbers per column.

A run follows flat memory and, for each 16 elements, the columns that they are in. Of wide rows two go side by side: the
vectors of their columns, which no longer fit the first-level cache, are then read once for both. No more than two, for
lines of rows that are 4096 bytes apart take one another's place in that cache, and memory is best written in order.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from normdrop._cpu.kernels.elementwise import Run, write_part
from normdrop._cpu.kinds import Flag, Index, Inputs, Memory, Operation
from normdrop._cpu.lanes.each import load_each
from normdrop._cpu.lanes.memory import CACHE_LINE, item_size
from normdrop._cpu.lanes.simd import LANES, apart
from normdrop._cpu.lanes.streaming import first_whole_line, is_long, store_or_stream
from normdrop._cpu.toolchain.launch import helper, outlined
from normdrop._cpu.tuning import SIDE_BY_SIDE, SIDE_BY_SIDE_STREAMED


class Rows(NamedTuple):
    """Rows: where the first begins, how many, elements from one to the next, whether the result is streamed."""

    start: Index
    n: Index
    width: Index
    streaming: Flag


@helper
def wrapped(v: Index, width: Index) -> Any:
    """Column of a column that may lie beyond the last."""
    while v >= width:
        v -= width
    return v


class Columns(NamedTuple):
    """What operations take after the inputs: vectors over the columns, which go on beyond the last, and constants."""

    vectors: Any
    constants: Any


@helper
def numbers_of(columns: Columns, v: Index) -> Any:
    """The last arguments of an operation, in the 16 columns from v on."""
    return load_each(columns.vectors, v) + columns.constants


@helper
def _of_whole_lines(y: Memory, width: Index) -> Any:
    """Whether all rows of this width begin at one place of a cache line, so that whole lines can be streamed."""
    return width * item_size(y) % CACHE_LINE == 0


@helper
def side_by_side(y: Memory, width: Index, n_vectors: Index, large: Flag) -> Any:
    """Whether rows of this width go side by side, in loops that read so many vectors; large: whether y is streamed."""
    if large:
        return n_vectors * width > SIDE_BY_SIDE_STREAMED and _of_whole_lines(y, width)
    return n_vectors * width > SIDE_BY_SIDE


@cache
def loops_of(operation: Operation) -> Any:
    """Return the loops (write_rows, write_run) of an operation.

    They are made for it: given to a call in machine code, it would be an address, and Numba caches no kernel with one.
    Operations need names of their own.
    """

    def write_run(y: Memory, inputs: Inputs, run: Run, v: Index, width: Index, numbers: Any) -> None:
        """Write a run that begins in column v, across the ends of rows of this width; numbers = `Columns`."""
        apart()
        i, stop = run.start, run.stop
        streaming = run.streaming and is_long(stop - i)
        head = first_whole_line(y, i, stop, streaming)
        if head > i:
            write_part(y, inputs, i, head, operation, numbers_of(numbers, v))
            v = wrapped(v + head - i, width)
            i = head
        while i + 4 * LANES <= stop:
            x0, x1 = load_each(inputs, i), load_each(inputs, i + LANES)
            x2, x3 = load_each(inputs, i + 2 * LANES), load_each(inputs, i + 3 * LANES)
            store_or_stream(y, i, operation(*x0, *numbers_of(numbers, v)), streaming)
            store_or_stream(y, i + LANES, operation(*x1, *numbers_of(numbers, v + LANES)), streaming)
            store_or_stream(y, i + 2 * LANES, operation(*x2, *numbers_of(numbers, v + 2 * LANES)), streaming)
            store_or_stream(y, i + 3 * LANES, operation(*x3, *numbers_of(numbers, v + 3 * LANES)), streaming)
            i += 4 * LANES
            v = wrapped(v + 4 * LANES, width)
        while i + LANES <= stop:
            store_or_stream(y, i, operation(*load_each(inputs, i), *numbers_of(numbers, v)), streaming)
            i += LANES
            v = wrapped(v + LANES, width)
        if i < stop:
            write_part(y, inputs, i, stop, operation, numbers_of(numbers, v))

    def write_rows(y: Memory, inputs: Inputs, rows: Rows, columns: Any, numbers: Any) -> None:
        """Write columns = (first, end) of rows, two rows side by side; numbers = `Columns`."""
        apart()
        first, end = columns
        streaming = rows.streaming and is_long(end - first) and _of_whole_lines(y, rows.width)
        start = first_whole_line(y, rows.start + first, rows.start + end, True) - rows.start if streaming else first
        stop = start + (end - start) // LANES * LANES
        for left, right in ((first, start), (stop, end)):
            if left < right:
                i = rows.start
                for _ in range(rows.n):
                    write_part(y, inputs, i + left, i + right, operation, numbers_of(numbers, left))
                    i += rows.width
        i = rows.start
        for _ in range(rows.n // 2):
            for v in range(start, stop, LANES):
                last = numbers_of(numbers, v)
                y0 = operation(*load_each(inputs, i + v), *last)
                y1 = operation(*load_each(inputs, i + v + rows.width), *last)
                store_or_stream(y, i + v, y0, streaming)
                store_or_stream(y, i + v + rows.width, y1, streaming)
            i += 2 * rows.width
        if rows.n % 2 > 0:
            for v in range(start, stop, LANES):
                store_or_stream(y, i + v, operation(*load_each(inputs, i + v), *numbers_of(numbers, v)), streaming)

    name = operation.__name__
    return outlined(write_rows, name), outlined(write_run, name)
