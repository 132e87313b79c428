"""Concrete dropout: how far an element is kept, by a random number and the logit of p, written once for every target.

The functions are made of + - * / and of what `_exponentials` has, as activations are, so that the bits are the same on
every processor. `bound` takes them to other targets. Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from normdrop import _exponentials, _targets
from normdrop._activations import ACTIVATIONS
from normdrop._exponentials import atanh_rest, exp, exponent, less, magnitude, power_of_two, where

CHUNK = 2048  # elements whose shares of the logit's gradient are summed as one; a multiple of 256
LANES = 16  # sums of a chunk that are taken beside each other

_LN2_HIGH, _LN2_LOW = 0.6931471805592082, 7.371002565167799e-13  # as in `_exponentials`


def logit(a: Any) -> Any:
    """Return log(a / (2**32 - a)) of a = n + 1/2, n a whole number from 0 to 2**32 - 1.

    With b = 2**32 - a times the power of two that is next to a / b, it is that power's logarithm and
    2 * atanh((a - b) / (a + b)), where b and a - b are exact.
    """
    b = 4294967296.0 - a
    k = exponent(a) - exponent(b)
    b = b * power_of_two(k)
    small, large = less(a, b * 0.7071067811865476), less(b * 1.4142135623730951, a)
    k = where(small, k - 1.0, where(large, k + 1.0, k))
    b = where(small, b * 0.5, where(large, b + b, b))
    s = (a - b) / (a + b)
    return k * _LN2_HIGH + (s + s + (atanh_rest(s) + k * _LN2_LOW))


def shares(a: Any, offset: Any, sharpness: Any) -> Any:
    """Return 1 - z and z, how far an element is kept and dropped: 1 - z = sigmoid((logit(a) - offset) * sharpness)."""
    v = (logit(a) - offset) * sharpness
    m, s = exp(0.0 - magnitude(v, 750.0), 0.0)
    e = m * s
    near, far = 1.0 / (1.0 + e), e / (1.0 + e)
    below = less(v, 0.0)
    return where(below, far, near), where(below, near, far)


def value(x: Any, a: Any, offset: Any, sharpness: Any, scale: Any) -> Any:
    """Return x * (1 - z) / (1 - p), +0 where 1 - z is 0; scale = 1 / (1 - p)."""
    kept, _ = shares(a, offset, sharpness)
    return where(less(0.0, kept), x * (kept * scale), 0.0)


def gradients(dy: Any, x: Any, a: Any, offset: Any, sharpness: Any, scale: Any, p: Any) -> Any:
    """Return dx, and what the element adds to the gradient of the logit; both +0 where 1 - z is 0."""
    kept, dropped = shares(a, offset, sharpness)
    dx = dy * (kept * scale)
    some = less(0.0, kept)
    return where(some, dx, 0.0), where(some, dx * x * (p - dropped * sharpness), 0.0)


_NAMES = {**vars(_exponentials), **globals()}


def bound(primitives: Mapping[str, Any], compiled: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return `value` and `gradients` on a target's primitives; `compiled` makes functions that its kernels call."""
    names = _targets.bound(_NAMES, primitives, compiled)
    return names["value"], names["gradients"]


class Relaxation(NamedTuple):
    """Concrete dropout of a pass, as launchers take it."""

    key: tuple[int, int]
    """Key of the stream."""
    call: int
    """Call of the stream."""
    logit: float
    """log(p / (1 - p)), from -700 to 700."""
    temperature: float
    """How soft the mask is: positive, its inverse finite."""

    def constants(self) -> tuple[float, float, float, float]:
        """Return what the formulas take: logit, 1 / temperature, 1 / (1 - p), p."""
        sigmoid = ACTIVATIONS["sigmoid"].value
        p, keep_prob = (float(sigmoid(np.float64(u), 0.0)) for u in (self.logit, -self.logit))
        return self.logit, 1.0 / self.temperature, 1.0 / keep_prob, p


def summed(share: Any) -> Any:
    """Return the sum of what elements add to the gradient of the logit, in the order of all backends.

    Of a chunk there are 16 sums, of every 16th element each, in order; then their upper half is added to the lower
    one until one is left. Chunks are added in order.
    """
    n_chunks = -(-share.size // CHUNK)
    lanes = np.zeros((n_chunks, CHUNK // LANES, LANES))
    lanes.reshape(-1)[: share.size] = share
    sums = np.add.accumulate(lanes, axis=1)[:, -1]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return np.add.accumulate(sums[:, 0])[-1]
