"""The loops of element-wise passes over rows of which not all count.

Rows are written as one run of memory, in whole vectors, so that they can be streamed whatever counts. Rows that are
alike lie in a stretch: those that do not count, or count once, or a single row with a weight. A vector inside is
computed by one decision; one across the end of a stretch by those of its lanes. Operations are those of
`normdrop._cpu.kernels.masked_operations`, the numbers vectors over the columns as in
`normdrop._cpu.kernels.elementwise_rows`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from normdrop._cpu.kernels.elementwise_rows import Columns, numbers_of, wrapped
from normdrop._cpu.kernels.masked_operations import once_each, weight_of
from normdrop._cpu.kinds import Flag, Index, Inputs, Lanes, Memory, Operation
from normdrop._cpu.lanes.bits import choose, load_bits
from normdrop._cpu.lanes.each import load_each, load_first_each
from normdrop._cpu.lanes.memory import store_part
from normdrop._cpu.lanes.simd import LANES, apart, splat
from normdrop._cpu.lanes.streaming import first_whole_line, is_long, store_or_stream
from normdrop._cpu.toolchain.launch import helper, outlined

_ALL, _NONE = np.uint16(0xFFFF), np.uint16(0)


class Stack(NamedTuple):
    """Rows one after the other: how many, elements of each, whether streamed, whether the others are read.

    The first begins in column v of vectors of `width` columns.
    """

    n: Index
    n_channels: Index
    streaming: Flag
    others_are_read: Flag
    v: Index
    width: Index


@helper
def _counts(mask: Memory, row: Index) -> Any:
    """Whether a row counts; a mask goes on beyond the last."""
    return load_bits(mask, row) & np.uint16(1) > 0


@helper
def _end_of_stretch(mask: Memory, row: Index, n: Index, weighted: Flag) -> Any:
    """The row before which all are like this one."""
    counts, stop = _counts(mask, row), row + 1
    if weighted and counts:
        return stop
    while stop < n and _counts(mask, stop) == counts:
        stop += 1
    return stop


@helper
def _of_lanes(mask: Memory, weights: Memory, row: Index, end: Index, stack: Stack, weigh: Operation) -> Any:
    """(decisions of 16 elements, their weights, the row of the last); of the first row there are `end`."""
    decisions, before, w = _NONE, _NONE, splat(weigh(weights, row))
    while True:
        here = np.uint16((1 << min(end, LANES)) - 1)
        lanes = np.uint16(here & ~before)
        if _counts(mask, row):
            decisions = np.uint16(decisions | lanes)
        w = choose(lanes, splat(weigh(weights, row)), w)
        if end >= LANES or row + 1 == stack.n:
            return decisions, w, row
        before = here
        end += stack.n_channels
        row += 1


@helper
def _decided(decisions: Any, w: Lanes, columns: Any) -> Any:
    """The last arguments of an operation without weights."""
    first = (decisions,)
    return first + columns


@helper
def _weighted(decisions: Any, w: Lanes, columns: Any) -> Any:
    """Those of one with weights."""
    first = (decisions, w)
    return first + columns


def _writers(operation: Operation, last: Operation) -> tuple[Any, Any]:
    """Return what writes 16 elements, and what writes 32 that count."""

    @helper
    def write(y: Memory, inputs: Inputs, i: Index, decisions: Any, w: Lanes, numbers: Any, streaming: Flag) -> None:
        store_or_stream(y, i, operation(*load_each(inputs, i), *last(decisions, w, numbers)), streaming)

    @helper
    def write_two(y: Memory, inputs: Inputs, i: Index, w: Lanes, numbers: Any, others: Any, streaming: Flag) -> None:
        x0, x1 = load_each(inputs, i), load_each(inputs, i + LANES)
        y0, y1 = operation(*x0, *last(_ALL, w, numbers)), operation(*x1, *last(_ALL, w, others))
        store_or_stream(y, i, y0, streaming)
        store_or_stream(y, i + LANES, y1, streaming)

    return write, write_two


@cache
def loop_of(operation: Operation, *, weighted: bool = False) -> Any:
    """Return the loop of an operation, made for it as those of `normdrop._cpu.kernels.elementwise_rows`."""
    weigh, last = (weight_of, _weighted) if weighted else (once_each, _decided)
    write, write_two = _writers(operation, last)

    def write_stack(y: Memory, inputs: Inputs, mask: Memory, weights: Memory, stack: Stack, numbers: Columns) -> None:
        """Write rows; all pointers are to what belongs to the first of them, weights are not read without any."""
        apart()
        stop, streaming = stack.n * stack.n_channels, stack.streaming and is_long(stack.n * stack.n_channels)
        i, v, row = first_whole_line(y, 0, stop, streaming), stack.v, 0
        if i > 0:
            decisions, w, row = _of_lanes(mask, weights, 0, stack.n_channels, stack, weigh)
            final = last(decisions, w, numbers_of(numbers, v))
            store_part(y, 0, operation(*load_first_each(inputs, 0, i), *final), 0, i)
            v = wrapped(v + i, stack.width)
            row = i // stack.n_channels
        while i + LANES <= stop:
            counts, w = _counts(mask, row), splat(weigh(weights, row))
            row = _end_of_stretch(mask, row, stack.n, weighted)
            end = row * stack.n_channels
            if counts:
                while i + 2 * LANES <= end:
                    write_two(y, inputs, i, w, numbers_of(numbers, v), numbers_of(numbers, v + LANES), streaming)
                    i += 2 * LANES
                    v = wrapped(v + 2 * LANES, stack.width)
                if i + LANES <= end:
                    write(y, inputs, i, _ALL, w, numbers_of(numbers, v), streaming)
                    i += LANES
                    v = wrapped(v + LANES, stack.width)
            elif stack.others_are_read:
                while i + LANES <= end:
                    write(y, inputs, i, _NONE, w, numbers_of(numbers, v), streaming)
                    i += LANES
                    v = wrapped(v + LANES, stack.width)
            else:
                n = (end - i) // LANES * LANES
                for k in range(i, i + n, LANES):
                    store_or_stream(y, k, splat(0.0), streaming)
                v = (v + n) % stack.width
                i += n
            if i < end and i + LANES <= stop:
                decisions, w, row = _of_lanes(mask, weights, row - 1, end - i, stack, weigh)
                write(y, inputs, i, decisions, w, numbers_of(numbers, v), streaming)
                i += LANES
                v = wrapped(v + LANES, stack.width)
        if i < stop:
            row = i // stack.n_channels
            decisions, w, row = _of_lanes(mask, weights, row, (row + 1) * stack.n_channels - i, stack, weigh)
            final = last(decisions, w, numbers_of(numbers, v))
            store_part(y, i, operation(*load_first_each(inputs, i, stop), *final), i, stop)

    return outlined(write_stack, operation.__name__)
