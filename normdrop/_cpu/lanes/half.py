"""Float16 and bfloat16 in memory: their bits, and code that turns them into float32 and back.

Numba knows neither type. Kernels see float16 arrays as uint16 and bfloat16 arrays as int16, which are told apart by
their type alone; values are float32 between load and store. Conversions round to nearest, ties to even, as NumPy's do.
LLVM's own half type is used only where the CPU has instructions for it: elsewhere it calls a function that Numba's
process does not have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from normdrop._cpu.toolchain import target

Array = npt.NDArray[Any]

_BITS = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.int16)}
_I16, _I32 = ir.IntType(16), ir.IntType(32)


def storage(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype under which kernels see arrays of `dtype`."""
    return _BITS[dtype.name] if dtype.itemsize == 2 else dtype


def stored(x: Array) -> Array:
    """Return the array as kernels see it."""
    return x.view(_BITS[x.dtype.name]) if x.itemsize == 2 else x


def value_type(dtype: Any) -> Any:
    """Return the Numba type of the values of an array with elements of this Numba type."""
    return types.float32 if isinstance(dtype, types.Integer) else dtype


def value_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the values of an array that kernels see with this dtype."""
    return np.dtype(np.float32) if dtype.kind in "iu" else dtype


def to_values(bits: Array) -> Array:
    """Plain twin of `read`: a new array of values."""
    if bits.dtype == np.uint16:
        return bits.view(np.float16).astype(np.float32)
    if bits.dtype == np.int16:
        return (bits.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.copy()


def to_bits(values: Array, dtype: np.dtype[Any]) -> Array:
    """Plain twin of `written`: values rounded to what an array of this dtype holds."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, in silence as in compiled code
        if dtype.kind == "f":
            return values.astype(dtype)
        values = values.astype(np.float32)
        if dtype == np.uint16:
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), bits >> np.uint32(16) | np.uint32(0x40), rounded).astype(np.uint16).view(np.int16)


def read(builder: Any, dtype: Any, lanes: Any) -> Any:
    """Code for the values of loaded lanes."""
    if not isinstance(dtype, types.Integer):
        return lanes
    code = _Code(builder, lanes.type.count)
    if dtype.signed:
        return code.as_float(code.shifted_left(code.wide(lanes), 16))
    if target.has_half_instructions():
        return builder.fpext(builder.bitcast(lanes, ir.VectorType(ir.HalfType(), code.n)), code.floats)
    return code.from_half(code.wide(lanes))


def written(builder: Any, dtype: Any, value: Any, lanes: Any) -> Any:
    """Code for what to store in an array of `dtype` of lanes of `value`'s type."""
    n = lanes.type.count
    if value != value_type(dtype):
        lanes = builder.fptrunc(lanes, ir.VectorType(ir.FloatType(), n))
    if not isinstance(dtype, types.Integer):
        return lanes
    code = _Code(builder, n)
    if dtype.signed:
        bits = code.to_bfloat(lanes)
    elif target.has_half_instructions():
        return builder.bitcast(builder.fptrunc(lanes, ir.VectorType(ir.HalfType(), n)), ir.VectorType(_I16, n))
    else:
        bits = code.to_half(lanes)
    return builder.trunc(bits, ir.VectorType(_I16, n))


class _Code:
    """Integer code for the conversions, on n lanes."""

    def __init__(self, builder: Any, n: int) -> None:
        self.builder = builder
        self.n = n
        self.ints, self.floats = ir.VectorType(_I32, n), ir.VectorType(ir.FloatType(), n)

    def constant(self, value: int) -> Any:
        return ir.Constant(self.ints, [ir.Constant(_I32, value)] * self.n)

    def number(self, value: float) -> Any:
        return ir.Constant(self.floats, [ir.Constant(ir.FloatType(), value)] * self.n)

    def wide(self, lanes: Any) -> Any:
        return self.builder.zext(lanes, self.ints)

    def as_float(self, bits: Any) -> Any:
        return self.builder.bitcast(bits, self.floats)

    def as_bits(self, floats: Any) -> Any:
        return self.builder.bitcast(floats, self.ints)

    def masked(self, bits: Any, mask: int) -> Any:
        return self.builder.and_(bits, self.constant(mask))

    def shifted_left(self, bits: Any, n: int) -> Any:
        return self.builder.shl(bits, self.constant(n))

    def shifted_right(self, bits: Any, n: int) -> Any:
        return self.builder.lshr(bits, self.constant(n))

    def where(self, bits: Any, comparison: str, limit: int, chosen: Any, other: Any) -> Any:
        return self.builder.select(self.builder.icmp_unsigned(comparison, bits, self.constant(limit)), chosen, other)

    def from_half(self, half: Any) -> Any:
        """Float32 of the bits of float16; subnormal ones by their mantissa, which needs no subnormal float32."""
        builder = self.builder
        magnitude = self.masked(half, 0x7FFF)
        normal = builder.add(self.shifted_left(magnitude, 13), self.constant((127 - 15) << 23))
        special = builder.or_(self.shifted_left(magnitude, 13), self.constant(0x7F800000))
        tiny = builder.fmul(builder.uitofp(magnitude, self.floats), self.number(2.0**-24))
        bits = self.where(magnitude, "<", 0x400, self.as_bits(tiny), normal)
        bits = self.where(magnitude, ">=", 0x7C00, special, bits)
        return self.as_float(builder.or_(bits, self.shifted_left(self.masked(half, 0x8000), 16)))

    def to_half(self, floats: Any) -> Any:
        """Bits of float16; adding 0.5 leaves a subnormal's rounded mantissa in the lowest bits."""
        builder = self.builder
        magnitude = self.masked(self.as_bits(floats), 0x7FFFFFFF)
        sign = self.shifted_right(self.masked(self.as_bits(floats), 0x80000000), 16)
        odd = self.masked(self.shifted_right(magnitude, 13), 1)
        normal = builder.add(builder.add(magnitude, self.constant((((15 - 127) << 23) + 0xFFF) & 0xFFFFFFFF)), odd)
        half = builder.fadd(self.as_float(magnitude), self.number(0.5))
        tiny = builder.sub(self.as_bits(half), self.constant(0x3F000000))
        bits = self.where(magnitude, "<", 0x38800000, tiny, self.shifted_right(normal, 13))
        bits = self.where(magnitude, ">=", 0x47800000, self.constant(0x7C00), bits)
        not_a_number = builder.or_(self.masked(self.shifted_right(magnitude, 13), 0x1FF), self.constant(0x7E00))
        return builder.or_(self.where(magnitude, ">", 0x7F800000, not_a_number, bits), sign)

    def to_bfloat(self, floats: Any) -> Any:
        """Bits of bfloat16."""
        builder = self.builder
        bits = self.as_bits(floats)
        odd = self.masked(self.shifted_right(bits, 16), 1)
        rounded = self.shifted_right(builder.add(builder.add(bits, self.constant(0x7FFF)), odd), 16)
        not_a_number = builder.or_(self.shifted_right(bits, 16), self.constant(0x40))
        return self.where(self.masked(bits, 0x7FFFFFFF), ">", 0x7F800000, not_a_number, rounded)
