"""The reference of concrete dropout."""

from __future__ import annotations

import numpy as np

from normdrop import _concrete
from normdrop._concrete import Relaxation
from normdrop._reference.masks import numbers
from normdrop._reference.rounding import Array, Vectors, rounded, wide


def concrete_dropout(y: Array, x: Array, relaxation: Relaxation) -> None:
    """Set y = x * (1 - z) / (1 - p), flat, in float64 and rounded; +0 where 1 - z is 0."""
    a = numbers(x.size, relaxation.key, relaxation.call)
    with np.errstate(all="ignore"):
        y[...] = rounded(_concrete.value(wide(x), a, *relaxation.constants()[:3]), y.dtype)


def concrete_dropout_backward(dx: Array, dlogit: Vectors, dy: Array, x: Array, relaxation: Relaxation) -> None:
    """Set dx, flat, and dlogit[0], the gradient of the logit, a sum as in `_concrete.summed`."""
    a = numbers(x.size, relaxation.key, relaxation.call)
    with np.errstate(all="ignore"):
        gradient, share = _concrete.gradients(wide(dy), wide(x), a, *relaxation.constants())
        dx[...] = rounded(gradient, dx.dtype)
        dlogit[0] = _concrete.summed(share)
