"""Element-wise loops over runs of planes: y and dx of a run whose numbers are those of one channel."""

from __future__ import annotations

from typing import Any

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.launch import helper
from normdrop._cpu.memory import load, load_part, store, store_part
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
