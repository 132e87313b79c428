"""Dropout kernels with a p for each channel or element: T and a factor beside each number of the mask law."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.mask_law import PAIR
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kernels.uniform import draw_numbers
from normdrop._cpu.kinds import Index, Memory, Table
from normdrop._cpu.lanes.bits import keep, store_bits
from normdrop._cpu.lanes.choosing import less
from normdrop._cpu.lanes.memory import (
    STREAM_ALIGNMENT,
    address,
    element,
    load,
    load_part,
    pointer,
    store,
    store_part,
)
from normdrop._cpu.lanes.narrowing import as_values_of
from normdrop._cpu.lanes.simd import LANES, splat
from normdrop._cpu.lanes.streaming import fence, should_stream, store_or_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_ONCE

PIECE = 4 * PAIR  # elements whose numbers, T and factors stay in the first-level cache
_ROW = PIECE + LANES  # a run may be written up to 15 beyond its end
WORK = 3 * _ROW

_UNIT = 2.0**-32


@helper
def _repeat(to: Any, values: Any, run: Any) -> None:
    """Set to = (T, factors) of elements start ... stop - 1 from values of channels; runs of one channel, in order.

    run = (start, stop, channels, elements of a run).
    """
    start, stop, n_channels, inner = run
    thresholds, factors = values
    to_t, to_f = to
    i, place = start, start // inner
    while i < stop:
        end = min(place * inner + inner, stop)
        t, f = splat(element(thresholds, place % n_channels)), splat(element(factors, place % n_channels))
        for k in range(i - start, end - start, LANES):
            store(to_t, k, t)
            store(to_f, k, f)
        i, place = end, place + 1


@helper
def _copy(to: Any, values: Any, at: Index, n: Index) -> None:
    """Set to = (T, factors) of n elements that lie side by side from `at` on."""
    thresholds, factors = values
    to_t, to_f = to
    for k in range(0, n - LANES + 1, LANES):
        store(to_t, k, load(thresholds, at + k))
        store(to_f, k, load(factors, at + k))
    k = n - n % LANES
    if k < n:
        store(to_t, k, load_part(thresholds, at + k, at, at + n))
        store(to_f, k, load_part(factors, at + k, at, at + n))


@helper
def _divide(to: Any, thresholds: Any, at: Index, n: Index, inverted: Index) -> None:
    """As `_copy`, with factors 1 / (1 - T / 2**32), or 1."""
    to_t, to_f = to
    scale = _UNIT if inverted != 0 else 0.0
    for k in range(0, n - LANES + 1, LANES):
        t = load(thresholds, at + k)
        store(to_t, k, t)
        store(to_f, k, 1.0 / (1.0 - t * scale))
    k = n - n % LANES
    if k < n:
        t = load_part(thresholds, at + k, at, at + n)
        store(to_t, k, t)
        store(to_f, k, 1.0 / (1.0 - t * scale))


@helper
def _drop(y: Memory, x: Memory, run: Any, numbers: Any, law: Any) -> None:
    """y = factor * x where the number is above T, else +0; run = (start, stop, whether streamed)."""
    start, stop, streaming = run
    t, f = law
    for i in range(start, stop - LANES + 1, LANES):
        k = i - start
        bits = less(load(t, k), load(numbers, k))
        store_or_stream(y, i, keep(bits, load(x, i) * as_values_of(x, load(f, k))), streaming)
    i = stop - (stop - start) % LANES
    if i < stop:
        k = i - start
        bits = less(load(t, k), load(numbers, k))
        store_part(y, i, keep(bits, load_part(x, i, i, stop) * as_values_of(x, load(f, k))), i, stop)


@kernel("oinnnddnnnP")
def dropout_varied(
    y: Memory, x: Memory, key0: Any, key1: Any, call: Index, thresholds: Memory, factors: Memory, n_channels: Index,
    inner: Index, inverted: Index, work: Table,
) -> None:  # fmt: skip
    """y[a, c, b] = factor[c] * x[a, c, b] where the number is above T[c], else +0; flat. Parallel over workers.

    With inner = 1 the channels' numbers are repeated up to PIECE beyond the last; without factors there is one a = 0.
    """
    n, n_workers = x.size, work.shape[0]
    for worker in prange(n_workers):
        numbers, first = pointer(work, worker * WORK), worker * WORK + _ROW
        law = pointer(work, first), pointer(work, first + _ROW)
        to, source = pointer(y, 0), pointer(x, 0)
        streaming = should_stream(y, x, READ_ONCE) and address(y) % STREAM_ALIGNMENT == 0
        task, end = share(worker, n_workers, (n + PIECE - 1) // PIECE)
        for start in range(task * PIECE, min(end * PIECE, n), PIECE):
            stop = min(start + PIECE, n)
            draw_numbers(numbers, start // PAIR, (stop - start + PAIR - 1) // PAIR, (key0, key1), call)
            if inner > 1:
                _repeat(law, (thresholds, factors), (start, stop, n_channels, inner))
            elif factors.size > 0:
                _copy(law, (thresholds, factors), start % n_channels, stop - start)
            else:
                _divide(law, thresholds, start, stop - start, inverted)
            _drop(to, source, (start, stop, streaming), numbers, law)
        fence()


@kernel("MdqnnP")
def keep_varied(
    mask: Memory, thresholds: Memory, keys: Memory, length: Index, call: Index, work: Table
) -> None:
    """mask[n, j] = whether the number of element j under key n is above T[n, j]; flat. Parallel over workers."""
    per_sample = (length + PAIR - 1) // PAIR
    n_pairs, n_workers = per_sample * (keys.size // 2), work.shape[0]
    for worker in prange(n_workers):
        numbers, to, limits = pointer(work, worker * WORK), pointer(mask, 0), pointer(thresholds, 0)
        first, end = share(worker, n_workers, n_pairs)
        for p in range(first, end):
            sample = p // per_sample
            pair = p - sample * per_sample
            draw_numbers(numbers, pair, 1, (keys[2 * sample], keys[2 * sample + 1]), call)
            start = sample * length + pair * PAIR
            n = min(PAIR, length - pair * PAIR)
            for k in range(0, n - LANES + 1, LANES):
                store_bits(to, start + k, less(load(limits, start + k), load(numbers, k)))
            k = n - n % LANES
            if k < n:
                i = start + k
                bits = np.uint32(less(load_part(limits, i, i, start + n), load(numbers, k)))
                for e in range(n - k):
                    mask[i + e] = (bits >> np.uint32(e)) & np.uint32(1) != 0


@helper
def _scale_run(y: Memory, x: Memory, start: Index, stop: Index, factor: Any) -> None:
    """y = factor * x on a run that one decision holds for; +0 if the factor is 0."""
    f = as_values_of(x, splat(factor))
    bits = less(0.0, splat(factor))
    for i in range(start, stop - LANES + 1, LANES):
        store(y, i, keep(bits, load(x, i) * f))
    i = stop - (stop - start) % LANES
    if i < stop:
        store_part(y, i, keep(bits, load_part(x, i, i, stop) * f), i, stop)


@helper
def _scale_row(y: Memory, x: Memory, start: Index, stop: Index, factors: Any, at: Index) -> None:
    """y = factors[at ...] * x on neighbors; +0 where a factor is 0."""
    for i in range(start, stop - LANES + 1, LANES):
        f = load(factors, at + i - start)
        store(y, i, keep(less(0.0, f), load(x, i) * as_values_of(x, f)))
    i = stop - (stop - start) % LANES
    if i < stop:
        place = at + i - start
        f = load_part(factors, place, place, at + stop - start)
        store_part(y, i, keep(less(0.0, f), load_part(x, i, i, stop) * as_values_of(x, f)), i, stop)


@kernel("oidnn")
def apply_factors(y: Memory, x: Memory, factors: Memory, n_shared: Index, length: Index) -> None:
    """y[a, s, b] = factors[a, b] * x[a, s, b], +0 where a factor is 0; flat, b < length. Parallel over chunks."""
    n = x.size
    row = n_shared if length == 1 else length  # elements of a run
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)
        to, source, given = pointer(y, 0), pointer(x, 0), pointer(factors, 0)
        while start < stop:
            r = start // row
            end = min(stop, r * row + row)
            if length == 1:
                _scale_run(to, source, start, end, element(given, r))
            else:
                _scale_row(to, source, start, end, given, r // n_shared * length + start - r * row)
            start = end
