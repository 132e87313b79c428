"""Dropout kernels with the mask drawn on the way, and the mask alone."""

from __future__ import annotations

from typing import Any

from numba import prange

from normdrop._cpu.kernels.dropping import masked, numbers_of
from normdrop._cpu.kernels.mask_law import GROUP, PAIR, draw, kept
from normdrop._cpu.kinds import Index, Memory, Real
from normdrop._cpu.lanes.bits import store_bits
from normdrop._cpu.lanes.memory import (
    STREAM_ALIGNMENT,
    address,
    load,
    load_part,
    pointer,
    store_part,
)
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import (
    fence,
    prefetch_distance,
    prefetch_pays,
    prefetch_range,
    should_stream,
    store_or_stream,
)
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import PAIRS, READ_ONCE

_CHUNK = PAIRS * PAIR  # elements per task


@helper
def _keep_draws(y: Memory, x: Memory, i: Index, draws: Any, law: Any) -> None:
    """y = scale * x where kept, else +0, on 32 elements from i; law = (threshold, `numbers_of` it, streamed or not)."""
    threshold, numbers, streaming = law
    low, high = kept(draws, threshold)
    store_or_stream(y, i, masked(low, load(x, i), numbers), streaming)
    store_or_stream(y, i + LANES, masked(high, load(x, i + LANES), numbers), streaming)


@helper
def _keep_group(y: Memory, x: Memory, first: Index, draws: Any, law: Any) -> None:
    """As `_keep_draws` on 128 elements; four calls, for LLVM does not always unroll a loop over a tuple."""
    _keep_draws(y, x, first, draws[0], law)
    _keep_draws(y, x, first + 2 * LANES, draws[1], law)
    _keep_draws(y, x, first + 4 * LANES, draws[2], law)
    _keep_draws(y, x, first + 6 * LANES, draws[3], law)


@helper
def _keep_part(y: Memory, x: Memory, first: Index, n: Index, draws: Any, law: Any) -> None:
    """As `_keep_draws` on what there is of 256 elements."""
    threshold, numbers, _ = law
    for k in range(PAIR // (2 * LANES)):
        low, high = kept(draws[k], threshold)
        i = first + 2 * LANES * k
        if i < n:
            store_part(y, i, masked(low, load_part(x, i, i, n), numbers), i, n)
        if i + LANES < n:
            store_part(y, i + LANES, masked(high, load_part(x, i + LANES, i + LANES, n), numbers), i + LANES, n)


@kernel("oinnnnf")
def dropout(y: Memory, x: Memory, key0: Any, key1: Any, call: Any, threshold: Any, scale: Real) -> None:
    """y[i] = scale * x[i] where the mask law keeps i, else +0; flat arrays. Parallel over chunks of pairs of groups."""
    n = x.size
    far = prefetch_pays(x)
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        numbers = numbers_of(x, scale)
        streaming = should_stream(y, x, READ_ONCE) and address(y) % STREAM_ALIGNMENT == 0
        to, source = pointer(y, 0), pointer(x, 0)
        for first in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n), PAIR):
            draws = draw(first // PAIR, call, key0, key1, threshold)
            law = threshold, numbers, streaming
            if far:
                prefetch_range(source, first + prefetch_distance(source), PAIR)
            if first + PAIR <= n:
                _keep_group(to, source, first, draws[:4], law)
                _keep_group(to, source, first + GROUP, draws[4:], law)
            else:
                _keep_part(to, source, first, n, draws, law)
        fence()


@helper
def _set_group(mask: Any, first: Index, draws: Any, threshold: Any) -> None:
    """mask[first : first + 128] = which are kept."""
    for k in range(GROUP // (2 * LANES)):
        low, high = kept(draws[k], threshold)
        store_bits(mask, first + 2 * LANES * k, low)
        store_bits(mask, first + 2 * LANES * k + LANES, high)


@kernel("Mnnnnn")
def keep_mask(mask: Memory, key0: Any, key1: Any, call: Any, threshold: Any, first: Index) -> None:
    """mask[j] = whether the mask law keeps element first + j; flat. Parallel over chunks of pairs of groups."""
    pair0 = first // PAIR
    offset = pair0 * PAIR - first  # index in mask of the first pair's first element, at most 0
    n_pairs = (mask.size - offset + PAIR - 1) // PAIR
    for chunk in prange((n_pairs + PAIRS - 1) // PAIRS):
        to = pointer(mask, 0)
        for p in range(chunk * PAIRS, min(chunk * PAIRS + PAIRS, n_pairs)):
            draws = draw(pair0 + p, call, key0, key1, threshold)
            start = offset + p * PAIR
            if start >= 0 and start + PAIR <= mask.size:
                _set_group(to, start, draws[:4], threshold)
                _set_group(to, start + GROUP, draws[4:], threshold)
            else:
                for e in range(max(0, -start), min(PAIR, mask.size - start)):
                    low, high = kept(draws[e // (2 * LANES)], threshold)
                    bits = low if e % (2 * LANES) < LANES else high
                    mask[start + e] = (bits >> (e % LANES)) & 1 != 0
