"""Dropout kernels: with the mask drawn on the way, with a mask given, and the mask alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.mask_law import GROUP, keep_group
from normdrop._cpu.simd import LANES, fence, keep, load, load_bits, splat, store_bits
from normdrop._cpu.streaming import put, streams

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_BOOL = np.dtype(np.bool_)
_CHUNK = 128 * GROUP  # elements per task


@helper
def _is_kept(bits: Any, e: Any) -> Any:
    """Bit e of the 128 bits of a group."""
    return (bits[e // LANES] >> (e % LANES)) & 1 != 0


@helper
def _group_bits(group: Any, key0: Any, key1: Any, call: Any, threshold: Any) -> Any:
    return keep_group(np.uint64(group), np.uint64(call), np.uint64(key0), np.uint64(key1), np.uint64(threshold))


@kernel("oinnnnf")
def _dropout(y: Any, x: Any, key0: Any, key1: Any, call: Any, threshold: Any, scale: Any) -> None:
    """y[i] = scale * x[i] where the mask law keeps i, else +0; flat arrays. Parallel over chunks of groups."""
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        factor = x.dtype.type(scale)
        factors = splat(factor)
        streaming = streams(y, x, 0, LANES)
        for first in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n), GROUP):
            bits = _group_bits(first // GROUP, key0, key1, call, threshold)
            if first + GROUP <= n:
                for k in range(GROUP // LANES):
                    i = first + LANES * k
                    put(y, i, keep(bits[k], load(x, i) * factors), streaming)
            else:
                for e in range(n - first):
                    y[first + e] = x[first + e] * factor if _is_kept(bits, e) else x.dtype.type(0)
        fence()


@kernel("Mnnnnn")
def _keep_mask(mask: Any, key0: Any, key1: Any, call: Any, threshold: Any, first: Any) -> None:
    """mask[j] = whether the mask law keeps element first + j; flat. Parallel over chunks of groups."""
    group0 = first // GROUP
    offset = group0 * GROUP - first  # index in mask of the first group's first element, at most 0
    n_groups = (mask.size - offset + GROUP - 1) // GROUP
    for chunk in prange((n_groups + GROUP - 1) // GROUP):
        for g in range(chunk * GROUP, min(chunk * GROUP + GROUP, n_groups)):
            bits = _group_bits(group0 + g, key0, key1, call, threshold)
            start = offset + g * GROUP
            if start >= 0 and start + GROUP <= mask.size:
                for k in range(GROUP // LANES):
                    store_bits(mask, start + LANES * k, bits[k])
            else:
                for e in range(max(0, -start), min(GROUP, mask.size - start)):
                    mask[start + e] = _is_kept(bits, e)


@helper
def _scale_run(y: Any, x: Any, start: Any, stop: Any, factor: Any) -> None:
    """y = factor * x on [start, stop)."""
    factors = splat(factor)
    streaming = streams(y, x, start, LANES)
    i = start
    while i + LANES <= stop:
        put(y, i, load(x, i) * factors, streaming)
        i += LANES
    while i < stop:
        y[i] = x[i] * factor
        i += 1


@helper
def _mask_run(y: Any, x: Any, mask: Any, places: Any, factor: Any) -> None:
    """y = factor * x where the mask is set, else +0; places = (start, stop, start in mask)."""
    start, stop, at = places
    factors = splat(factor)
    streaming = streams(y, x, start, LANES)
    i = start
    while i + LANES <= stop:
        put(y, i, keep(load_bits(mask, at + (i - start)), load(x, i) * factors), streaming)
        i += LANES
    while i < stop:
        y[i] = x[i] * factor if mask[at + (i - start)] else x.dtype.type(0)
        i += 1


@kernel("oimnf")
def _mask_planes(y: Any, x: Any, mask: Any, length: Any, scale: Any) -> None:
    """y[a, s] = scale * x[a, s] where mask[a], else +0; flat arrays, planes of `length`. Parallel over chunks."""
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        while start < stop:
            plane = start // length
            end = min(stop, plane * length + length)
            if mask[plane]:
                _scale_run(y, x, start, end, x.dtype.type(scale))
            else:
                y[start:end] = x.dtype.type(0)
            start = end
        fence()


@kernel("oimnnf")
def _mask_elements(y: Any, x: Any, mask: Any, n_shared: Any, length: Any, scale: Any) -> None:
    """y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0; flat arrays, b < length. Parallel over chunks."""
    n = x.size
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        while start < stop:
            row = start // length
            end = min(stop, row * length + length)
            at = (row // n_shared) * length + start - row * length
            _mask_run(y, x, mask, (start, end, at), x.dtype.type(scale))
            start = end
        fence()


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Launch `_dropout`."""
    _dropout(x.dtype, x.size, y, x, key[0], key[1], call, threshold, scale)


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Launch `_keep_mask`."""
    _keep_mask(_BOOL, mask.size, mask, key[0], key[1], call, threshold, first)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """Launch `_mask_planes` where the mask is constant along memory, else `_mask_elements`."""
    _, n_shared, length = x.shape
    flat_y, flat_x, flat_mask = y.reshape(-1), x.reshape(-1), mask.reshape(-1)
    if length == 1 and n_shared > 1:
        _mask_planes(x.dtype, x.size, flat_y, flat_x, flat_mask, n_shared, scale)
    else:
        length = x.size if n_shared == 1 else length
        _mask_elements(x.dtype, x.size, flat_y, flat_x, flat_mask, n_shared, length, scale)
