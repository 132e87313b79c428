"""What activations are made of: exponentials by + - * / and a few primitives, which every target has of its own.

No function of a mathematical library is called, so that the bits are the same on every processor. The order of
operations is part of a formula. `normdrop._activations.bound` takes the functions to other targets.
"""

from __future__ import annotations

from typing import Any

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


def exponent(x: Any) -> Any:
    """Return the whole number k with 2**k <= x < 2**(k + 1), x positive and not subnormal."""
    return ((x.view(np.int64) >> 52) - 1023).astype(np.float64)


def clipped(u: Any, least: Any, most: Any) -> Any:
    """Return u between two numbers; a NaN stays."""
    return where(less(u, least), least, where(less(most, u), most, u))


def horner(p: Any, x: Any, c: Any) -> Any:
    """Return p * x + c, a step of Horner's rule, rounded twice."""
    return p * x + c


# The exponential function, for what is not positive.

_LN2_HIGH, _LN2_LOW = 0.6931471805592082, 7.371002565167799e-13  # of 40 bits, so that products with them are exact
_PER_LN2 = 1.4426950408889634


def rounded(x: Any, big: Any) -> Any:
    """Return x to the nearest multiple of big / (1.5 * 2**52)."""
    return (x + big) - big


def reduced(high: Any, low: Any) -> Any:
    """Return k and q with exp(high + low) = 2**k * (1 + q), where abs(q) < 0.42."""
    k = rounded(high * _PER_LN2, 1.5 * 2.0**52)
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


def exp(high: Any, low: Any) -> Any:
    """Return m and s with exp(high + low) = m * s, from 0 to -1400.

    s is a power of two: what is multiplied by m first and by s last is rounded once where it is subnormal.
    """
    k, q = reduced(high, low)
    half = rounded(k * 0.5, 1.5 * 2.0**52)
    return (1.0 + q) * power_of_two(half), power_of_two(k - half)


def expm1(x: Any) -> Any:
    """Return exp(x) - 1, from 0 to -700."""
    k, q = reduced(x, 0.0)
    s = power_of_two(k)
    return s * q + (s - 1.0)


def magnitude(u: Any, most: Any) -> Any:
    """Return abs(u), and `most` of what is larger; a NaN stays."""
    t = where(less(u, 0.0), 0.0 - u, u)
    return where(less(most, t), most, t)


# Logarithms are sums of a power of two's and of 2 * atanh((m - 1) / (m + 1)) of a number m near 1.


def atanh_rest(s: Any) -> Any:
    """Return 2 * atanh(s) - 2 * s, abs(s) <= 0.172."""
    z = s * s
    p = horner(0.1461645192038882, z, 0.15331721419709152)
    p = horner(p, z, 0.18182889130702387)
    p = horner(p, z, 0.22222211134720407)
    p = horner(p, z, 0.2857142862597594)
    p = horner(p, z, 0.39999999999899505)
    p = horner(p, z, 0.666666666666667)
    return s * z * p


# The sigmoid's argument in the tanh form of GELU.

# A = 2 * sqrt(2 / pi) and B = 0.044715 * A, also in two parts, the high ones of 46 and 28 bits.
A, _A_HIGH, _A_LOW = 1.5957691216057308, 1.5957691216057128, 1.7885919910836427e-14
B, _B_HIGH, _B_LOW = 0.07135481627260025, 0.07135481620207429, 7.052595945443934e-11


def exp_of_gelu_tanh(t: Any) -> Any:
    """Return m and s with exp(-z) = m * s, z = t * (A + B * t**2), 0 <= t <= 22.

    z is 800 times what may be off in it: all products of its high part are exact, and its low part is small.
    """
    t_high = rounded(t, 1.5 * 2.0**32)
    t_low = t - t_high
    square = t_high * t_high
    square_high = rounded(square, 1.5 * 2.0**38)
    square_low = (square - square_high) + t_low * (t + t_high)
    product = _B_HIGH * square_high
    high = rounded(product + A, 1.5 * 2.0**32)
    low = ((product - high) + _A_HIGH) + (_A_LOW + _B_LOW * square_high + B * square_low)
    return exp(0.0 - t_high * high, 0.0 - (t_high * low + t_low * (high + low)))


# The normal distribution function Phi and its density phi.


def normal(t: Any) -> Any:
    """Return phi(t) / s, Phi(-t) / s and a power of two s, 0 <= t <= 40.

    Phi(-t) = phi(t) / (t + h(t)), where h(t), about 1 / t far out, is p / q, whose errors count less the larger t is.
    As a formula it is off by 7e-17 of Phi(-t) at most. The high part of the square is exact.
    """
    high = rounded(t, 1.5 * 2.0**32)
    m, s = exp(high * high * -0.5, (t - high) * (t + high) * -0.5)
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
