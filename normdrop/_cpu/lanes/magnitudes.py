"""How large the lanes of float32 vectors are, as integers, which order NaN and infinity above all numbers.

A magnitude is the bits of a float32 without its sign, shifted to the top: its first 8 bits are those of the exponent.
With the JIT off, each function is its plain twin, as in `normdrop._cpu.lanes.simd`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from normdrop._cpu.lanes.bits import load_bits
from normdrop._cpu.lanes.simd import FLOAT64, LANES, VectorType, broadcast, compiled_as

_I16, _I32, _I64 = (ir.IntType(n) for n in (16, 32, 64))
_MAGNITUDES = VectorType(types.uint32)

NONE = np.uint32(0xFFFFFFFF)
"""What `least` starts with."""
SPLIT = 44
"""Binary digits of the upper part of a square that `splitter` makes."""
_BIAS, _SPLIT_BIT = 1023 + 52 - 252 - SPLIT, 1 << 51
_NOT_FINITE = 255


def _splat(value: int, kind: Any = _I32) -> Any:
    return ir.Constant(ir.VectorType(kind, LANES), [ir.Constant(kind, value)] * LANES)


def _magnitude_typing(_typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shl(builder.bitcast(args[0], ir.VectorType(_I32, LANES)), _splat(1))

    return _MAGNITUDES(x), codegen


@compiled_as(_magnitude_typing)
def magnitude(x: Any) -> Any:
    """Return the magnitude of each lane."""
    return x.view(np.uint32) << np.uint32(1)


def _greatest_typing(_typing_context: Any, high: Any, m: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.icmp_unsigned("<", *args), args[1], args[0])

    return high(high, m), codegen


@compiled_as(_greatest_typing)
def greatest(high: Any, m: Any) -> Any:
    """Return the greater magnitude of each lane."""
    return np.maximum(high, m)


def _least_typing(_typing_context: Any, low: Any, m: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        below = builder.sub(args[1], _splat(1))
        return builder.select(builder.icmp_unsigned("<", below, args[0]), below, args[0])

    return low(low, m), codegen


@compiled_as(_least_typing)
def least(low: Any, m: Any) -> Any:
    """Return the lesser of `low` and of the magnitude less one, by which a zero is above all."""
    return np.minimum(low, m - np.uint32(1))


def _within_typing(_typing_context: Any, low: Any, high: Any, n: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lowest, highest = (builder.lshr(m, _splat(24)) for m in args[:2])
        n = broadcast(builder, builder.trunc(args[2], _I32), LANES)
        near = builder.icmp_signed("<=", builder.sub(highest, lowest), n)
        finite = builder.icmp_unsigned("!=", highest, _splat(_NOT_FINITE))
        return builder.bitcast(builder.and_(near, finite), _I16)

    return types.uint16(low, high, types.int64), codegen


@compiled_as(_within_typing)
def within(low: Any, high: Any, n: Any) -> Any:
    """Return the lanes whose values are finite and, but for zeros, within n binary orders, as 16 bits."""
    lowest, highest = (m.astype(np.int64) >> 24 for m in (low, high))
    return load_bits((highest - lowest <= n) & (highest != _NOT_FINITE), 0)


def _splitter_typing(_typing_context: Any, high: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        exponent = builder.zext(builder.lshr(args[0], _splat(24)), ir.VectorType(_I64, LANES))
        biased = builder.add(builder.shl(exponent, _splat(1, _I64)), _splat(_BIAS, _I64))
        bits = builder.or_(builder.shl(biased, _splat(52, _I64)), _splat(_SPLIT_BIT, _I64))
        return builder.bitcast(bits, ir.VectorType(ir.DoubleType(), LANES))

    return FLOAT64(high), codegen


@compiled_as(_splitter_typing)
def splitter(high: Any) -> Any:
    """Return M of each lane: (q + M) - M rounds q, the square of no greater magnitude, to 44 binary digits below 2**k.

    2**k is a power of two above all these squares; M is 1.5 times a power of two, so that q may have any size below.
    """
    exponent = high.astype(np.int64) >> 24
    return (((2 * exponent + _BIAS) << 52) | _SPLIT_BIT).view(np.float64)


def _lane_typing(_typing_context: Any, value: Any, k: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], args[1])

    return value.dtype(value, types.int64), codegen


@compiled_as(_lane_typing)
def lane(value: Any, k: Any) -> Any:
    """Return lane k of a vector."""
    return value[k]
