"""Activations and their derivatives, written once for every target.

A function takes the pre-activation u and the activation's parameter a, in float64, and returns float64: arrays of
NumPy here, vectors of 16 lanes or single numbers where `bound` takes it. It is made of + - * / and of the primitives
below, without functions of any mathematical library, so that the bits are the same on every processor. The order of
operations is part of a formula. The derivative of a NaN is NaN, except the identity's; at kinks it is PyTorch's.

To add an activation, write both functions and a row of `ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

# The primitives, which every target has of its own.

less: Any = np.less  # False of a NaN; either may be a number
where: Any = np.where  # either may be a number
number: Any = np.float64  # in every lane


def power_of_two(k: Any) -> Any:
    """Return 2**k of a whole number from -1022 to 1023; of anything else it is any number.

    The lowest bits of k + 2**52 + 1023 are those of the exponent.
    """
    return ((k + (2.0**52 + 1023.0)).view(np.int64) << 52).view(np.float64)


# Straight pieces.

_SIXTH = 1.0 / 6.0  # and 6.0 * _SIXTH is 1


def _identity(u: Any, a: Any) -> Any:
    return u


def _identity_derivative(u: Any, a: Any) -> Any:
    return number(1.0)


def _relu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), 0.0, u)


def _relu_derivative(u: Any, a: Any) -> Any:
    return where(less(0.0, u), 1.0, _zero_unless_nan(u))


def _zero_unless_nan(u: Any) -> Any:
    """Return 0 of what is not positive."""
    return where(less(u, 0.0), 0.0, u * u)


def _leaky_relu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), a * u, u)


def _leaky_relu_derivative(u: Any, a: Any) -> Any:
    return where(less(0.0, u), 1.0, a + _zero_unless_nan(u))


def _relu6(u: Any, a: Any) -> Any:
    return _clipped(u, 0.0, 6.0)


def _clipped(u: Any, least: Any, most: Any) -> Any:
    """Return u between two numbers; a NaN stays."""
    return where(less(u, least), least, where(less(most, u), most, u))


def _relu6_derivative(u: Any, a: Any) -> Any:
    return where(less(0.0, u), where(less(u, 6.0), 1.0, 0.0), _zero_unless_nan(u))


def _hardswish(u: Any, a: Any) -> Any:
    return where(less(u, -3.0), -3.0, u) * (_clipped(u + 3.0, 0.0, 6.0) * _SIXTH)


def _hardswish_derivative(u: Any, a: Any) -> Any:
    return where(less(-3.0, u), where(less(u, 3.0), (u + u + 3.0) * _SIXTH, 1.0), _zero_unless_nan(u))


class Activation(NamedTuple):
    """An activation: value(u, a), its derivative(u, a) by u, and what a is if there is one."""

    value: Callable[[Any, Any], Any]
    derivative: Callable[[Any, Any], Any]
    parameter: float | None = None
    parameter_name: str | None = None


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(_identity, _identity_derivative),
    "relu": Activation(_relu, _relu_derivative),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_derivative, 0.01, "negative_slope"),
    "relu6": Activation(_relu6, _relu6_derivative),
    "hardswish": Activation(_hardswish, _hardswish_derivative),
}

_PRIMITIVES = ("less", "where", "number", "power_of_two")
_FUNCTIONS = {
    name: value for name, value in globals().items() if isinstance(value, FunctionType) and name not in _PRIMITIVES
}


def bound(primitives: Mapping[str, Any], compiled: Callable[[Any], Any]) -> dict[str, Activation]:
    """Return `ACTIVATIONS` on a target's primitives; `compiled` makes a function one that its kernels call."""
    names = {**globals(), **{name: primitives[name] for name in _PRIMITIVES}}
    for name, function in _FUNCTIONS.items():
        names[name] = compiled(FunctionType(function.__code__, names, name))
    return {
        name: known._replace(value=names[known.value.__name__], derivative=names[known.derivative.__name__])
        for name, known in ACTIVATIONS.items()
    }
