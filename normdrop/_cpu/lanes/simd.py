"""Vectors of 16 lanes for Numba kernels.

A kernel computes with the functions below and ordinary operators, and `normdrop._cpu.lanes.memory` loads and stores.
LLVM splits the vectors into what the CPU has (AVX-512, AVX2, SSE2, NEON). No operation is reordered or contracted, so
the bits are the same everywhere. With the JIT off, a vector is a NumPy array of 16 elements and each function is its
plain twin, written first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from normdrop._cpu.toolchain import numba_internals, target

LANES = 16

_I32, _I64 = (ir.IntType(n) for n in (32, 64))


class VectorType(types.Type):
    """16 lanes of float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), LANES))


FLOAT64 = VectorType(types.float64)


def compiled_as(typing: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace a plain twin by an intrinsic in compiled code; `typing` returns (signature, codegen)."""

    def decorate(twin: Any) -> Any:
        if config.DISABLE_JIT:
            return twin
        typing.__name__ = twin.__name__
        typing.__doc__ = twin.__doc__
        return intrinsic(typing)

    return decorate


def keep_vectors_whole(builder: Any) -> None:
    """Let LLVM use 512-bit registers where it has them, also where it would prefer 256."""
    numba_internals.use_wide_registers(builder.function)


def align_stack(builder: Any) -> None:
    """Let LLVM keep vectors that do not fit the registers on whole cache lines of the stack.

    It takes the stack as it is, aligned to 16 bytes, unless something on it wants more before registers are assigned.
    Vectors across two lines, or two pages, are slow, by up to a half and from process to process.
    """
    line = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), 64))
    line.align = 64
    used = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [line.type]), "", "r", side_effect=True)
    builder.call(used, [line])


def _apart_typing(_typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        numba_internals.keep_apart(builder.function)
        keep_vectors_whole(builder)
        align_stack(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@compiled_as(_apart_typing)
def apart() -> None:
    """Say that the function is a call in machine code: see `normdrop._cpu.toolchain.launch.outlined`."""


def vector_of(context: Any, dtype: Any) -> ir.VectorType:
    """LLVM's vector of 16 such scalars."""
    return ir.VectorType(context.get_value_type(dtype), LANES)


def broadcast(builder: Any, value: Any, n: int) -> Any:
    """LLVM code: n lanes of one scalar."""
    undefined = ir.Constant(ir.VectorType(value.type, n), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, n), None))


def short_name(scalar: Any) -> str:
    """LLVM's name of a scalar type in the names of its functions."""
    return {"float": "f32", "double": "f64"}.get(str(scalar), str(scalar))


def pieces(builder: Any, lanes: Any, n: int) -> list[Any]:
    """LLVM code: a vector in pieces of at most n lanes."""
    if n >= lanes.type.count:
        return [lanes]
    starts = range(0, lanes.type.count, n)
    places = [[ir.Constant(_I32, start + k) for k in range(n)] for start in starts]
    return [builder.shuffle_vector(lanes, lanes, ir.Constant(ir.VectorType(_I32, n), place)) for place in places]


def _splat_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0], LANES)

    return VectorType(value)(value), codegen


@compiled_as(_splat_typing)
def splat(value: Any) -> Any:
    """Return a vector with `value` in every lane."""
    return np.full(LANES, value)


def _widen_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if value == FLOAT64:
            return args[0]
        return builder.fpext(args[0], ir.VectorType(ir.DoubleType(), LANES))

    return FLOAT64(value), codegen


@compiled_as(_widen_typing)
def widen(value: Any) -> Any:
    """Return the vector in float64."""
    return value.astype(np.float64)


def _sum_lanes_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes, n = args[0], LANES
        while n > 1:
            n //= 2
            lanes = builder.fadd(*pieces(builder, lanes, n))
        return builder.extract_element(lanes, ir.Constant(_I32, 0))

    return types.float64(FLOAT64), codegen


@compiled_as(_sum_lanes_typing)
def sum_lanes(value: Any) -> Any:
    """Add the 16 lanes of a float64 vector, the upper half to the lower half until one is left."""
    while value.size > 1:
        half = value.size // 2
        value = value[:half] + value[half:]
    return value[0]


def _sqrt_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0].type
        name = f"llvm.sqrt.v{LANES}{short_name(vector.element)}"
        return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(vector, [vector])), args)

    return value(value), codegen


@compiled_as(_sqrt_typing)
def sqrt(value: Any) -> Any:
    """Return the square root of each lane, rounded once."""
    return np.sqrt(value)


def _at_least_zero_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return value(value), codegen


@compiled_as(_at_least_zero_typing)
def at_least_zero(value: Any) -> Any:
    """Return the vector with 0 in every lane that is negative; a NaN stays."""
    return np.where(value < 0, value.dtype.type(0), value)


def _add(builder: Any, a: Any, b: Any) -> Any:
    """a + b; in float64 on AVX-512 as a * 1 + b, which is rounded once, too, and so has the same bits.

    Loops over float64 have more sums than products; processors with units for either (AMD's Zen) so use both for sums.
    LLVM must not know the factor, or it would take it out.
    """
    if a.type.element != ir.DoubleType() or target.vector_width() < 512:
        return builder.fadd(a, b)
    opaque = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0")
    bits = builder.call(opaque, [ir.Constant(_I64, 0x3FF0000000000000)], attrs=("nounwind", "readnone"))
    one = broadcast(builder, builder.bitcast(bits, ir.DoubleType()), LANES)
    function = ir.FunctionType(a.type, [a.type] * 3)
    fused = builder.module.declare_intrinsic(f"llvm.fmuladd.v{LANES}f64", (), function)
    return builder.call(fused, [a, one, b])


def as_lanes(context: Any, builder: Any, value: Any, kind: Any, like: Any = FLOAT64) -> Any:
    """LLVM code: a vector as it is, and a number in every lane of one like that."""
    if isinstance(kind, VectorType):
        return value
    return broadcast(builder, context.cast(builder, value, kind, like.dtype), LANES)


def _arithmetic(operation: Any, instruction: Callable[[Any, Any, Any], Any]) -> None:
    """Let Numba know an operation of two vectors, and of a float64 vector and a float64 number."""

    @type_callable(operation)
    def _typing(_typing_context: Any) -> Any:
        def result(a: Any, b: Any) -> Any:
            if isinstance(a, VectorType) and a == b:
                return a
            return FLOAT64 if (a, b) in ((FLOAT64, types.float64), (types.float64, FLOAT64)) else None

        return result

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (as_lanes(context, builder, value, kind) for value, kind in zip(args, sig.args, strict=True))
        return instruction(builder, a, b)

    for kinds in ((VectorType, VectorType), (VectorType, types.Float), (types.Float, VectorType)):
        lower_builtin(operation, *kinds)(lower)


for _operation, _instruction in {
    operator.add: _add,
    operator.iadd: _add,
    operator.sub: ir.IRBuilder.fsub,
    operator.mul: ir.IRBuilder.fmul,
    operator.truediv: ir.IRBuilder.fdiv,
}.items():
    _arithmetic(_operation, _instruction)


def _horner_typing(_typing_context: Any, p: Any, x: Any, c: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        p, x, c = (as_lanes(context, builder, value, kind) for value, kind in zip(args, sig.args, strict=True))
        return builder.fadd(builder.fmul(p, x), c)

    return FLOAT64(p, x, c), codegen


@compiled_as(_horner_typing)
def horner(p: Any, x: Any, c: Any) -> Any:
    """Return p * x + c, rounded twice; p and c may be numbers.

    As many sums as products keep both kinds of units busy, so that this sum is not `_add`'s.
    """
    return p * x + c
