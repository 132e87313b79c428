"""What formulas with cases need of vectors: comparisons, choices, powers of two, and their exponents.

With the JIT off, each function is its plain twin, as in `normdrop._cpu.lanes.simd`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from normdrop._cpu.lanes.bits import load_bits
from normdrop._cpu.lanes.simd import FLOAT64, LANES, VectorType, as_lanes, broadcast, compiled_as

_I1, _I16, _I64 = (ir.IntType(n) for n in (1, 16, 64))


def _vector(*kinds: Any) -> Any:
    """Numba's type of the vector among arguments of which others are numbers; of float64 if all are."""
    return next((kind for kind in kinds if isinstance(kind, VectorType)), FLOAT64)


def _less_typing(_typing_context: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        like = _vector(*sig.args)
        a, b = (as_lanes(context, builder, value, kind, like) for value, kind in zip(args, sig.args, strict=True))
        return builder.bitcast(builder.fcmp_ordered("<", a, b), _I16)

    return types.uint16(a, b), codegen


@compiled_as(_less_typing)
def less(a: Any, b: Any) -> Any:
    """Return a < b of each lane as 16 bits, the first lowest; either may be a number, and a NaN is not less."""
    return load_bits(np.broadcast_to(np.less(a, b), LANES), 0)


def _where_typing(_typing_context: Any, bits: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chosen, kinds = builder.bitcast(args[0], ir.VectorType(_I1, LANES)), sig.args[1:]
        a, b = (as_lanes(context, builder, value, kind, like) for value, kind in zip(args[1:], kinds, strict=True))
        return builder.select(chosen, a, b)

    like = _vector(a, b)
    return like(types.uint16, a, b), codegen


@compiled_as(_where_typing)
def where(bits: Any, a: Any, b: Any) -> Any:
    """Return the lanes of `a` whose bit is set, and the others of `b`; either may be a number."""
    return np.where((int(bits) >> np.arange(LANES)) & 1 == 1, a, b)


def _power_of_two_typing(_typing_context: Any, k: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        integers = ir.VectorType(_I64, LANES)
        bias = broadcast(builder, ir.Constant(ir.DoubleType(), 2.0**52 + 1023.0), LANES)
        exponent = builder.bitcast(builder.fadd(args[0], bias), integers)
        shifted = builder.shl(exponent, broadcast(builder, ir.Constant(_I64, 52), LANES))
        return builder.bitcast(shifted, args[0].type)

    return FLOAT64(k), codegen


@compiled_as(_power_of_two_typing)
def power_of_two(k: Any) -> Any:
    """Return 2**k of each lane, a whole number from -1022 to 1023; of anything else it is any number.

    The lowest bits of k + 2**52 + 1023 are those of the exponent.
    """
    return ((k + (2.0**52 + 1023.0)).view(np.int64) << 52).view(np.float64)


def _exponent_typing(_typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # The biased exponent is put into the lowest bits of 2**52, which conversions to float64 would take longer for.
        integers = ir.VectorType(_I64, LANES)
        shifted = builder.lshr(builder.bitcast(args[0], integers), broadcast(builder, ir.Constant(_I64, 52), LANES))
        whole = builder.or_(shifted, broadcast(builder, ir.Constant(_I64, 0x433 << 52), LANES))
        bias = broadcast(builder, ir.Constant(ir.DoubleType(), 2.0**52 + 1023.0), LANES)
        return builder.fsub(builder.bitcast(whole, args[0].type), bias)

    return FLOAT64(x), codegen


@compiled_as(_exponent_typing)
def exponent(x: Any) -> Any:
    """Return the whole number k with 2**k <= x < 2**(k + 1) of each lane, positive and not subnormal."""
    return ((x.view(np.int64) >> 52) - 1023).astype(np.float64)
