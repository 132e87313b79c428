"""Sixteen decisions as the bits of a number, the first lowest: they choose among the lanes of a vector.

Where no vector waits for them, 64 are a word. With the JIT off, each function is its plain twin, as in
`normdrop._cpu.lanes.simd`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from normdrop._cpu.lanes.memory import place_of
from normdrop._cpu.lanes.simd import LANES, broadcast, compiled_as, keep_vectors_whole

_I1, _I8, _I16 = (ir.IntType(n) for n in (1, 8, 16))


def _keep_typing(_typing_context: Any, bits: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kept = builder.bitcast(args[0], ir.VectorType(_I1, LANES))
        return builder.select(kept, args[1], ir.Constant(args[1].type, None))

    return value(types.uint16, value), codegen


@compiled_as(_keep_typing)
def keep(bits: Any, value: Any) -> Any:
    """Return the vector with +0 in every lane whose bit is not set."""
    kept = (int(bits) >> np.arange(LANES)) & 1 == 1
    return np.where(kept, value, value.dtype.type(0))


def _keep_product_typing(_typing_context: Any, bits: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kept = builder.bitcast(args[0], ir.VectorType(_I1, LANES))
        return builder.select(kept, builder.fmul(args[1], args[2]), ir.Constant(args[1].type, None))

    return a(types.uint16, a, b), codegen


@compiled_as(_keep_product_typing)
def keep_product(bits: Any, a: Any, b: Any) -> Any:
    """Return a * b with +0 in every lane whose bit is not set."""
    return keep(bits, a * b)


def _zeros_typing(_typing_context: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, None)

    return like(like), codegen


@compiled_as(_zeros_typing)
def zeros(like: Any) -> Any:
    """Return a vector of +0."""
    return np.zeros_like(like)


def _choose_typing(_typing_context: Any, bits: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.bitcast(args[0], ir.VectorType(_I1, LANES)), args[1], args[2])

    return a(types.uint16, a, b), codegen


@compiled_as(_choose_typing)
def choose(bits: Any, a: Any, b: Any) -> Any:
    """Return the lanes of `a` whose bit is set, and the others of `b`."""
    return np.where((int(bits) >> np.arange(LANES)) & 1 == 1, a, b)


def _is_zero_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = builder.fcmp_ordered("==", args[0], ir.Constant(args[0].type, None))
        return builder.bitcast(zero, _I16)

    return types.uint16(value), codegen


@compiled_as(_is_zero_typing)
def is_zero(value: Any) -> Any:
    """Return which lanes are +0 or -0, as 16 bits, the first lowest."""
    return load_bits(value == 0, 0)


def _lane_bits_typing(_typing_context: Any, words: Any, i: Any, e: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        keep_vectors_whole(builder)
        array, i, e = args
        vector = ir.VectorType(_I16, LANES)
        data = cgutils.create_struct_proxy(words)(context, builder, array).data
        lanes = builder.load(builder.bitcast(builder.gep(data, [i]), vector.as_pointer()))
        lanes.align = 2
        bit = builder.shl(ir.Constant(_I16, 1), builder.trunc(e, _I16))
        chosen = builder.and_(lanes, broadcast(builder, bit, LANES))
        return builder.bitcast(builder.icmp_unsigned("!=", chosen, ir.Constant(vector, None)), _I16)

    return types.uint16(words, types.uint64, types.uint64), codegen


@compiled_as(_lane_bits_typing)
def lane_bits(words: Any, i: Any, e: Any) -> Any:
    """Return bit e of each of words[i : i + 16], an array of uint16, as 16 bits, the first lowest."""
    chosen = (words[int(i) : int(i) + LANES] >> np.uint16(e)) & np.uint16(1)
    return load_bits(chosen != 0, 0)


def load_bits_typing(_typing_context: Any, mask: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = builder.load(place_of(context, builder, mask, args[0], args[1], ir.VectorType(_I8, LANES)))
        data.align = 1
        kept = builder.icmp_unsigned("!=", data, ir.Constant(data.type, None))
        return builder.bitcast(kept, _I16)

    return types.uint16(mask, types.uint64), codegen


@compiled_as(load_bits_typing)
def load_bits(mask: Any, i: Any) -> Any:
    """Return mask[i : i + 16] of a flat array, whether they are not 0, as 16 bits, the first lowest."""
    return np.uint16(sum(int(value != 0) << lane for lane, value in enumerate(mask[int(i) : int(i) + LANES])))


def _store_bits_typing(_typing_context: Any, mask: Any, i: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_I8, LANES)
        data = builder.zext(builder.bitcast(args[2], ir.VectorType(_I1, LANES)), vector)
        stored = builder.store(data, place_of(context, builder, mask, args[0], args[1], vector))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(mask, types.uint64, types.uint16), codegen


@compiled_as(_store_bits_typing)
def store_bits(mask: Any, i: Any, bits: Any) -> None:
    """mask[i : i + 16] = the 16 bits, the lowest first."""
    mask[int(i) : int(i) + LANES] = (int(bits) >> np.arange(LANES)) & 1 == 1


def _count_bits_typing(_typing_context: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@compiled_as(_count_bits_typing)
def count_bits(word: Any) -> Any:
    """Return how many bits of a word of 64 are set."""
    return int(word).bit_count()


def _first_bit_typing(_typing_context: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(_I1, 0))

    return types.int64(types.uint64), codegen


@compiled_as(_first_bit_typing)
def first_bit(word: Any) -> Any:
    """Return the place of the lowest bit of a word of 64 that is set; one must be."""
    return (int(word) & -int(word)).bit_length() - 1
