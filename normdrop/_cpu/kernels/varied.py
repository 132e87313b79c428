"""Dropout kernels with a p for each channel or element: T and a factor beside each number of the mask law."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kernels.varied_law import kept_where
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
    splat_for,
    store,
    store_part,
)
from normdrop._cpu.lanes.narrowing import as_values_of
from normdrop._cpu.lanes.simd import LANES, splat
from normdrop._cpu.lanes.streaming import (
    fence,
    prefetch_distance,
    prefetch_pays,
    prefetch_range,
    should_stream,
    store_or_stream,
)
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_ONCE

WORK = 2 * (PAIR + LANES)  # T and factors of a pair of groups; a run may be written up to 15 beyond its end

_ALL = 2.0**32  # T that drops everything
_UNIT = 2.0**-32


@helper
def _repeat(own: Any, thresholds: Any, factors: Any, run: Any) -> None:
    """Set own = (T, factors) of elements start ... stop - 1 from those of channels, which come in runs.

    run = (start, stop, channels, elements of a run).
    """
    start, stop, n_channels, inner = run
    own_t, own_f = own
    i, place = start, start // inner
    while i < stop:
        end = min(place * inner + inner, stop)
        channel = place % n_channels
        t, f = splat(element(thresholds, channel)), splat(element(factors, channel))
        for k in range(i - start, end - start, LANES):
            store(own_t, k, t)
            store(own_f, k, f)
        i, place = end, place + 1


@helper
def _divide(own: Any, thresholds: Any, at: Index, n: Index, inverted: Index) -> None:
    """Set own = (T, factors) of n elements from `at` on, the factors 1 / (1 - T / 2**32), or 1."""
    own_t, own_f = own
    unit = _UNIT if inverted != 0 else 0.0
    for k in range(0, n - LANES + 1, LANES):
        t = load(thresholds, at + k)
        store(own_t, k, t)
        store(own_f, k, 1.0 / (1.0 - t * unit))
    k = n - n % LANES
    if k < n:
        t = load_part(thresholds, at + k, at, at + n)
        store(own_t, k, t)
        store(own_f, k, 1.0 / (1.0 - t * unit))


@helper
def _keep_four(y: Memory, x: Memory, i: Index, bits: Any, law: Any) -> None:
    """y = factor * x where kept, else +0, on 64 elements from i; law = (factors, place in them, whether streamed)."""
    f, k, streaming = law
    x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
    store_or_stream(y, i, keep(bits[0], x0 * as_values_of(x, load(f, k))), streaming)
    store_or_stream(y, i + LANES, keep(bits[1], x1 * as_values_of(x, load(f, k + LANES))), streaming)
    store_or_stream(y, i + 2 * LANES, keep(bits[2], x2 * as_values_of(x, load(f, k + 2 * LANES))), streaming)
    store_or_stream(y, i + 3 * LANES, keep(bits[3], x3 * as_values_of(x, load(f, k + 3 * LANES))), streaming)


@helper
def _keep_pair(y: Memory, x: Memory, i: Index, n: Index, bits: Any, law: Any) -> None:
    """As `_keep_four` on what there is of 256 elements."""
    f, k, streaming = law
    if i + PAIR <= n:
        _keep_four(y, x, i, bits[:4], law)
        _keep_four(y, x, i + 4 * LANES, bits[4:8], (f, k + 4 * LANES, streaming))
        _keep_four(y, x, i + 8 * LANES, bits[8:12], (f, k + 8 * LANES, streaming))
        _keep_four(y, x, i + 12 * LANES, bits[12:], (f, k + 12 * LANES, streaming))
    else:
        for v in range(PAIR // LANES):
            j = i + v * LANES
            if j < n:
                values = load_part(x, j, j, n) * as_values_of(x, load(f, k + v * LANES))
                store_part(y, j, keep(bits[v], values), j, n)


@helper
def _keep_same(y: Memory, x: Memory, i: Index, draws: Any, law: Any) -> None:
    """y = factor * x where kept, else +0, on 128 elements of a channel; law = (T < 2**32, factor, whether streamed)."""
    threshold, factor, streaming = law
    f = splat_for(x, factor)
    for k in range(4):
        low, high = kept(draws[k], threshold)
        j = i + 2 * LANES * k
        store_or_stream(y, j, keep(low, load(x, j) * f), streaming)
        store_or_stream(y, j + LANES, keep(high, load(x, j + LANES) * f), streaming)


@helper
def _keep_none(y: Memory, x: Memory, i: Index, streaming: Any) -> None:
    """y = +0 on 256 elements."""
    zeros = splat_for(x, 0.0)
    for k in range(0, PAIR, LANES):
        store_or_stream(y, i + k, zeros, streaming)


@kernel("oinnnPPnnnP")
def dropout_varied(
    y: Memory, x: Memory, key0: Any, key1: Any, call: Index, thresholds: Table, factors: Table, n_channels: Index,
    inner: Index, inverted: Index, work: Table,
) -> None:  # fmt: skip
    """y[a, c, b] = factor[c] * x[a, c, b] where the law keeps with T[c], else +0; flat. Parallel over workers.

    With inner = 1 the channels' numbers are repeated up to PAIR beyond the last; without factors there is one a = 0.
    """
    n, n_workers = x.size, work.shape[0]
    for worker in prange(n_workers):
        own_t, own_f = pointer(work, worker * WORK), pointer(work, worker * WORK + PAIR + LANES)
        all_t, all_f = pointer(thresholds, 0), pointer(factors, 0)
        to, source = pointer(y, 0), pointer(x, 0)
        streaming = should_stream(y, x, READ_ONCE) and address(y) % STREAM_ALIGNMENT == 0
        far, divided = prefetch_pays(x), factors.size == 0
        pair, end = share(worker, n_workers, (n + PAIR - 1) // PAIR)
        for first in range(pair * PAIR, min(end * PAIR, n), PAIR):
            stop = min(first + PAIR, n)
            if far:
                prefetch_range(source, first + prefetch_distance(source), PAIR)
            if inner >= PAIR and first % inner + PAIR <= inner:  # of one channel
                channel = first // inner % n_channels
                t = element(all_t, channel)
                if t < _ALL:
                    law = np.uint64(t), element(all_f, channel), streaming
                    draws = draw(first // PAIR, call, key0, key1, law[0])
                    _keep_same(to, source, first, draws[:4], law)
                    _keep_same(to, source, first + PAIR // 2, draws[4:], law)
                else:
                    _keep_none(to, source, first, streaming)
            else:
                limits, scales, at = own_t, own_f, 0
                if inner > 1:
                    _repeat((own_t, own_f), all_t, all_f, (first, stop, n_channels, inner))
                elif divided:
                    _divide((own_t, own_f), all_t, first, stop - first, inverted)
                else:
                    limits, scales, at = all_t, all_f, first % n_channels
                bits = kept_where(first // PAIR, call, key0, key1, limits, at)
                _keep_pair(to, source, first, n, bits, (scales, at, streaming))
        fence()


@kernel("MPLnn")
def keep_varied(mask: Memory, thresholds: Table, keys: Memory, length: Index, call: Index) -> None:
    """mask[n, j] = whether element j under key n is kept with T[n, j]; flat, T with PAIR more. Parallel over pairs."""
    per_sample = (length + PAIR - 1) // PAIR
    for p in prange(per_sample * keys.shape[0]):
        sample = p // per_sample
        pair = p - sample * per_sample
        start, n = sample * length + pair * PAIR, min(PAIR, length - pair * PAIR)
        to = pointer(mask, 0)
        bits = kept_where(pair, call, keys[sample, 0], keys[sample, 1], pointer(thresholds, 0), start)
        for v in range((n + LANES - 1) // LANES):
            i = start + v * LANES
            if v * LANES + LANES <= n:
                store_bits(to, i, bits[v])
            else:
                for e in range(n - v * LANES):
                    mask[i + e] = (np.uint32(bits[v]) >> np.uint32(e)) & np.uint32(1) != 0


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
