"""Loads and stores of vectors and bits for Numba kernels.

An index is an element of a flat array, or of a pointer to a contiguous one. Values are float32 or float64; float16 and
bfloat16 are converted on the way (`normdrop._cpu.lanes.half`). With the JIT off, each function is its plain twin, as in
`normdrop._cpu.lanes.simd`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from normdrop._cpu.lanes import half
from normdrop._cpu.lanes.simd import (
    LANES,
    VectorType,
    align_stack,
    broadcast,
    compiled_as,
    keep_vectors_whole,
    pieces,
    short_name,
    vector_of,
)
from normdrop._cpu.toolchain import target

STREAM_ALIGNMENT = 16  # bytes, what NumPy gives every array; adjacent stores are joined to cache lines
CACHE_LINE = 64  # bytes

_I8, _I32, _I64 = (ir.IntType(n) for n in (8, 32, 64))


class PointerType(types.Type):
    """Where elements are; unlike an array it has no reference count, which costs in short loops."""

    def __init__(self, dtype: Any, mutable: bool) -> None:
        self.dtype = dtype
        self.mutable = mutable
        super().__init__(name=f"Pointer({dtype}, {mutable})")


@register_model(PointerType)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, pointer: PointerType) -> None:
        super().__init__(manager, pointer, manager[pointer.dtype].get_data_type().as_pointer())


def _data(context: Any, builder: Any, x: Any, value: Any) -> Any:
    """Code for the address of the first element of an array, or of what a pointer points to."""
    return value if isinstance(x, PointerType) else cgutils.create_struct_proxy(x)(context, builder, value).data


def place_of(context: Any, builder: Any, x: Any, value: Any, index: Any, target: ir.Type) -> Any:
    """Code for the address of element `index`, as one of `target`."""
    keep_vectors_whole(builder)
    return builder.bitcast(builder.gep(_data(context, builder, x, value), [index]), target.as_pointer())


def _pointer_typing(_typing_context: Any, x: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(_data(context, builder, x, args[0]), [args[1]])
        if isinstance(x, PointerType):
            return place
        align_stack(builder)
        opaque = ir.InlineAsm(ir.FunctionType(place.type, [place.type]), "", "=r,0")
        return builder.call(opaque, [place])  # LLVM does not know that it is the same

    return PointerType(x.dtype, x.mutable)(x, types.int64), codegen


@compiled_as(_pointer_typing)
def pointer(x: Any, i: Any) -> Any:
    """Return where element i of a contiguous array is, which the functions of this module take for a flat array.

    Numba tells LLVM that arrays in parallel loops never overlap; those that may be one, in place, are reached by this.
    """
    return x.reshape(-1)[int(i) :]


def _item_size_typing(_typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(_I64, x.dtype.bitwidth // 8)

    return types.int64(x), codegen


@compiled_as(_item_size_typing)
def item_size(x: Any) -> Any:
    """Return the bytes of an element, a constant in compiled code."""
    return x.itemsize


def load_typing(_typing_context: Any, x: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = builder.load(place_of(context, builder, x, args[0], args[1], vector_of(context, x.dtype)))
        lanes.align = x.dtype.bitwidth // 8
        return half.read(builder, x.dtype, lanes)

    return VectorType(half.value_type(x.dtype))(x, types.uint64), codegen


@compiled_as(load_typing)
def load(x: Any, i: Any) -> Any:
    """Return the vector x[i : i + 16]."""
    return half.to_values(x[int(i) : int(i) + LANES])


def _stored(context: Any, builder: Any, y: Any, value: Any, args: Any, n: int) -> list[Any]:
    """Code to store args = (y, i, lanes of `value`'s type) in pieces of at most n lanes: the instructions.

    Float64 becomes float32 by halves: they come from two registers, and to join them would take one more step.
    """
    array, i, lanes = args
    first, offset, stores = place_of(context, builder, y, array, i, context.get_value_type(y.dtype)), 0, []
    by_halves = value.dtype == types.float64 and y.dtype == types.float32
    for part in pieces(builder, lanes, LANES // 2 if by_halves else LANES):
        for piece in pieces(builder, half.written(builder, y.dtype, value.dtype, part), n):
            place = builder.gep(first, [ir.Constant(_I64, offset)])
            stores.append(builder.store(piece, builder.bitcast(place, piece.type.as_pointer())))
            offset += piece.type.count
    return stores


def _store_typing(_typing_context: Any, y: Any, i: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for stored in _stored(context, builder, y, value, args, LANES):
            stored.align = y.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(y, types.uint64, value), codegen


@compiled_as(_store_typing)
def store(y: Any, i: Any, value: Any) -> None:
    """y[i : i + 16] = value, rounded to the dtype of y."""
    y[int(i) : int(i) + LANES] = half.to_bits(value, y.dtype)


def _lanes_inside(builder: Any, i: Any, start: Any, stop: Any) -> Any:
    """Bits of the lanes with start <= i + lane < stop."""
    lanes = ir.Constant(ir.VectorType(_I64, LANES), [ir.Constant(_I64, lane) for lane in range(LANES)])
    places = builder.add(broadcast(builder, i, LANES), lanes)
    return builder.and_(
        builder.icmp_signed(">=", places, broadcast(builder, start, LANES)),
        builder.icmp_signed("<", places, broadcast(builder, stop, LANES)),
    )


def _masked(builder: Any, name: str, vector: ir.VectorType, arguments: list[Any], result: Any) -> Any:
    mangled = f"llvm.masked.{name}.v{LANES}{short_name(vector.element)}.p0"
    function = builder.module.declare_intrinsic(mangled, (), ir.FunctionType(result, [a.type for a in arguments]))
    return builder.call(function, arguments)


def load_part_typing(_typing_context: Any, x: Any, i: Any, start: Any, stop: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = vector_of(context, x.dtype)
        array, i, start, stop = args
        arguments = [
            place_of(context, builder, x, array, i, vector),
            ir.Constant(_I32, x.dtype.bitwidth // 8),
            _lanes_inside(builder, i, start, stop),
            ir.Constant(vector, None),
        ]
        return half.read(builder, x.dtype, _masked(builder, "load", vector, arguments, vector))

    return VectorType(half.value_type(x.dtype))(x, types.int64, types.int64, types.int64), codegen


@compiled_as(load_part_typing)
def load_part(x: Any, i: Any, start: Any, stop: Any) -> Any:
    """Return the vector x[i : i + 16], with zeros for what does not lie in [start, stop) and is not read."""
    inside = slice(max(i, start), min(i + LANES, stop))
    values = np.zeros(LANES, half.value_dtype(x.dtype))
    values[inside.start - i : inside.stop - i] = half.to_values(x[inside])
    return values


def _store_part_typing(_typing_context: Any, y: Any, i: Any, value: Any, start: Any, stop: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, i, lanes, start, stop = args
        lanes = half.written(builder, y.dtype, value.dtype, lanes)
        arguments = [
            lanes,
            place_of(context, builder, y, array, i, lanes.type),
            ir.Constant(_I32, y.dtype.bitwidth // 8),
            _lanes_inside(builder, i, start, stop),
        ]
        _masked(builder, "store", lanes.type, arguments, ir.VoidType())
        return context.get_dummy_value()

    return types.void(y, types.int64, value, types.int64, types.int64), codegen


@compiled_as(_store_part_typing)
def store_part(y: Any, i: Any, value: Any, start: Any, stop: Any) -> None:
    """y[i : i + 16] = value as far as it lies in [start, stop), rounded to the dtype of y."""
    inside = slice(max(i, start), min(i + LANES, stop))
    y[inside] = half.to_bits(value, y.dtype)[inside.start - i : inside.stop - i]


def _as_stored_typing(_typing_context: Any, to: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return half.read(builder, to.dtype, half.written(builder, to.dtype, value.dtype, args[1]))

    return VectorType(half.value_type(to.dtype))(to, value), codegen


@compiled_as(_as_stored_typing)
def as_stored(to: Any, value: Any) -> Any:
    """Return what `load` would give of the vector, once it is stored in an array like `to`: rounded to its dtype."""
    return half.to_values(half.to_bits(value, to.dtype))


def element_typing(_typing_context: Any, x: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        single = ir.VectorType(context.get_value_type(x.dtype), 1)
        lanes = builder.load(place_of(context, builder, x, args[0], args[1], single))
        lanes.align = x.dtype.bitwidth // 8
        value = builder.extract_element(half.read(builder, x.dtype, lanes), ir.Constant(_I32, 0))
        return value if x.dtype == types.float64 else builder.fpext(value, ir.DoubleType())

    return types.float64(x, types.uint64), codegen


@compiled_as(element_typing)
def element(x: Any, i: Any) -> Any:
    """Return x[i] in float64."""
    return np.float64(half.to_values(x[int(i) : int(i) + 1])[0])


def _splat_for_typing(_typing_context: Any, x: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = args[1]
        if half.value_type(x.dtype) == types.float32:
            scalar = builder.fptrunc(scalar, ir.FloatType())
        return broadcast(builder, scalar, LANES)

    return VectorType(half.value_type(x.dtype))(x, types.float64), codegen


@compiled_as(_splat_for_typing)
def splat_for(x: Any, value: Any) -> Any:
    """Return a vector with `value` in every lane, rounded to the dtype in which x's values are computed."""
    return np.full(LANES, value, half.value_dtype(x.dtype))


def _stream_typing(_typing_context: Any, y: Any, i: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # Arm streams two registers at once, x86 one; adjacent ones are joined to longer ones.
        n_bytes = STREAM_ALIGNMENT * (2 if target.is_arm() else 1)
        for stored in _stored(context, builder, y, value, args, n_bytes * 8 // y.dtype.bitwidth):
            stored.align = STREAM_ALIGNMENT
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(y, types.uint64, value), codegen


@compiled_as(_stream_typing)
def stream(y: Any, i: Any, value: Any) -> None:
    """Set y[i : i + 16] = value past the caches; y[i] must be aligned to 16 bytes, and `fence` must follow."""
    store(y, i, value)


def _prefetch_typing(_typing_context: Any, x: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = place_of(context, builder, x, args[0], args[1], _I8)
        flags = [ir.Constant(_I32, flag) for flag in (int(x.mutable), 2, 1)]
        arguments = [place, *flags]
        signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.module.declare_intrinsic("llvm.prefetch.p0", (), signature), arguments)
        return context.get_dummy_value()

    return types.void(x, types.int64), codegen


@compiled_as(_prefetch_typing)
def prefetch(x: Any, i: Any) -> None:
    """Prefetch the cache line of x[i] into the second-level cache, to write if `x` is writable; `i` may be anywhere."""


def _address_typing(_typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(_data(context, builder, x, args[0]), _I64)

    return types.int64(x), codegen


@compiled_as(_address_typing)
def address(x: Any) -> Any:
    """Return the address of the array's first element."""
    return x.ctypes.data
