"""The numbers that the mask law compares with T, into a buffer in a near cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from normdrop import _philox
from normdrop._cpu.kernels.mask_law import PAIR, philox_code
from normdrop._cpu.kinds import Index, Memory
from normdrop._cpu.lanes.memory import place_of
from normdrop._cpu.lanes.simd import LANES, apart, broadcast, compiled_as
from normdrop._cpu.toolchain.launch import outlined

_I32 = ir.IntType(32)
_NUMBERS = ir.VectorType(ir.DoubleType(), LANES)


def _store_numbers_typing(_context: Any, buffer: Any, at: Any, pair: Any, call: Any, key0: Any, key1: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        buffer_, at, pair, call, *keys = args
        philox = philox_code(builder, pair, call, keys)
        place = place_of(context, builder, buffer, buffer_, at, _NUMBERS)

        def same(number: int) -> Any:
            return broadcast(builder, ir.Constant(_I32, number), LANES)

        half, k = broadcast(builder, ir.Constant(ir.DoubleType(), 0.5), LANES), 0
        for high, low in zip(philox.words(0), philox.words(1 << 31), strict=True):
            first = builder.or_(builder.shl(high, same(16)), builder.and_(low, same(0xFFFF)))
            second = builder.or_(builder.and_(high, same(0xFFFF0000)), builder.lshr(low, same(16)))
            for number in (first, second):
                stored = builder.store(
                    builder.fadd(builder.uitofp(number, _NUMBERS), half), builder.gep(place, [ir.Constant(_I32, k)])
                )
                stored.align = 8
                k += 1
        return context.get_dummy_value()

    return types.void(buffer, types.int64, types.uint64, types.uint64, types.uint64, types.uint64), codegen


@compiled_as(_store_numbers_typing)
def _store_numbers(buffer: Any, at: Any, pair: Any, call: Any, key0: Any, key1: Any) -> None:
    """Set buffer[at : at + 256] = n + 1/2 of elements 256 * pair + (0 ... 255), n the number of the mask law."""
    first, call, at = 2 * LANES * int(pair), int(call), int(at)
    counter = np.arange(2 * LANES, dtype=np.uint64) + np.uint64(first & 0xFFFFFFFF)
    block_high, call_low = (np.full_like(counter, word) for word in (first >> 32, call & 0xFFFFFFFF))
    lasts = [np.full_like(counter, (call >> 32) ^ flip) for flip in (0, 1 << 31)]
    highs, lows = (
        _philox.philox4x32(counter, block_high, call_low, last, np.uint64(key0), np.uint64(key1)) for last in lasts
    )
    for group in range(2):
        lanes = slice(group * LANES, (group + 1) * LANES)
        for high, low in zip(highs, lows, strict=True):
            for shift in (np.uint64(0), np.uint64(16)):
                upper, lower = ((word[lanes] >> shift) & np.uint64(0xFFFF) for word in (high, low))
                buffer[at : at + LANES] = ((upper << np.uint64(16)) | lower).astype(np.float64) + 0.5
                at += LANES


@outlined
def draw_numbers(buffer: Memory, first: Index, n_pairs: Index, key: Any, call: Index) -> None:
    """buffer[k] = n + 1/2 of element 256 * first + k, of n pairs of groups; key = its two words."""
    apart()
    for p in range(n_pairs):
        _store_numbers(buffer, p * PAIR, first + p, call, key[0], key[1])
