"""Vectors of 16 lanes for Numba kernels, and the mask law in them.

A kernel loads, computes and stores vectors with the functions below and ordinary operators; LLVM splits them into
what the CPU has (AVX-512, AVX2, SSE2, NEON). No operation is reordered or contracted, so the bits are the same
everywhere. With the JIT off, a vector is a NumPy array of 16 elements and each function is its plain twin, written
first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16

STREAM_ALIGNMENT = 16  # bytes, what NumPy gives every array; adjacent stores are joined to cache lines

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))


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
    set.add(builder.function.attributes, '"min-legal-vector-width"="512"')
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: ir.VectorType) -> Any:
    keep_vectors_whole(builder)
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _vector_of(context: Any, dtype: Any) -> ir.VectorType:
    return ir.VectorType(context.get_value_type(dtype), LANES)


def _load_typing(_typing_context: Any, x: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _vector_of(context, x.dtype)
        value = builder.load(_pointer(context, builder, x, args[0], args[1], vector))
        value.align = x.dtype.bitwidth // 8
        return value

    return VectorType(x.dtype)(x, types.uint64), codegen


@compiled_as(_load_typing)
def load(x: Any, i: Any) -> Any:
    """Return the vector x[i : i + 16] of a flat array."""
    return x[int(i) : int(i) + LANES].copy()


def _store_typing(_typing_context: Any, y: Any, i: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _vector_of(context, y.dtype)
        lanes = args[2]
        if value.dtype != y.dtype:
            lanes = builder.fptrunc(lanes, vector)
        stored = builder.store(lanes, _pointer(context, builder, y, args[0], args[1], vector))
        stored.align = y.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(y, types.uint64, value), codegen


@compiled_as(_store_typing)
def store(y: Any, i: Any, value: Any) -> None:
    """y[i : i + 16] = value, rounded to the dtype of y."""
    y[int(i) : int(i) + LANES] = value


def _stream_typing(_typing_context: Any, y: Any, i: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _vector_of(context, y.dtype)
        lanes = args[2]
        if value.dtype != y.dtype:
            lanes = builder.fptrunc(lanes, vector)
        n = STREAM_ALIGNMENT * 8 // y.dtype.bitwidth
        first = _pointer(context, builder, y, args[0], args[1], ir.VectorType(vector.element, n))
        for start in range(0, LANES, n):
            places = ir.Constant(ir.VectorType(_I32, n), [ir.Constant(_I32, start + k) for k in range(n)])
            part = builder.shuffle_vector(lanes, lanes, places)
            stored = builder.store(part, builder.gep(first, [ir.Constant(_I32, start // n)]))
            stored.align = STREAM_ALIGNMENT
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(y, types.uint64, value), codegen


@compiled_as(_stream_typing)
def stream(y: Any, i: Any, value: Any) -> None:
    """Set y[i : i + 16] = value past the caches; y[i] must be aligned to 16 bytes, and `fence` must follow."""
    y[int(i) : int(i) + LANES] = value


def _fence_typing(_typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@compiled_as(_fence_typing)
def fence() -> None:
    """Let other threads see what was streamed."""


def _address_typing(_typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(context.make_array(x)(context, builder, args[0]).data, _I64)

    return types.uint64(x), codegen


@compiled_as(_address_typing)
def address(x: Any) -> Any:
    """Return the address of the array's first element."""
    return x.ctypes.data


def _splat_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _vector_of(context, value)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], ir.Constant(_I32, 0))
        return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, LANES), None))

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
            parts = []
            for start in (0, n):
                places = ir.Constant(ir.VectorType(_I32, n), [ir.Constant(_I32, start + k) for k in range(n)])
                parts.append(builder.shuffle_vector(lanes, lanes, places))
            lanes = builder.fadd(*parts)
        return builder.extract_element(lanes, ir.Constant(_I32, 0))

    return types.float64(FLOAT64), codegen


@compiled_as(_sum_lanes_typing)
def sum_lanes(value: Any) -> Any:
    """Add the 16 lanes of a float64 vector, the upper half to the lower half until one is left."""
    while value.size > 1:
        half = value.size // 2
        value = value[:half] + value[half:]
    return value[0]


def _arithmetic(operation: Any, instruction: str) -> None:
    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], VectorType) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(operation, VectorType, VectorType)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _operation, _instruction in {
    operator.add: "fadd",
    operator.iadd: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
}.items():
    _arithmetic(_operation, _instruction)


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


def _load_bits_typing(_typing_context: Any, mask: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = builder.load(_pointer(context, builder, mask, args[0], args[1], ir.VectorType(_I8, LANES)))
        data.align = 1
        kept = builder.icmp_unsigned("!=", data, ir.Constant(data.type, None))
        return builder.bitcast(kept, _I16)

    return types.uint16(mask, types.uint64), codegen


@compiled_as(_load_bits_typing)
def load_bits(mask: Any, i: Any) -> Any:
    """Return mask[i : i + 16] of a flat boolean array as 16 bits, the first lowest."""
    return np.uint16(sum(int(value) << lane for lane, value in enumerate(mask[int(i) : int(i) + LANES])))


def _store_bits_typing(_typing_context: Any, mask: Any, i: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_I8, LANES)
        data = builder.zext(builder.bitcast(args[2], ir.VectorType(_I1, LANES)), vector)
        stored = builder.store(data, _pointer(context, builder, mask, args[0], args[1], vector))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(mask, types.uint64, types.uint16), codegen


@compiled_as(_store_bits_typing)
def store_bits(mask: Any, i: Any, bits: Any) -> None:
    """mask[i : i + 16] = the 16 bits, the lowest first."""
    mask[int(i) : int(i) + LANES] = (int(bits) >> np.arange(LANES)) & 1 == 1
