"""Dropout kernels: with the mask drawn on the way, with a mask given, and the mask alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from normdrop._cpu.half import stored
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.mask_law import GROUP, group_bits, is_kept
from normdrop._cpu.memory import (
    STREAM_ALIGNMENT,
    address,
    load,
    load_bits,
    load_part,
    pointer,
    splat_for,
    store_bits,
    store_part,
)
from normdrop._cpu.simd import LANES, keep
from normdrop._cpu.streaming import fence, first_whole, is_long, put, streams

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_BOOL = np.dtype(np.bool_)
_CHUNK = 128 * GROUP  # elements per task


@kernel("oinnnnf")
def _dropout(y: Any, x: Any, key0: Any, key1: Any, call: Any, threshold: Any, scale: Any) -> None:
    """y[i] = scale * x[i] where the mask law keeps i, else +0; flat arrays. Parallel over chunks of groups."""
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        factors = splat_for(x, scale)
        streaming = streams(y, x) and address(y) % STREAM_ALIGNMENT == 0
        to, source = pointer(y, 0), pointer(x, 0)
        for first in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n), GROUP):
            bits = group_bits(first // GROUP, key0, key1, call, threshold)
            if first + GROUP <= n:
                for k in range(GROUP // LANES):
                    i = first + LANES * k
                    put(to, i, keep(bits[k], load(source, i) * factors), streaming)
            else:
                for k in range(GROUP // LANES):
                    i = first + LANES * k
                    if i < n:
                        store_part(to, i, keep(bits[k], load_part(source, i, i, n) * factors), i, n)
        fence()


@kernel("Mnnnnn")
def _keep_mask(mask: Any, key0: Any, key1: Any, call: Any, threshold: Any, first: Any) -> None:
    """mask[j] = whether the mask law keeps element first + j; flat. Parallel over chunks of groups."""
    group0 = first // GROUP
    offset = group0 * GROUP - first  # index in mask of the first group's first element, at most 0
    n_groups = (mask.size - offset + GROUP - 1) // GROUP
    for chunk in prange((n_groups + GROUP - 1) // GROUP):
        to = pointer(mask, 0)
        for g in range(chunk * GROUP, min(chunk * GROUP + GROUP, n_groups)):
            bits = group_bits(group0 + g, key0, key1, call, threshold)
            start = offset + g * GROUP
            if start >= 0 and start + GROUP <= mask.size:
                for k in range(GROUP // LANES):
                    store_bits(to, start + LANES * k, bits[k])
            else:
                for e in range(max(0, -start), min(GROUP, mask.size - start)):
                    mask[start + e] = is_kept(bits, e)


@helper
def _scale_run(y: Any, x: Any, run: Any, scale: Any) -> None:
    """y = scale * x on run = (start, stop, whether long runs are streamed)."""
    start, stop = run[0], run[1]
    factors = splat_for(x, scale)
    streaming = run[2] and is_long(stop - start)
    i = first_whole(y, start, stop, streaming)
    if i > start:
        store_part(y, start, load_part(x, start, start, i) * factors, start, i)
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
    if i < stop:
        store_part(y, i, load_part(x, i, i, stop) * factors, i, stop)


@helper
def _zero_run(y: Any, x: Any, run: Any) -> None:
    """y = +0 on a run as of `_scale_run`; x is not read."""
    start, stop = run[0], run[1]
    zeros = splat_for(x, 0.0)
    streaming = run[2] and is_long(stop - start)
    i = first_whole(y, start, stop, streaming)
    if i > start:
        store_part(y, start, zeros, start, i)
    while i + LANES <= stop:
        put(y, i, zeros, streaming)
        i += LANES
    if i < stop:
        store_part(y, i, zeros, i, stop)


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
    """y[a, s] = scale * x[a, s] where mask[a], else +0; flat arrays, planes of `length`. Parallel over chunks."""
    n = x.size
    large = streams(y, x)
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        while start < stop:
            plane = start // length
            end = min(stop, plane * length + length)
            if mask[plane]:
                _scale_run(pointer(y, 0), pointer(x, 0), (start, end, large), scale)
            else:
                _zero_run(pointer(y, 0), pointer(x, 0), (start, end, large))
            start = end
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
