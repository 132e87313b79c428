"""Dropout of arrays whose memory order is not C order, but that of (A, Q, P) arrays with P and Q exchanged.

The mask law numbers elements in C order. Sixteen neighbors in memory are P elements apart there, and have their bits at
one place of sixteen words: those are drawn for a block of positions first, then read across.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.dropping import masked, numbers_of
from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kinds import Index, Memory, Real
from normdrop._cpu.lanes.bits import lane_bits
from normdrop._cpu.lanes.memory import load, load_part, pointer, store_part
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
from normdrop._cpu.tuning import COLUMNS, POSITIONS, READ_ONCE

_DRAWN = PAIR // LANES  # words drawn at once
WORDS = _DRAWN + (POSITIONS // LANES) * (COLUMNS + LANES)  # per task; a vector may be read beyond the last column


@helper
def _draw_pair(drawn: Any, pair: Any, law: Any) -> None:
    """drawn[k] = bits of elements 256 * pair + 16 k ... + 15; law = (key, key, call, threshold)."""
    key0, key1, call, threshold = law
    draws = draw(pair, call, key0, key1, threshold)
    for k in range(_DRAWN // 2):
        drawn[2 * k], drawn[2 * k + 1] = kept(draws[k], threshold)


@helper
def _draw(words: Any, stride: Index, places: Any, drawn: Any, law: Any) -> None:
    """words[k * stride + q] = bits of positions 16k ... 16k + 15 of column q; places = (first element, P, n, columns).

    Elements of a column are not aligned to words of the law, so that each word here is taken from two there.
    """
    first, length, n, n_columns = places
    pair = np.int64(-1)
    for q in range(n_columns):
        start = first + q * length
        offset = start % LANES
        low = np.uint32(0)
        for k in range(-1, (n + LANES - 1) // LANES):
            place = start // LANES + k + 1
            if offset > 0 or k < 0 or k * LANES + LANES < n:
                if place * LANES // PAIR != pair:
                    pair = place * LANES // PAIR
                    _draw_pair(drawn, pair, law)
                high = np.uint32(drawn[place % _DRAWN])
            else:
                high = np.uint32(0)
            if k >= 0:
                words[k * stride + q] = np.uint16(((high << np.uint32(LANES)) | low) >> np.uint32(offset))
            low = high


@helper
def _apply(y: Memory, x: Memory, run: Any, words: Any, law: Any) -> None:
    """y = scale * x where bit e of the column's word is set, else +0.

    run = (start, columns, whether long runs are streamed, whether x is prefetched), law = (first word, e, scale).
    """
    start, n_columns, large, far = run
    word, e, scale = law
    numbers = numbers_of(x, scale)
    stop = start + n_columns
    streaming = large and is_long(n_columns)
    i = first_whole_line(y, start, stop, streaming)
    if i > start:
        store_part(y, start, masked(lane_bits(words, word, e), load_part(x, start, start, i), numbers), start, i)
    while i + LANES <= stop:
        if far:
            prefetch_range(x, i + prefetch_distance(x), LANES)
        store_or_stream(y, i, masked(lane_bits(words, word + i - start, e), load(x, i), numbers), streaming)
        i += LANES
    if i < stop:
        store_part(y, i, masked(lane_bits(words, word + i - start, e), load_part(x, i, i, stop), numbers), i, stop)


@kernel("OInnnnfh")
def dropout_transposed(
    y: Memory, x: Memory, key0: Any, key1: Any, call: Any, threshold: Any, scale: Real, work: Memory
) -> None:
    """y[a, p, q] = scale * x[a, p, q] where the law keeps (a Q + q) P + p, else +0. Parallel over workers."""
    _, p, q = x.shape
    large, far = should_stream(y, x, READ_ONCE), prefetch_pays(x)
    p_blocks = (p + POSITIONS - 1) // POSITIONS
    q_blocks = (q + COLUMNS - 1) // COLUMNS
    n_tasks = x.shape[0] * p_blocks * q_blocks
    n_workers = work.size // WORDS
    for worker in prange(n_workers):
        words = work[worker * WORDS + _DRAWN : worker * WORDS + WORDS]
        drawn = work[worker * WORDS : worker * WORDS + _DRAWN]
        for task in range(worker * n_tasks // n_workers, (worker + 1) * n_tasks // n_workers):
            a = task // (p_blocks * q_blocks)
            p0 = (task // q_blocks) % p_blocks * POSITIONS
            q0 = task % q_blocks * COLUMNS
            n, n_columns = min(POSITIONS, p - p0), min(COLUMNS, q - q0)
            stride = n_columns + LANES
            _draw(words, stride, ((a * q + q0) * p + p0, p, n, n_columns), drawn, (key0, key1, call, threshold))
            for e in range(n):
                start = (a * p + p0 + e) * q + q0
                law = e // LANES * stride, e % LANES, scale
                _apply(pointer(y, 0), pointer(x, 0), (start, n_columns, large, far), words, law)
        fence()
