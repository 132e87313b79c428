"""Dropout kernels with the mask given: of whole planes, or of elements that share it along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.dropping import dropped, masked, numbers_of, scaled
from normdrop._cpu.kinds import Index, Lanes, Memory, Real
from normdrop._cpu.lanes.bits import load_bits
from normdrop._cpu.lanes.memory import CACHE_LINE, item_size, load, load_part, pointer, store_part
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import (
    fence,
    first_whole_line,
    is_long,
    prefetch_distance,
    prefetch_pays,
    prefetch_range,
    should_stream,
    store_or_stream,
)
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN, READ_ONCE, SKIPPED


@helper
def _scale_vectors(y: Memory, x: Memory, run: Any, numbers: Any) -> Any:
    """y = scale * x on the whole vectors of run = (start, stop, whether streamed); return where they end."""
    i, stop, streaming = run
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        store_or_stream(y, i, scaled(x0, numbers), streaming)
        store_or_stream(y, i + LANES, scaled(x1, numbers), streaming)
        store_or_stream(y, i + 2 * LANES, scaled(x2, numbers), streaming)
        store_or_stream(y, i + 3 * LANES, scaled(x3, numbers), streaming)
        i += 4 * LANES
    while i + LANES <= stop:
        store_or_stream(y, i, scaled(load(x, i), numbers), streaming)
        i += LANES
    return i


@helper
def _zero_vectors(y: Memory, zeros: Lanes, run: Any) -> Any:
    """y = +0 on the whole vectors of a run as of `_scale_vectors`; return where they end."""
    i, stop, streaming = run
    while i + LANES <= stop:
        store_or_stream(y, i, zeros, streaming)
        i += LANES
    return i


@helper
def _plane_bits(mask: Any, place: Any, length: Index, n: Index) -> Any:
    """Which of n elements, at most 16, are in planes that are kept, as bits; place = (plane of the first, its rest)."""
    plane, end = place
    bits, first = 0, 0
    while first < n:
        end = min(end, n)
        if mask[plane]:
            bits |= (1 << end) - (1 << first)
        plane, first, end = plane + 1, end, end + length
    return np.uint16(bits)


@kernel("oimnf")
def mask_planes(y: Memory, x: Memory, mask: Memory, length: Index, scale: Real) -> None:
    """y[a, s] = scale * x[a, s] where mask[a], else +0; flat arrays, planes of `length`. Parallel over chunks.

    Vectors follow flat memory, so that whole lines can be streamed however short the planes are.
    """
    n = x.size
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)
        numbers = numbers_of(x, scale)
        zeros = dropped(numbers)
        # Vectors that are whole lines are streamed across the ends of planes, halves of lines within long planes.
        run = stop - start if LANES * item_size(y) % CACHE_LINE == 0 else min(stop - start, length)
        streaming = should_stream(y, x, READ_ONCE if is_long(length) else READ_AGAIN) and is_long(run)
        far = prefetch_pays(x) and x.size * item_size(x) > SKIPPED and not is_long(length)
        to, source = pointer(y, 0), pointer(x, 0)
        i = first_whole_line(to, start, stop, streaming)
        plane = start // length
        end = plane * length + length
        if i > start:
            bits = _plane_bits(mask, (plane, end - start), length, i - start)
            store_part(to, start, masked(bits, load_part(source, start, start, i), numbers), start, i)
        while i + LANES <= stop:
            while end <= i:
                plane += 1
                end += length
            if far:
                prefetch_range(source, i + prefetch_distance(source), length)
            if mask[plane]:
                i = _scale_vectors(to, source, (i, min(end, stop), streaming), numbers)
            else:
                i = _zero_vectors(to, zeros, (i, min(end, stop), streaming))
            if i < end and i + LANES <= stop:
                bits = _plane_bits(mask, (plane, end - i), length, LANES)
                store_or_stream(to, i, masked(bits, load(source, i), numbers), streaming)
                i += LANES
        if i < stop:
            while end <= i:
                plane += 1
                end += length
            bits = _plane_bits(mask, (plane, end - i), length, stop - i)
            store_part(to, i, masked(bits, load_part(source, i, i, stop), numbers), i, stop)
        fence()


@helper
def _period(mask: Any, row: Any, length: Index) -> Any:
    """The first 31 decisions of a row of fewer than 16 that is repeated, as bits."""
    bits = 0
    for lane in range(2 * LANES - 1):
        bits |= mask[row + lane % length] << lane
    return bits


@helper
def _row_bits(mask: Any, v: Index, columns: Any) -> Any:
    """16 decisions from column v on, of a row that is repeated; columns = (row's first, length, its `_period`)."""
    row, length, period = columns
    if length < LANES:
        return np.uint16(period >> v)
    if v + LANES <= length:
        return load_bits(mask, row + v)
    rest = length - v
    return np.uint16((load_bits(mask, row + length - LANES) >> (LANES - rest)) | (load_bits(mask, row) << rest))


@helper
def _mask_run(y: Memory, x: Memory, mask: Any, run: Any, columns: Any, numbers: Any) -> None:
    """y = scale * x where kept, else +0; columns as of `_row_bits`.

    run = (start, stop, column of the first, whether streamed, whether x is prefetched).
    """
    i, stop, v, streaming, far = run
    row, length, _ = columns
    step = LANES if length >= LANES else LANES % length
    head = first_whole_line(y, i, stop, streaming)
    if head > i:
        bits = _row_bits(mask, v, columns)
        store_part(y, i, masked(bits, load_part(x, i, i, head), numbers), i, head)
        v = (v + head - i) % length
        i = head
    while i + LANES <= stop:
        end = min(i + length - v, stop)
        while i + 2 * LANES <= end:
            if far:
                prefetch_range(x, i + prefetch_distance(x), 2 * LANES)
            x0, x1 = load(x, i), load(x, i + LANES)
            first, second = load_bits(mask, row + v), load_bits(mask, row + v + LANES)
            store_or_stream(y, i, masked(first, x0, numbers), streaming)
            store_or_stream(y, i + LANES, masked(second, x1, numbers), streaming)
            i += 2 * LANES
            v += 2 * LANES
        if i + LANES <= stop:
            store_or_stream(y, i, masked(_row_bits(mask, v, columns), load(x, i), numbers), streaming)
            i += LANES
            v += step
        if v >= length:
            v -= length
    if i < stop:
        store_part(y, i, masked(_row_bits(mask, v, columns), load_part(x, i, i, stop), numbers), i, stop)


@kernel("oimnnf")
def mask_elements(y: Memory, x: Memory, mask: Memory, n_shared: Index, length: Index, scale: Real) -> None:
    """y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0; flat arrays, b < length. Parallel over chunks.

    Vectors follow flat memory, across the ends of rows s.
    """
    n = x.size
    shared = n_shared * length
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)
        numbers = numbers_of(x, scale)
        while start < stop:
            a = start // shared
            end = min(stop, a * shared + shared)
            period = _period(mask, a * length, length) if length < LANES else 0
            run = start, end, start % length, should_stream(y, x, READ_ONCE) and is_long(end - start), prefetch_pays(x)
            _mask_run(pointer(y, 0), pointer(x, 0), mask, run, (a * length, length, period), numbers)
            start = end
        fence()
