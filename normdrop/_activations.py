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


# The exponential function, for what is not positive.

_LN2_HIGH, _LN2_LOW = 0.6931471805592082, 7.371002565167799e-13  # of 40 bits, so that products with them are exact
_PER_LN2 = 1.4426950408889634


def _rounded(x: Any, big: Any) -> Any:
    """Return x to the nearest multiple of big / (1.5 * 2**52)."""
    return (x + big) - big


def _reduced(high: Any, low: Any) -> Any:
    """Return k and q with exp(high + low) = 2**k * (1 + q), where abs(q) < 0.42."""
    k = _rounded(high * _PER_LN2, 1.5 * 2.0**52)
    r = (high - k * _LN2_HIGH) - (k * _LN2_LOW - low)
    p = r * 2.0911264239196083e-09 + 2.5100424157005067e-08
    p = p * r + 2.755728291148268e-07
    p = p * r + 2.7557268378684192e-06
    p = p * r + 2.4801587317181886e-05
    p = p * r + 0.00019841269863105968
    p = p * r + 0.0013888888888886545
    p = p * r + 0.008333333333330051
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666669
    p = p * r + 0.5
    return k, r + r * r * p


def _exp(high: Any, low: Any) -> Any:
    """Return m and s with exp(high + low) = m * s, from 0 to -1400.

    s is a power of two: what is multiplied by m first and by s last is rounded once where it is subnormal.
    """
    k, q = _reduced(high, low)
    half = _rounded(k * 0.5, 1.5 * 2.0**52)
    return (1.0 + q) * power_of_two(half), power_of_two(k - half)


def _expm1(x: Any) -> Any:
    """Return exp(x) - 1, from 0 to -700."""
    k, q = _reduced(x, 0.0)
    s = power_of_two(k)
    return s * q + (s - 1.0)


def _magnitude(u: Any, most: Any) -> Any:
    """Return abs(u), and `most` of what is larger; a NaN stays."""
    t = where(less(u, 0.0), 0.0 - u, u)
    return where(less(most, t), most, t)


# What follows from it: everything by exp(-abs(u)) or its like, which overflows nowhere. Beyond the limits of
# `_magnitude` it is 0.


def _sigmoid(u: Any, a: Any) -> Any:
    m, s = _exp(0.0 - _magnitude(u, 750.0), 0.0)
    e = m * s
    return where(less(u, 0.0), e, 1.0) / (1.0 + e)


def _sigmoid_derivative(u: Any, a: Any) -> Any:
    m, s = _exp(0.0 - _magnitude(u, 750.0), 0.0)
    d = 1.0 + m * s
    return m / (d * d) * s


def _tanh(u: Any, a: Any) -> Any:
    y = _expm1(_magnitude(u, 30.0) * -2.0)
    t = y / (y + 2.0)
    return where(less(u, 0.0), t, where(less(0.0, u), 0.0 - t, u))


def _tanh_derivative(u: Any, a: Any) -> Any:
    m, s = _exp(_magnitude(u, 375.0) * -2.0, 0.0)
    d = 1.0 + m * s
    return 4.0 * m / (d * d) * s


def _elu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), a * _expm1(_clipped(u, -60.0, 0.0)), u)


def _elu_derivative(u: Any, a: Any) -> Any:
    m, s = _exp(_clipped(u, -750.0, 0.0), 0.0)
    return where(less(0.0, u), 1.0, a * m * s)


_SELU, _SELU_BELOW = 1.0507009873554805, 1.7580993408473768  # lambda, and lambda * alpha


def _selu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), _SELU_BELOW * _expm1(_clipped(u, -60.0, 0.0)), _SELU * u)


def _selu_derivative(u: Any, a: Any) -> Any:
    m, s = _exp(_clipped(u, -750.0, 0.0), 0.0)
    return where(less(0.0, u), _SELU, _SELU_BELOW * m * s)


# u * sigmoid(z), where z has the sign of u and exp(-abs(z)) = m * s.


def _gated(u: Any, t: Any, m: Any, s: Any) -> Any:
    """Return u * sigmoid(z); t is abs(u) or a limit."""
    d = 1.0 + m * s
    return where(less(u, 0.0), (0.0 - t) * m / d * s, u / d)


def _gated_derivative(u: Any, slope: Any, m: Any, s: Any) -> Any:
    """Return its derivative; slope is abs(u * dz/du)."""
    d = 1.0 + m * s
    below = m * (d - slope) / (d * d) * s
    return where(less(u, 0.0), below, (d + slope * m * s) / (d * d))


def _silu(u: Any, a: Any) -> Any:
    t = _magnitude(u, 760.0)
    m, s = _exp(0.0 - t, 0.0)
    return _gated(u, t, m, s)


def _silu_derivative(u: Any, a: Any) -> Any:
    t = _magnitude(u, 760.0)
    m, s = _exp(0.0 - t, 0.0)
    return _gated_derivative(u, t, m, s)


# A = 2 * sqrt(2 / pi) and B = 0.044715 * A, also in two parts, the high ones of 46 and 28 bits.
_A, _A_HIGH, _A_LOW = 1.5957691216057308, 1.5957691216057128, 1.7885919910836427e-14
_B, _B_HIGH, _B_LOW = 0.07135481627260025, 0.07135481620207429, 7.052595945443934e-11


def _gelu_tanh_exp(t: Any) -> Any:
    """Return m and s with exp(-z) = m * s, z = t * (A + B * t**2), 0 <= t <= 22.

    z is 800 times what may be off in it: all products of its high part are exact, and its low part is small.
    """
    t_high = _rounded(t, 1.5 * 2.0**32)
    t_low = t - t_high
    square = t_high * t_high
    square_high = _rounded(square, 1.5 * 2.0**38)
    square_low = (square - square_high) + t_low * (t + t_high)
    product = _B_HIGH * square_high
    high = _rounded(product + _A, 1.5 * 2.0**32)
    low = ((product - high) + _A_HIGH) + (_A_LOW + _B_LOW * square_high + _B * square_low)
    return _exp(0.0 - t_high * high, 0.0 - (t_high * low + t_low * (high + low)))


def _gelu_tanh(u: Any, a: Any) -> Any:
    t = _magnitude(u, 22.0)
    m, s = _gelu_tanh_exp(t)
    return _gated(u, t, m, s)


def _gelu_tanh_derivative(u: Any, a: Any) -> Any:
    t = _magnitude(u, 22.0)
    m, s = _gelu_tanh_exp(t)
    return _gated_derivative(u, t * (_A + 3.0 * _B * (t * t)), m, s)


# The normal distribution function Phi and its density phi.


def _normal(t: Any) -> Any:
    """Return phi(t) / s, Phi(-t) / s and a power of two s, 0 <= t <= 40.

    Phi(-t) = phi(t) / (t + h(t)), where h(t), about 1 / t far out, is p / q, whose errors count less the larger t is.
    As a formula it is off by 7e-17 of Phi(-t) at most. The high part of the square is exact.
    """
    high = _rounded(t, 1.5 * 2.0**32)
    m, s = _exp(high * high * -0.5, (t - high) * (t + high) * -0.5)
    density = m * 0.3989422804014327  # 1 / sqrt(2 * pi)
    p = t * 1.1429114863174571e-07 + 3.8101524534601716e-06
    p = p * t + 6.276471929132358e-05
    p = p * t + 0.0006652526213519048
    p = p * t + 0.004994178229620856
    p = p * t + 0.02767507115736201
    p = p * t + 0.11466861107566681
    p = p * t + 0.35187331886981643
    p = p * t + 0.7705016609214419
    p = p * t + 1.1006113131528386
    p = p * t + 0.7978845608028654
    q = t * 1.1429114863174562e-07 + 3.8101524534604104e-06
    q = q * t + 6.299330158847742e-05
    q = q * t + 0.0006728729262782256
    q = q * t + 0.005119021919527819
    q = q * t + 0.028982715584998636
    q = q * t + 0.12428517572012111
    q = q * t + 0.40339207158446844
    q = q * t + 0.9724606148516143
    q = q * t + 1.6647018460293617
    q = q * t + 1.8348412949764648
    q = q * t + 1.0
    return density, density * q / (t * q + p), s


def _gelu(u: Any, a: Any) -> Any:
    t = _magnitude(u, 39.0)
    _, tail, s = _normal(t)
    return where(less(u, 0.0), (0.0 - t) * tail * s, u * (1.0 - tail * s))


def _gelu_derivative(u: Any, a: Any) -> Any:
    t = _magnitude(u, 39.0)
    density, tail, s = _normal(t)
    below = (tail - t * density) * s
    return where(less(u, 0.0), below, 1.0 - below)


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
    "silu": Activation(_silu, _silu_derivative),
    "gelu": Activation(_gelu, _gelu_derivative),
    "gelu_tanh": Activation(_gelu_tanh, _gelu_tanh_derivative),
    "tanh": Activation(_tanh, _tanh_derivative),
    "sigmoid": Activation(_sigmoid, _sigmoid_derivative),
    "elu": Activation(_elu, _elu_derivative, 1.0, "alpha"),
    "selu": Activation(_selu, _selu_derivative),
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
