"""Normal numbers of the mask law, and the noise that they make, written once for every target.

The functions are made of + - * / and of what `_exponentials` has, as activations are, so that the bits are the same on
every processor. `bound` takes them to other targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from normdrop import _exponentials, _targets
from normdrop._exponentials import atanh_rest, exponent, horner, less, power_of_two, where

_LN2 = 0.6931471805599453


def normal_number(a: Any) -> Any:
    """Return the z with Phi(z) = a / 2**32 of a = n + 1/2, n a whole number from 0 to 2**32 - 1.

    With u = a / 2**32, z = (u - 1/2) * f(t), where t = -log(4 * u * (1 - u)), from 0 to 21.5: f is smooth, also at the
    ends, where z is about sqrt(2 * t), so that one quotient P / Q serves the middle and both tails, without a root and
    without cases. All terms of P and Q are positive. As a formula it is off by 3.6e-16 of z at most, and u and 1 - u
    give the same t, so that z changes its sign and nothing else.
    """
    v = a * (4294967296.0 - a)  # 2**62 * exp(-t)
    k = exponent(v)
    m = v * power_of_two(0.0 - k)
    large = less(1.4142135623730951, m)
    k = where(large, k - 61.0, k - 62.0)
    m = where(large, m * 0.5, m)
    s = (1.0 - m) / (1.0 + m)
    t = (s + s + atanh_rest(s)) - k * _LN2
    square = t * t
    p = horner(3.734775914661432e-15, square, 6.466608096295355e-10)
    odd = horner(5.530331129106112e-12, square, 2.0269744322516867e-08)
    p = horner(p, square, 4.467419400106299e-07)
    odd = horner(odd, square, 7.636286679947952e-06)
    p = horner(p, square, 0.00010180376831093897)
    odd = horner(odd, square, 0.0010645523288222425)
    p = horner(p, square, 0.008795504665139932)
    odd = horner(odd, square, 0.05723378834436395)
    p = horner(p, square, 0.2833949561192725)
    odd = horner(odd, square, 1.0119682080049763)
    p = horner(p, square, 2.506628274631)
    p = horner(odd, t, p)
    q = horner(2.6640328701059257e-11, square, 3.573803302569963e-08)
    odd = horner(7.994163204159744e-14, square, 1.436631412808392e-09)
    q = horner(q, square, 1.1125163333336569e-05)
    odd = horner(odd, square, 6.863504806099374e-07)
    q = horner(q, square, 0.0013338812380839738)
    odd = horner(odd, square, 0.00011576625948285804)
    q = horner(q, square, 0.06287227408413298)
    odd = horner(odd, square, 0.007158460893172793)
    q = horner(q, square, 1.0)
    odd = horner(odd, square, 0.14191751679607664)
    q = horner(odd, t, q)
    return (a * 2.0**-32 - 0.5) * (p / q)


def multiplied(x: Any, a: Any, std: Any) -> Any:
    """Return x * (1 + std * z), z the normal number of `a`."""
    return x * (1.0 + std * normal_number(a))


def added(x: Any, a: Any, std: Any) -> Any:
    """Return x + std * z, z the normal number of `a`."""
    return x + std * normal_number(a)


_NAMES = {**vars(_exponentials), **globals()}


def bound(primitives: Mapping[str, Any], compiled: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return `multiplied` and `added` on a target's primitives; `compiled` makes functions that its kernels call."""
    names = _targets.bound(_NAMES, primitives, compiled)
    return names["multiplied"], names["added"]


class Noise(NamedTuple):
    """Normal noise of a pass, as launchers take it."""

    key: tuple[int, int]
    """Key of the stream."""
    call: int
    """Call of the stream."""
    std: float
    """Standard deviation of the noise: positive and finite."""
