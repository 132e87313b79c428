"""The loops of element-wise passes over planes: y = operation(inputs, numbers), whatever the operation.

A run lies in one plane. A span is what neighboring channels have in one image: short planes, one after the other in
memory. It is streamed, for which whole cache lines count, not planes.

An operation (`normdrop._cpu.kernels.operations`) is a helper that computes 16 elements of the result: its arguments are
16 elements of each input and then its numbers, all as vectors. In planes the numbers are those of a channel; each is in
every lane. The loops for rows, whose numbers are vectors over the columns, are in
`normdrop._cpu.kernels.elementwise_rows`.

Several vectors are read before the first of them is written: a load waits for a store before it whose address agrees
with its own modulo 4096, as happens all the time in a loop over two arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normdrop._cpu.kinds import Flag, Index, Inputs, Memory, Operation
from normdrop._cpu.lanes.bits import choose
from normdrop._cpu.lanes.each import load_each, load_first_each, splat_each
from normdrop._cpu.lanes.memory import store, store_part
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import first_whole_line, is_long, prefetch_range, store_or_stream
from normdrop._cpu.toolchain.launch import helper


class Run(NamedTuple):
    """Elements [start, stop) of flat memory, and whether the result is streamed."""

    start: Index
    stop: Index
    streaming: Flag


class Span(NamedTuple):
    """Elements [start, stop) in planes of neighboring channels: where the first plane ends, its channel, their size."""

    start: Index
    stop: Index
    end: Index
    channel: Index
    inner: Index


class Numbers(NamedTuple):
    """Numbers of channels: pointers to each of those of the first channel, elements from one channel to the next.

    constants are the last arguments of the operation, the same everywhere and passed as they are.
    """

    pointers: Any
    step: Index
    constants: Any


@helper
def numbers_of(numbers: Numbers, channel: Index) -> Any:
    """The last arguments of an operation, in a channel."""
    return splat_each(numbers.pointers, channel * numbers.step) + numbers.constants


@helper
def prefetch_each(ahead: Any, i: Index, n: Index) -> None:
    """Prefetch n elements of each of ahead = (arrays, how far ahead of i, 0 for not at all); None for no array."""
    if ahead is not None:
        arrays, distances = ahead
        for k in range(len(arrays)):
            if distances[k] > 0:
                prefetch_range(arrays[k], i + distances[k], n)


@helper
def write_part(y: Memory, inputs: Inputs, start: Index, stop: Index, operation: Operation, numbers: Any) -> None:
    """Write 16 elements at most."""
    store_part(y, start, operation(*load_first_each(inputs, start, stop), *numbers), start, stop)


@helper
def write_vectors(y: Memory, inputs: Inputs, run: Run, operation: Operation, numbers: Any, ahead: Any) -> Any:
    """Write what fills whole vectors; return where they end."""
    i = run.start
    if len(inputs) == 1:
        while i + 4 * LANES <= run.stop:
            prefetch_each(ahead, i, 4 * LANES)
            x0, x1 = load_each(inputs, i), load_each(inputs, i + LANES)
            x2, x3 = load_each(inputs, i + 2 * LANES), load_each(inputs, i + 3 * LANES)
            store_or_stream(y, i, operation(*x0, *numbers), run.streaming)
            store_or_stream(y, i + LANES, operation(*x1, *numbers), run.streaming)
            store_or_stream(y, i + 2 * LANES, operation(*x2, *numbers), run.streaming)
            store_or_stream(y, i + 3 * LANES, operation(*x3, *numbers), run.streaming)
            i += 4 * LANES
    else:
        while i + 2 * LANES <= run.stop:
            prefetch_each(ahead, i, 2 * LANES)
            y0 = operation(*load_each(inputs, i), *numbers)
            y1 = operation(*load_each(inputs, i + LANES), *numbers)
            store_or_stream(y, i, y0, run.streaming)
            store_or_stream(y, i + LANES, y1, run.streaming)
            i += 2 * LANES
    while i + LANES <= run.stop:
        store_or_stream(y, i, operation(*load_each(inputs, i), *numbers), run.streaming)
        i += LANES
    return i


@helper
def write_run(y: Memory, inputs: Inputs, run: Run, operation: Operation, numbers: Any, ahead: Any) -> None:
    """Write a run, whose numbers are the same throughout; it is streamed if it is long, too.

    In short runs, which take little longer than their ends, the last 16 elements are written at once, some of them
    twice; they are read first, for the result may be written over the input. The ends of long runs are written first:
    their cache lines, of which only a part is written, are read while the rest is computed, and not by a processor that
    has just streamed the lines beside them.
    """
    start, stop, streaming = run
    if stop - start < LANES:
        write_part(y, inputs, start, stop, operation, numbers)
        return
    if not is_long(stop - start):
        prefetch_each(ahead, start, stop - start)
        last = operation(*load_each(inputs, stop - LANES), *numbers)
        write_vectors(y, inputs, Run(start, stop - 1, False), operation, numbers, None)
        store(y, stop - LANES, last)
        return
    head = first_whole_line(y, start, stop, streaming)
    end = head + (stop - head) // LANES * LANES
    if head > start:
        write_part(y, inputs, start, head, operation, numbers)
    if end < stop:
        write_part(y, inputs, end, stop, operation, numbers)
    write_vectors(y, inputs, Run(head, end, streaming), operation, numbers, ahead)


@helper
def _write_part_across(
    y: Memory, inputs: Inputs, start: Index, stop: Index, plane: Any, operation: Operation, numbers: Any
) -> None:
    """Write 16 elements at most, from plane = (its end, its channel) or the next one, or from both."""
    end, channel = plane
    if start < end:
        write_part(y, inputs, start, min(stop, end), operation, numbers_of(numbers, channel))
    if end < stop:
        write_part(y, inputs, max(start, end), stop, operation, numbers_of(numbers, channel + 1))


@helper
def write_span(y: Memory, inputs: Inputs, span: Span, operation: Operation, numbers: Any, ahead: Any) -> None:
    """Stream planes of 16 elements or more, in whole cache lines; the first and the last may be parts of planes.

    A vector across the end of a plane is computed with the numbers of both channels.
    """
    start, stop, end, channel, inner = span
    i = min(first_whole_line(y, start, stop, True), stop)
    if i > start:
        _write_part_across(y, inputs, start, i, (end, channel), operation, numbers)
    if i > end:
        channel += 1
        end += inner
    splats = numbers_of(numbers, channel)
    while i + LANES <= stop:
        prefetch_each(ahead, i, inner)
        i = write_vectors(y, inputs, Run(i, min(end, stop), True), operation, splats, None)
        if end < stop and i + LANES <= stop:
            vectors = load_each(inputs, i)
            before = operation(*vectors, *splats)
            channel += 1
            splats = numbers_of(numbers, channel)
            store_or_stream(y, i, choose(np.uint16((1 << (end - i)) - 1), before, operation(*vectors, *splats)), True)
            i += LANES
            end += inner
    if i < stop:
        _write_part_across(y, inputs, i, stop, (end, channel), operation, numbers)
