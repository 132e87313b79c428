"""The mask law in vectors, with a T for each element: which of 256 elements are kept."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from normdrop import _philox
from normdrop._cpu.kernels.mask_law import PAIR, philox_code
from normdrop._cpu.lanes.bits import load_bits
from normdrop._cpu.lanes.memory import place_of
from normdrop._cpu.lanes.simd import LANES, broadcast, compiled_as

_I1, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 16, 32, 64))
_NUMBERS, _WORDS, _WIDE = (ir.VectorType(element, LANES) for element in (ir.DoubleType(), _I32, _I64))
_WHOLE = 2.0**52  # added to a whole number, which then stands in the lowest bits
_HALF, _SHIFTS = np.uint64(0xFFFF), (np.uint64(0), np.uint64(16))


def _same(builder: Any, number: int) -> Any:
    return broadcast(builder, ir.Constant(_I32, number), LANES)


def _halves(builder: Any, words: list[Any]) -> list[Any]:
    """Code for the 16-bit numbers of elements, 16 in each vector, in their order."""
    low = _same(builder, 0xFFFF)
    return [half for word in words for half in (builder.and_(word, low), builder.lshr(word, _same(builder, 16)))]


def _kept_where_typing(_typing_context: Any, pair: Any, call: Any, key0: Any, key1: Any, limits: Any, at: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair, call, key0, key1, array, at = args
        philox = philox_code(builder, pair, call, [key0, key1])
        place = place_of(context, builder, limits, array, at, _NUMBERS)
        whole = broadcast(builder, ir.Constant(ir.DoubleType(), _WHOLE), LANES)
        sixteen = broadcast(builder, ir.Constant(_I64, 16), LANES)

        def threshold(k: int) -> Any:
            loaded = builder.load(builder.gep(place, [ir.Constant(_I32, k)]))
            loaded.align = 8
            return builder.bitcast(builder.fadd(loaded, whole), _WIDE)

        above, ties = [], []
        for k, half in enumerate(_halves(builder, philox.words(0))):
            high = builder.trunc(builder.lshr(threshold(k), sixteen), _WORDS)
            above.append(builder.bitcast(builder.icmp_unsigned(">", half, high), _I16))
            ties.append(builder.bitcast(builder.icmp_unsigned("==", half, high), _I16))
        any_tie = functools.reduce(builder.or_, ties)
        before = builder.block
        with builder.if_then(builder.icmp_unsigned("!=", any_tie, ir.Constant(_I16, 0)), likely=False):
            resolved = []
            for k, half in enumerate(_halves(builder, philox.words(1 << 31))):
                low = builder.and_(builder.trunc(threshold(k), _WORDS), _same(builder, 0xFFFF))
                stays = builder.bitcast(builder.icmp_unsigned(">=", half, low), _I16)
                resolved.append(builder.or_(above[k], builder.and_(ties[k], stays)))
            inside = builder.block
        bits = [builder.phi(_I16) for _ in above]
        for merged, first, other in zip(bits, above, resolved, strict=True):
            merged.add_incoming(first, before)
            merged.add_incoming(other, inside)
        return cgutils.pack_array(builder, bits)

    numbers = (types.uint64,) * 4
    return types.UniTuple(types.uint16, PAIR // LANES)(*numbers, limits, types.uint64), codegen


@compiled_as(_kept_where_typing)
def kept_where(pair: Any, call: Any, key0: Any, key1: Any, limits: Any, at: Any) -> Any:
    """Return which of elements 256 * pair + (0 ... 255) are kept, as sixteen times 16 bits, the first lowest.

    T of element k is limits[at + k], a whole number from 0 to 2**32 in float64.
    """
    first, call, at = 2 * LANES * int(pair), int(call), int(at)
    counter = np.arange(2 * LANES, dtype=np.uint64) + np.uint64(first & 0xFFFFFFFF)
    block_high, call_low = (np.full_like(counter, word) for word in (first >> 32, call & 0xFFFFFFFF))
    lasts = [np.full_like(counter, (call >> 32) ^ flip) for flip in (0, 1 << 31)]
    keys = np.uint64(key0), np.uint64(key1)
    highs, lows = (_philox.philox4x32(counter, block_high, call_low, last, *keys) for last in lasts)
    found: list[Any] = []
    for group in range(2):
        lanes = slice(group * LANES, (group + 1) * LANES)
        for high, low in zip(highs, lows, strict=True):
            for shift in _SHIFTS:
                place = at + LANES * len(found)
                thresholds = limits[place : place + LANES].astype(np.uint64)
                kept = _philox.keeps((high[lanes] >> shift) & _HALF, (low[lanes] >> shift) & _HALF, thresholds)
                found.append(load_bits(kept, 0))
    return tuple(found)
