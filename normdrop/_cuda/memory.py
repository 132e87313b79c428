"""What Numba does not say to a GPU itself: loads and stores of four neighbors, 16-bit dtypes, 32-bit products.

Values are float32 for 16-bit dtypes. Four float32 are one access of 16 bytes, four float64 two, four of 16 bits one of
8. The code is given in LLVM's terms; this file is the only one that names them, and what another compiler than Numba's
needs another twin of. The plain twins are what the simulator runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from normdrop._cuda.launch import SIMULATED, helper, intrinsic, types

_FLOAT, _DOUBLE, _HALF = ir.FloatType(), ir.DoubleType(), ir.HalfType()
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _value_type(element: Any) -> Any:
    return types.float64 if str(element) == "float64" else types.float32


def _pointer(context: Any, builder: Any, array: Any, value: Any, i: Any) -> Any:
    return builder.gep(context.make_array(array)(context, builder, value).data, [i])


def _widened(builder: Any, element: Any, bits: Any) -> Any:
    """Code for the value of what was loaded."""
    name = str(element)
    if name == "float16":
        return builder.fpext(builder.bitcast(bits, _HALF), _FLOAT)
    if name == "int16":  # bfloat16: the upper half of a float32
        return builder.bitcast(builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16)), _FLOAT)
    return builder.uitofp(bits, _FLOAT) if name == "uint8" else bits


def _narrowed(builder: Any, element: Any, value: Any) -> Any:
    """Code for what to store of a float32 or float64 value, rounded to nearest, to float32 first."""
    name = str(element)
    if name == "float64":
        return builder.fpext(value, _DOUBLE) if value.type == _FLOAT else value
    if value.type == _DOUBLE:
        value = builder.fptrunc(value, _FLOAT)
    if name == "float16":
        return builder.bitcast(builder.fptrunc(value, _HALF), _I16)
    if name == "int16":
        bits = builder.bitcast(value, _I32)

        def constant(number: int) -> Any:
            return ir.Constant(_I32, number)

        upper = builder.lshr(bits, constant(16))
        rounded = builder.add(builder.add(bits, constant(0x7FFF)), builder.and_(upper, constant(1)))
        rounded = builder.lshr(rounded, constant(16))
        not_a_number = builder.fcmp_unordered("uno", value, value)
        return builder.trunc(builder.select(not_a_number, builder.or_(upper, constant(0x40)), rounded), _I16)
    return builder.fptoui(value, ir.IntType(8)) if name == "uint8" else value


def _load_code(typing: Any, x: Any, i: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.load(_pointer(context, builder, x, *arguments))
        return _widened(builder, x.dtype, bits)

    return _value_type(x.dtype)(x, i), code


def _store_code(typing: Any, y: Any, i: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, number = arguments
        builder.store(_narrowed(builder, y.dtype, number), _pointer(context, builder, y, array, index))
        return context.get_dummy_value()

    return types.none(y, i, value), code


def _load_four_code(typing: Any, x: Any, i: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        short = x.dtype.bitwidth == 16  # one word, because pieces of a vector would be loaded one by one
        whole = _I64 if short else ir.VectorType(context.get_data_type(x.dtype), 4)
        pointer = builder.bitcast(_pointer(context, builder, x, *arguments), whole.as_pointer())
        four = builder.load(pointer, align=min(16, 4 * x.dtype.bitwidth // 8))
        if short:
            lanes = [builder.trunc(builder.lshr(four, ir.Constant(_I64, 16 * lane)), _I16) for lane in range(4)]
        else:
            lanes = [builder.extract_element(four, ir.Constant(_I32, lane)) for lane in range(4)]
        values = [_widened(builder, x.dtype, bits) for bits in lanes]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(_value_type(x.dtype), 4)(x, i), code


def _store_four_code(typing: Any, y: Any, i: Any, values: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, four = arguments
        vector = ir.VectorType(context.get_data_type(y.dtype), 4)
        lanes = ir.Constant(vector, ir.Undefined)
        for lane in range(4):
            bits = _narrowed(builder, y.dtype, builder.extract_value(four, lane))
            lanes = builder.insert_element(lanes, bits, ir.Constant(_I32, lane))
        pointer = builder.bitcast(_pointer(context, builder, y, array, index), vector.as_pointer())
        builder.store(lanes, pointer, align=min(16, 4 * y.dtype.bitwidth // 8))
        return context.get_dummy_value()

    return types.none(y, i, values), code


def _as_value_code(typing: Any, x: Any, number: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[1]
        return value if str(x.dtype) == "float64" else builder.fptrunc(value, _FLOAT)

    return _value_type(x.dtype)(x, number), code


def _as_stored_code(typing: Any, x: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, x.dtype, _narrowed(builder, x.dtype, arguments[1]))

    return _value_type(x.dtype)(x, value), code


def _product_code(typing: Any, a: Any, b: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # LLVM would make 64-bit words of all that follows, and products of them, which are several instructions.
        kind = ir.FunctionType(_I64, [_I32, _I32])
        return builder.call(ir.InlineAsm(kind, "mul.wide.u32 $0, $1, $2;", "=l,r,r"), arguments)

    return types.uint64(types.uint32, types.uint32), code


def _product_plain(a: Any, b: Any) -> Any:
    return np.uint64(a) * np.uint64(b)


def _load_plain(x: Any, i: Any) -> Any:
    return _widened_plain(x, x[i])


def _widened_plain(x: Any, bits: Any) -> Any:
    if x.dtype == np.int16:
        return np.uint32(np.uint32(np.uint16(bits)) << np.uint32(16)).view(np.float32)
    return np.float32(bits) if x.dtype == np.float16 else bits


def _store_plain(y: Any, i: Any, value: Any) -> None:
    y[i] = _narrowed_plain(y, value)


def _narrowed_plain(y: Any, value: Any) -> Any:
    if y.dtype == np.int16:
        bits = int(np.float32(value).view(np.uint32))
        rounded = bits >> 16 | 0x40 if np.isnan(value) else bits + 0x7FFF + (bits >> 16 & 1) >> 16
        return np.uint16(rounded).view(np.int16)
    return y.dtype.type(np.float32(value) if y.dtype == np.float16 else value)


def _as_stored_plain(x: Any, value: Any) -> Any:  # what `load` gives of a value that was stored in an array like x
    return _widened_plain(x, _narrowed_plain(x, value))


def _load_four_plain(x: Any, i: Any) -> Any:
    return _load_plain(x, i), _load_plain(x, i + 1), _load_plain(x, i + 2), _load_plain(x, i + 3)


def _store_four_plain(y: Any, i: Any, values: Any) -> None:
    for lane in range(4):
        _store_plain(y, i + lane, values[lane])


def _as_value_plain(x: Any, number: Any) -> Any:
    return np.float64(number) if x.dtype == np.float64 else np.float32(number)


def _either(plain: Any, code: Any) -> Any:
    return plain if SIMULATED or intrinsic is None else intrinsic(code)


load = _either(_load_plain, _load_code)
store = _either(_store_plain, _store_code)
_load_four = _either(_load_four_plain, _load_four_code)
_store_four = _either(_store_four_plain, _store_four_code)
product = _either(_product_plain, _product_code)
as_value = _either(_as_value_plain, _as_value_code)
as_stored = _either(_as_stored_plain, _as_stored_code)


@helper
def load_quad(x: Any, i: Any, stop: Any, fill: Any, aligned: Any) -> Any:
    """x[i], ..., x[i + 3] as values; `fill`, a value, from `stop` on; i < stop. `aligned`: whether i % 4 == 0."""
    if aligned != 0 and i + 4 <= stop:
        return _load_four(x, i)
    first = load(x, i)
    second, third, fourth = fill, fill, fill
    if i + 1 < stop:
        second = load(x, i + 1)
    if i + 2 < stop:
        third = load(x, i + 2)
    if i + 3 < stop:
        fourth = load(x, i + 3)
    return first, second, third, fourth


@helper
def store_quad(y: Any, i: Any, stop: Any, values: Any, aligned: Any) -> None:
    """y[i], ..., y[i + 3] = values, as far as they lie before `stop`; i < stop."""
    if aligned != 0 and i + 4 <= stop:
        _store_four(y, i, values)
    else:
        store(y, i, values[0])
        if i + 1 < stop:
            store(y, i + 1, values[1])
        if i + 2 < stop:
            store(y, i + 2, values[2])
        if i + 3 < stop:
            store(y, i + 3, values[3])
