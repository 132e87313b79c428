"""The activations of `normdrop._activations` on single float64, as functions that kernels call."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from normdrop import _activations, _exponentials
from normdrop._cuda.launch import SIMULATED, helper, intrinsic, types


def _less(a: Any, b: Any) -> Any:
    return a < b


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _number(c: Any) -> Any:
    return np.float64(c)


def _power_of_two(k: Any) -> Any:
    return _exponentials.power_of_two(np.float64(k))  # in the simulator, a number that was chosen is Python's


def _power_of_two_code(typing: Any, k: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bias = ir.Constant(ir.DoubleType(), 2.0**52 + 1023.0)
        exponent = builder.bitcast(builder.fadd(arguments[0], bias), ir.IntType(64))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(64), 52)), ir.DoubleType())

    return types.float64(k), code


def _exponent(x: Any) -> Any:
    return _exponentials.exponent(np.float64(x))


def _exponent_code(typing: Any, x: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.bitcast(arguments[0], ir.IntType(64))
        biased = builder.lshr(word, ir.Constant(ir.IntType(64), 52))
        return builder.sitofp(builder.sub(biased, ir.Constant(ir.IntType(64), 1023)), ir.DoubleType())

    return types.float64(x), code


_PLAIN = SIMULATED or intrinsic is None

PRIMITIVES = {
    "exponent": _exponent if _PLAIN else intrinsic(_exponent_code),
    "less": helper(_less),
    "where": helper(_where),
    "number": helper(_number),
    "power_of_two": _power_of_two if _PLAIN else intrinsic(_power_of_two_code),
}


@functools.lru_cache(1)
def _bound() -> dict[str, _activations.Activation]:
    return _activations.bound(PRIMITIVES, helper)


def activation(name: str) -> tuple[Any, Any]:
    """Return the functions value(u, a) and derivative(u, a), which are compiled within the kernels that call them."""
    return _bound()[name][:2]
