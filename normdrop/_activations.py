"""Activations and their derivatives, written once for every target.

A function takes the pre-activation u and the activation's parameter a, in float64, and returns float64: arrays of
NumPy here, vectors of 16 lanes or single numbers where `bound` takes it. It is made of + - * / and of what
`_exponentials` has, so that the bits are the same on every processor. The derivative of a NaN is NaN, except the
identity's; at kinks it is PyTorch's.

To add an activation, write both functions and a row of `ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from normdrop import _exponentials, _targets
from normdrop._exponentials import A, B, clipped, exp, exp_of_gelu_tanh, expm1, less, magnitude, normal, number, where

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
    return clipped(u, 0.0, 6.0)


def _relu6_derivative(u: Any, a: Any) -> Any:
    return where(less(0.0, u), where(less(u, 6.0), 1.0, 0.0), _zero_unless_nan(u))


def _hardswish(u: Any, a: Any) -> Any:
    return where(less(u, -3.0), -3.0, u) * (clipped(u + 3.0, 0.0, 6.0) * _SIXTH)


def _hardswish_derivative(u: Any, a: Any) -> Any:
    return where(less(-3.0, u), where(less(u, 3.0), (u + u + 3.0) * _SIXTH, 1.0), _zero_unless_nan(u))


def _hardtanh(u: Any, a: Any) -> Any:
    return clipped(u, -1.0, 1.0)


def _hardtanh_derivative(u: Any, a: Any) -> Any:
    return where(less(-1.0, u), where(less(u, 1.0), 1.0, 0.0), _zero_unless_nan(u))


# Curved pieces: everything by exp(-abs(u)) or its like, which overflows nowhere. Beyond the limits of
# `magnitude` it is 0.


def _sigmoid(u: Any, a: Any) -> Any:
    m, s = exp(0.0 - magnitude(u, 750.0), 0.0)
    e = m * s
    return where(less(u, 0.0), e, 1.0) / (1.0 + e)


def _sigmoid_derivative(u: Any, a: Any) -> Any:
    m, s = exp(0.0 - magnitude(u, 750.0), 0.0)
    d = 1.0 + m * s
    return m / (d * d) * s


def _tanh(u: Any, a: Any) -> Any:
    y = expm1(magnitude(u, 30.0) * -2.0)
    t = y / (y + 2.0)
    return where(less(u, 0.0), t, where(less(0.0, u), 0.0 - t, u))


def _tanh_derivative(u: Any, a: Any) -> Any:
    m, s = exp(magnitude(u, 375.0) * -2.0, 0.0)
    d = 1.0 + m * s
    return 4.0 * m / (d * d) * s


def _elu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), a * expm1(clipped(u, -60.0, 0.0)), u)


def _elu_derivative(u: Any, a: Any) -> Any:
    m, s = exp(clipped(u, -750.0, 0.0), 0.0)
    return where(less(0.0, u), 1.0, a * m * s)


_SELU, _SELU_BELOW = 1.0507009873554805, 1.7580993408473768  # lambda, and lambda * alpha


def _selu(u: Any, a: Any) -> Any:
    return where(less(u, 0.0), _SELU_BELOW * expm1(clipped(u, -60.0, 0.0)), _SELU * u)


def _selu_derivative(u: Any, a: Any) -> Any:
    m, s = exp(clipped(u, -750.0, 0.0), 0.0)
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
    t = magnitude(u, 760.0)
    m, s = exp(0.0 - t, 0.0)
    return _gated(u, t, m, s)


def _silu_derivative(u: Any, a: Any) -> Any:
    t = magnitude(u, 760.0)
    m, s = exp(0.0 - t, 0.0)
    return _gated_derivative(u, t, m, s)


def _gelu_tanh(u: Any, a: Any) -> Any:
    t = magnitude(u, 22.0)
    m, s = exp_of_gelu_tanh(t)
    return _gated(u, t, m, s)


def _gelu_tanh_derivative(u: Any, a: Any) -> Any:
    t = magnitude(u, 22.0)
    m, s = exp_of_gelu_tanh(t)
    return _gated_derivative(u, t * (A + 3.0 * B * (t * t)), m, s)


def _gelu(u: Any, a: Any) -> Any:
    t = magnitude(u, 39.0)
    _, tail, s = normal(t)
    return where(less(u, 0.0), (0.0 - t) * tail * s, u * (1.0 - tail * s))


def _gelu_derivative(u: Any, a: Any) -> Any:
    t = magnitude(u, 39.0)
    density, tail, s = normal(t)
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
    "hardtanh": Activation(_hardtanh, _hardtanh_derivative),
    "silu": Activation(_silu, _silu_derivative),
    "gelu": Activation(_gelu, _gelu_derivative),
    "gelu_tanh": Activation(_gelu_tanh, _gelu_tanh_derivative),
    "tanh": Activation(_tanh, _tanh_derivative),
    "sigmoid": Activation(_sigmoid, _sigmoid_derivative),
    "elu": Activation(_elu, _elu_derivative, 1.0, "alpha"),
    "selu": Activation(_selu, _selu_derivative),
}

_NAMES = {**vars(_exponentials), **globals()}


def bound(primitives: Mapping[str, Any], compiled: Callable[[Any], Any]) -> dict[str, Activation]:
    """Return `ACTIVATIONS` on a target's primitives; `compiled` makes a function one that its kernels call."""
    names = _targets.bound(_NAMES, primitives, compiled)
    return {
        name: known._replace(value=names[known.value.__name__], derivative=names[known.derivative.__name__])
        for name, known in ACTIVATIONS.items()
    }
