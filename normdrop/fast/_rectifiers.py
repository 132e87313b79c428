"""Moments of a normal variable after ReLU, leaky ReLU and the step, in closed form and without cancellation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normdrop.fast._moments import Vector

_FAR = 5.0  # from here on, the tail integrals by a continued fraction
_END = 40.0  # beyond it, all of them are 0
_SQRT_2, _SQRT_2PI, _SQRT_HALF_PI = np.sqrt(2.0), np.sqrt(2.0 * np.pi), np.sqrt(np.pi / 2.0)


class Curve(NamedTuple):
    """Mean and variance of f(X), and their derivatives by the mean and the variance of X."""

    mean: Vector
    var: Vector
    mean_by_mean: Vector
    mean_by_var: Vector
    var_by_mean: Vector
    var_by_var: Vector


class Tail(NamedTuple):
    """Of a standard normal Z and x >= 0: density at x, P(Z > x), E (Z - x)⁺ and E (Z - x)⁺²."""

    density: Vector
    above: Vector
    first: Vector
    second: Vector


def tail(x: Vector) -> Tail:
    """Compute the integrals over the tail beyond `x`, with a relative error of some 1e-13."""
    from scipy.special import erfcx

    x = np.minimum(x, _END)
    density = np.exp(-0.5 * x * x) / _SQRT_2PI
    mills = _SQRT_HALF_PI * erfcx(x / _SQRT_2)
    first, second = 1.0 - x * mills, (1.0 + x * x) * mills - x
    far = x > _FAR
    if far.any():
        # I(n - 1) = x I(n) + (n + 1) I(n + 1) holds for the n-fold integrals of the density; downward it is stable.
        beyond = x[far]
        ratio = 1.0 / beyond
        for n in range(40, 1, -1):
            previous, ratio = ratio, 1.0 / (beyond + n * ratio)
        # `ratio` is now I(1) / I(0), and `previous` I(2) / I(1).
        first[far] = mills[far] * ratio
        second[far] = 2.0 * first[far] * previous
    return Tail(density, density * mills, density * first, density * second)


def leaky_relu(mean: Vector, var: Vector, slope: float) -> Curve:
    """f(x) = x for x > 0, and slope · x elsewhere; a slope of 0 is ReLU."""
    s = np.sqrt(var)
    r, inverse = _standardized(mean, s)
    distance = np.minimum(np.abs(r), _END)
    density, outside, first, second = tail(distance)
    positive = r > 0
    above, below = np.where(positive, 1.0 - outside, outside), np.where(positive, outside, 1.0 - outside)
    ramp = np.maximum(mean, 0.0) + s * first
    # For a positive mean, of what ReLU cuts off: Var(X + Y) with Y = (-X)⁺.
    spread = np.where(positive, 1.0 - second - 2.0 * distance * first, second) - first * first
    # E[(X / s)⁺] times density or P(X < 0), where all but the end of it vanishes.
    ramp_ratio = np.where(positive, distance, 0.0) + first
    a, b = slope, 1.0 - slope
    turned = np.sign(r) * distance * density
    return Curve(
        a * mean + b * ramp,
        var * (a * a + b * b * spread + 2.0 * a * b * above),
        a + b * above,
        0.5 * b * density * inverse,
        2.0 * s * b * (b * ramp_ratio * below + a * density),
        a * a + b * b * (above - ramp_ratio * density) + a * b * (2.0 * above - turned),
    )


def step(mean: Vector, var: Vector) -> Curve:
    """f(x) = 1 for x > 0, and 0 elsewhere."""
    r, inverse = _standardized(mean, np.sqrt(var))
    density, outside, _, _ = tail(np.abs(r))
    above, below = np.where(r > 0, 1.0 - outside, outside), np.where(r > 0, outside, 1.0 - outside)
    by_mean = density * inverse
    by_var = -0.5 * np.clip(r, -_END, _END) * by_mean * inverse
    return Curve(above, above * below, by_mean, by_var, (below - above) * by_mean, (below - above) * by_var)


def _standardized(mean: Vector, s: Vector) -> tuple[Vector, Vector]:
    """Mean over standard deviation, infinite where that is 0, and its inverse, there 0."""
    known = s == 0
    inverse = np.divide(1.0, s, out=np.zeros_like(s), where=~known)
    with np.errstate(over="ignore"):  # infinite is far enough
        r = np.where(known, np.where(mean > 0, np.inf, -np.inf), mean * inverse)
    return np.where(np.isnan(mean), mean, r), inverse
