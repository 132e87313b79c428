"""Element-wise loops over planes: y and dx of a run, whose numbers are those of one channel, or of a span.

A span is what neighboring channels have in one image: short planes, one after the other in memory. It is streamed, for
which whole cache lines count, not planes. A vector across the end of a plane is computed with the numbers of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.bits import choose
from normdrop._cpu.launch import helper
from normdrop._cpu.memory import element, load, load_part, store, store_part, stream
from normdrop._cpu.simd import LANES, splat, widen
from normdrop._cpu.streaming import ask, first_whole, is_long, put


@helper
def normalize_run(y: Any, x: Any, run: Any, vectors: Any, hints: Any) -> None:
    """y = (x - mean) * scale + shift on run = [start, stop); vectors = (mean, scale, shift).

    hints = (elements from here to what is needed next, whether long runs are streamed). Four vectors are read before
    the first of them is written: a load waits for a store before it whose address agrees with its own modulo 4096. In
    short runs, which take little longer than their ends, the last 16 elements are written at once, some of them twice.
    """
    i, stop = run
    ahead, streaming = hints
    means, scales, shifts = splat(vectors[0]), splat(vectors[1]), splat(vectors[2])
    if stop - i < LANES:
        store_part(y, i, normalized(widen(load_part(x, i, i, stop)), means, scales, shifts), i, stop)
        return
    if not is_long(stop - i):
        if ahead > 0:
            ask(x, i + ahead, stop - i)
        last = load(x, stop - LANES)
        while i + 4 * LANES < stop:
            x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
            store(y, i, normalized(widen(x0), means, scales, shifts))
            store(y, i + LANES, normalized(widen(x1), means, scales, shifts))
            store(y, i + 2 * LANES, normalized(widen(x2), means, scales, shifts))
            store(y, i + 3 * LANES, normalized(widen(x3), means, scales, shifts))
            i += 4 * LANES
        while i + LANES < stop:
            store(y, i, normalized(widen(load(x, i)), means, scales, shifts))
            i += LANES
        store(y, stop - LANES, normalized(widen(last), means, scales, shifts))
        return
    head = first_whole(y, i, stop, streaming)
    if head > i:
        store_part(y, i, normalized(widen(load_part(x, i, i, head)), means, scales, shifts), i, head)
        i = head
    while i + 4 * LANES <= stop:
        if ahead > 0:
            ask(x, i + ahead, 4 * LANES)
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        put(y, i, normalized(widen(x0), means, scales, shifts), streaming)
        put(y, i + LANES, normalized(widen(x1), means, scales, shifts), streaming)
        put(y, i + 2 * LANES, normalized(widen(x2), means, scales, shifts), streaming)
        put(y, i + 3 * LANES, normalized(widen(x3), means, scales, shifts), streaming)
        i += 4 * LANES
    while i + LANES <= stop:
        put(y, i, normalized(widen(load(x, i)), means, scales, shifts), streaming)
        i += LANES
    if i < stop:
        store_part(y, i, normalized(widen(load_part(x, i, i, stop)), means, scales, shifts), i, stop)


@helper
def _first(n: Any) -> Any:
    """The first n of 16 lanes, as bits."""
    return np.uint16((1 << n) - 1)


@helper
def _three(numbers: Any, k: Any) -> Any:
    """Three numbers from k on, each as a vector."""
    return splat(element(numbers, k)), splat(element(numbers, k + 1)), splat(element(numbers, k + 2))


@helper
def normalize_span(y: Any, x: Any, span: Any, numbers: Any, ahead: Any) -> None:
    """y = (x - mean) * scale + shift on span = (start, stop, elements of a plane, 16 or more); `ahead` as in runs.

    numbers = (pointer to those of all channels, where those of the first are, elements to those of the next).
    """
    start, stop, inner = span
    channels, k, step = numbers
    means, scales, shifts = _three(channels, k)
    i, end = first_whole(y, start, stop, True), start + inner
    if i > start:
        store_part(y, start, normalized(widen(load_part(x, start, start, i)), means, scales, shifts), start, i)
    while i + LANES <= stop:
        if ahead > 0:
            ask(x, i + ahead, inner)
        while i + 4 * LANES <= end:
            x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
            stream(y, i, normalized(widen(x0), means, scales, shifts))
            stream(y, i + LANES, normalized(widen(x1), means, scales, shifts))
            stream(y, i + 2 * LANES, normalized(widen(x2), means, scales, shifts))
            stream(y, i + 3 * LANES, normalized(widen(x3), means, scales, shifts))
            i += 4 * LANES
        while i + LANES <= end:
            stream(y, i, normalized(widen(load(x, i)), means, scales, shifts))
            i += LANES
        if end < stop:
            x0 = widen(load(x, i))
            y0 = normalized(x0, means, scales, shifts)
            k += step
            means, scales, shifts = _three(channels, k)
            stream(y, i, choose(_first(end - i), y0, normalized(x0, means, scales, shifts)))
            i += LANES
            end += inner
    if i < stop:
        store_part(y, i, normalized(widen(load_part(x, i, i, stop)), means, scales, shifts), i, stop)


@helper
def gradient_run(arrays: Any, run: Any, vectors: Any, hints: Any) -> None:
    """dx of `_formulas.input_gradient` on a run; arrays = (dx, dy, x), vectors = (mean, mean_dy, slope, scale).

    hints = (elements from here to what is needed next of x, of dy, whether long runs are streamed). Otherwise as
    `normalize_run`.
    """
    dx, dy, x = arrays
    i, stop = run
    ahead_x, ahead_dy, streaming = hints
    means, means_dy, slopes, scales = splat(vectors[0]), splat(vectors[1]), splat(vectors[2]), splat(vectors[3])
    if stop - i < LANES:
        x0, d0 = load_part(x, i, i, stop), load_part(dy, i, i, stop)
        store_part(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), i, stop)
        return
    if not is_long(stop - i):
        if ahead_x > 0:
            ask(x, i + ahead_x, stop - i)
        if ahead_dy > 0:
            ask(dy, i + ahead_dy, stop - i)
        last_x, last_dy = load(x, stop - LANES), load(dy, stop - LANES)
        while i + 2 * LANES < stop:
            x0, x1, d0, d1 = load(x, i), load(x, i + LANES), load(dy, i), load(dy, i + LANES)
            store(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales))
            store(dx, i + LANES, input_gradient(widen(d1), widen(x1), means, means_dy, slopes, scales))
            i += 2 * LANES
        if i + LANES < stop:
            store(dx, i, input_gradient(widen(load(dy, i)), widen(load(x, i)), means, means_dy, slopes, scales))
        store(dx, stop - LANES, input_gradient(widen(last_dy), widen(last_x), means, means_dy, slopes, scales))
        return
    head = first_whole(dx, i, stop, streaming)
    if head > i:
        x0, d0 = load_part(x, i, i, head), load_part(dy, i, i, head)
        store_part(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), i, head)
        i = head
    while i + 2 * LANES <= stop:
        if ahead_x > 0:
            ask(x, i + ahead_x, 2 * LANES)
        if ahead_dy > 0:
            ask(dy, i + ahead_dy, 2 * LANES)
        x0, x1, d0, d1 = load(x, i), load(x, i + LANES), load(dy, i), load(dy, i + LANES)
        put(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), streaming)
        put(dx, i + LANES, input_gradient(widen(d1), widen(x1), means, means_dy, slopes, scales), streaming)
        i += 2 * LANES
    if i + LANES <= stop:
        x0, d0 = load(x, i), load(dy, i)
        put(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), streaming)
        i += LANES
    if i < stop:
        x0, d0 = load_part(x, i, i, stop), load_part(dy, i, i, stop)
        store_part(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), i, stop)


@helper
def gradient_span(arrays: Any, span: Any, numbers: Any, hints: Any) -> None:
    """dx of `_formulas.input_gradient` on a span as of `normalize_span`; arrays and hints as of `gradient_run`."""
    dx, dy, x = arrays
    start, stop, inner = span
    channels, k, step = numbers
    ahead_x, ahead_dy, _ = hints
    means, means_dy, slopes = _three(channels, k)
    scales = splat(element(channels, k + 3))
    i, end = first_whole(dx, start, stop, True), start + inner
    if i > start:
        x0, d0 = widen(load_part(x, start, start, i)), widen(load_part(dy, start, start, i))
        store_part(dx, start, input_gradient(d0, x0, means, means_dy, slopes, scales), start, i)
    while i + LANES <= stop:
        if ahead_x > 0:
            ask(x, i + ahead_x, inner)
        if ahead_dy > 0:
            ask(dy, i + ahead_dy, inner)
        while i + 2 * LANES <= end:
            x0, x1, d0, d1 = load(x, i), load(x, i + LANES), load(dy, i), load(dy, i + LANES)
            stream(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales))
            stream(dx, i + LANES, input_gradient(widen(d1), widen(x1), means, means_dy, slopes, scales))
            i += 2 * LANES
        if i + LANES <= end:
            x0, d0 = load(x, i), load(dy, i)
            stream(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales))
            i += LANES
        if end < stop:
            x0, d0 = widen(load(x, i)), widen(load(dy, i))
            dx0 = input_gradient(d0, x0, means, means_dy, slopes, scales)
            k += step
            means, means_dy, slopes = _three(channels, k)
            scales = splat(element(channels, k + 3))
            stream(dx, i, choose(_first(end - i), dx0, input_gradient(d0, x0, means, means_dy, slopes, scales)))
            i += LANES
            end += inner
    if i < stop:
        x0, d0 = widen(load_part(x, i, i, stop)), widen(load_part(dy, i, i, stop))
        store_part(dx, i, input_gradient(d0, x0, means, means_dy, slopes, scales), i, stop)
