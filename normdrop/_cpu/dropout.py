"""Dropout kernels: with the mask drawn on the way, with a mask given, and the mask alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from normdrop._cpu.bits import keep, load_bits, store_bits
from normdrop._cpu.half import stored
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.mask_law import GROUP, PAIR, draw, kept
from normdrop._cpu.memory import (
    CACHE_LINE,
    STREAM_ALIGNMENT,
    address,
    item_size,
    load,
    load_part,
    pointer,
    splat_for,
    store_part,
)
from normdrop._cpu.simd import LANES
from normdrop._cpu.streaming import fence, first_whole, is_long, put, streams

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_BOOL = np.dtype(np.bool_)
_PAIRS = 64  # pairs of groups per task
_CHUNK = _PAIRS * PAIR  # elements per task


@helper
def _keep_draws(y: Any, x: Any, i: Any, draws: Any, law: Any) -> None:
    """y = scale * x where kept, else +0, on 32 elements from i; law = (threshold, scale 16 times, whether streamed)."""
    threshold, factors, streaming = law
    low, high = kept(draws, threshold)
    put(y, i, keep(low, load(x, i) * factors), streaming)
    put(y, i + LANES, keep(high, load(x, i + LANES) * factors), streaming)


@helper
def _keep_group(y: Any, x: Any, first: Any, draws: Any, law: Any) -> None:
    """As `_keep_draws` on 128 elements; four calls, for LLVM does not always unroll a loop over a tuple."""
    _keep_draws(y, x, first, draws[0], law)
    _keep_draws(y, x, first + 2 * LANES, draws[1], law)
    _keep_draws(y, x, first + 4 * LANES, draws[2], law)
    _keep_draws(y, x, first + 6 * LANES, draws[3], law)


@helper
def _keep_part(y: Any, x: Any, first: Any, n: Any, draws: Any, law: Any) -> None:
    """As `_keep_draws` on what there is of 256 elements."""
    threshold, factors, _ = law
    for k in range(PAIR // (2 * LANES)):
        low, high = kept(draws[k], threshold)
        i = first + 2 * LANES * k
        if i < n:
            store_part(y, i, keep(low, load_part(x, i, i, n) * factors), i, n)
        if i + LANES < n:
            store_part(y, i + LANES, keep(high, load_part(x, i + LANES, i + LANES, n) * factors), i + LANES, n)


@kernel("oinnnnf")
def _dropout(y: Any, x: Any, key0: Any, key1: Any, call: Any, threshold: Any, scale: Any) -> None:
    """y[i] = scale * x[i] where the mask law keeps i, else +0; flat arrays. Parallel over chunks of pairs of groups."""
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        factors = splat_for(x, scale)
        streaming = streams(y, x) and address(y) % STREAM_ALIGNMENT == 0
        to, source = pointer(y, 0), pointer(x, 0)
        for first in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n), PAIR):
            draws = draw(first // PAIR, call, key0, key1, threshold)
            law = threshold, factors, streaming
            if first + PAIR <= n:
                _keep_group(to, source, first, draws[:4], law)
                _keep_group(to, source, first + GROUP, draws[4:], law)
            else:
                _keep_part(to, source, first, n, draws, law)
        fence()


@helper
def _set_group(mask: Any, first: Any, draws: Any, threshold: Any) -> None:
    """mask[first : first + 128] = which are kept."""
    for k in range(GROUP // (2 * LANES)):
        low, high = kept(draws[k], threshold)
        store_bits(mask, first + 2 * LANES * k, low)
        store_bits(mask, first + 2 * LANES * k + LANES, high)


@kernel("Mnnnnn")
def _keep_mask(mask: Any, key0: Any, key1: Any, call: Any, threshold: Any, first: Any) -> None:
    """mask[j] = whether the mask law keeps element first + j; flat. Parallel over chunks of pairs of groups."""
    pair0 = first // PAIR
    offset = pair0 * PAIR - first  # index in mask of the first pair's first element, at most 0
    n_pairs = (mask.size - offset + PAIR - 1) // PAIR
    for chunk in prange((n_pairs + _PAIRS - 1) // _PAIRS):
        to = pointer(mask, 0)
        for p in range(chunk * _PAIRS, min(chunk * _PAIRS + _PAIRS, n_pairs)):
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


@helper
def _scale_vectors(y: Any, x: Any, run: Any, factors: Any) -> Any:
    """y = factors * x on the whole vectors of run = (start, stop, whether streamed); return where they end."""
    i, stop, streaming = run
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        put(y, i, x0 * factors, streaming)
        put(y, i + LANES, x1 * factors, streaming)
        put(y, i + 2 * LANES, x2 * factors, streaming)
        put(y, i + 3 * LANES, x3 * factors, streaming)
        i += 4 * LANES
    while i + LANES <= stop:
        put(y, i, load(x, i) * factors, streaming)
        i += LANES
    return i


@helper
def _zero_vectors(y: Any, zeros: Any, run: Any) -> Any:
    """y = +0 on the whole vectors of a run as of `_scale_vectors`; return where they end."""
    i, stop, streaming = run
    while i + LANES <= stop:
        put(y, i, zeros, streaming)
        i += LANES
    return i


@helper
def _plane_bits(mask: Any, place: Any, length: Any, n: Any) -> Any:
    """Which of n elements, at most 16, are in planes that are kept, as bits; place = (plane of the first, its rest)."""
    plane, end = place
    bits, first = 0, 0
    while first < n:
        end = min(end, n)
        if mask[plane]:
            bits |= (1 << end) - (1 << first)
        plane, first, end = plane + 1, end, end + length
    return np.uint16(bits)


@helper
def _bits_part(mask: Any, at: Any, n: Any) -> Any:
    """mask[at : at + n] as bits, n < 16."""
    bits = 0
    for lane in range(n):
        bits |= mask[at + lane] << lane
    return np.uint16(bits)


@helper
def _mask_run(y: Any, x: Any, mask: Any, run: Any, scale: Any) -> None:
    """y = scale * x where the mask is set, else +0; run = (start, stop, whether long ones are streamed, mask's)."""
    start, stop, at = run[0], run[1], run[3]
    factors = splat_for(x, scale)
    streaming = run[2] and is_long(stop - start)
    i = first_whole(y, start, stop, streaming)
    if i > start:
        values = load_part(x, start, start, i) * factors
        store_part(y, start, keep(_bits_part(mask, at, i - start), values), start, i)
    at += i - start
    while i + LANES <= stop:
        put(y, i, keep(load_bits(mask, at), load(x, i) * factors), streaming)
        i += LANES
        at += LANES
    if i < stop:
        store_part(y, i, keep(_bits_part(mask, at, stop - i), load_part(x, i, i, stop) * factors), i, stop)


@kernel("oimnf")
def _mask_planes(y: Any, x: Any, mask: Any, length: Any, scale: Any) -> None:
    """y[a, s] = scale * x[a, s] where mask[a], else +0; flat arrays, planes of `length`. Parallel over chunks.

    Vectors follow flat memory, so that whole lines can be streamed however short the planes are.
    """
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        factors, zeros = splat_for(x, scale), splat_for(x, 0.0)
        # Vectors that are whole lines are streamed across the ends of planes, halves of lines within long planes.
        run = stop - start if LANES * item_size(y) % CACHE_LINE == 0 else min(stop - start, length)
        streaming = streams(y, x) and is_long(run)
        to, source = pointer(y, 0), pointer(x, 0)
        i = first_whole(to, start, stop, streaming)
        plane = start // length
        end = plane * length + length
        if i > start:
            bits = _plane_bits(mask, (plane, end - start), length, i - start)
            store_part(to, start, keep(bits, load_part(source, start, start, i) * factors), start, i)
        while i + LANES <= stop:
            while end <= i:
                plane += 1
                end += length
            if mask[plane]:
                i = _scale_vectors(to, source, (i, min(end, stop), streaming), factors)
            else:
                i = _zero_vectors(to, zeros, (i, min(end, stop), streaming))
            if i < end and i + LANES <= stop:
                bits = _plane_bits(mask, (plane, end - i), length, LANES)
                put(to, i, keep(bits, load(source, i) * factors), streaming)
                i += LANES
        if i < stop:
            while end <= i:
                plane += 1
                end += length
            bits = _plane_bits(mask, (plane, end - i), length, stop - i)
            store_part(to, i, keep(bits, load_part(source, i, i, stop) * factors), i, stop)
        fence()


@kernel("oimnnf")
def _mask_elements(y: Any, x: Any, mask: Any, n_shared: Any, length: Any, scale: Any) -> None:
    """y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0; flat arrays, b < length. Parallel over chunks."""
    n = x.size
    large = streams(y, x)
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        while start < stop:
            row = start // length
            end = min(stop, row * length + length)
            at = (row // n_shared) * length + start - row * length
            _mask_run(pointer(y, 0), pointer(x, 0), mask, (start, end, large, at), scale)
            start = end
        fence()


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Launch `_dropout`."""
    _dropout.variant(x.dtype, x.size)(stored(y), stored(x), key[0], key[1], call, threshold, scale)


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Launch `_keep_mask`."""
    _keep_mask.variant(_BOOL, mask.size)(mask, key[0], key[1], call, threshold, first)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """Launch `_mask_planes` where the mask is constant along memory, else `_mask_elements`."""
    _, n_shared, length = x.shape
    flat_y, flat_x, flat_mask = stored(y).reshape(-1), stored(x).reshape(-1), mask.reshape(-1)
    if length == 1 and n_shared > 1:
        _mask_planes.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, scale)
    else:
        length = x.size if n_shared == 1 else length
        _mask_elements.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, length, scale)
