"""The reference of normal noise, multiplied or added."""

from __future__ import annotations

import numpy as np

from normdrop import _normal_numbers
from normdrop._normal_numbers import Noise
from normdrop._reference.masks import numbers
from normdrop._reference.rounding import Array, rounded, wide


def gaussian_dropout(y: Array, x: Array, noise: Noise) -> None:
    """Set y = x * (1 + std * z), z normal, flat, in float64 and rounded."""
    a = numbers(x.size, noise.key, noise.call)
    with np.errstate(all="ignore"):
        y[...] = rounded(_normal_numbers.multiplied(wide(x), a, noise.std), y.dtype)


def gaussian_noise(y: Array, x: Array, noise: Noise) -> None:
    """Set y = x + std * z, z normal, flat, in float64 and rounded."""
    a = numbers(x.size, noise.key, noise.call)
    with np.errstate(all="ignore"):
        y[...] = rounded(_normal_numbers.added(wide(x), a, noise.std), y.dtype)
