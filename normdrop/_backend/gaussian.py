"""Contracts of the launchers of normal noise, multiplied or added."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import Array, input_, law, result
from normdrop._normal_numbers import Noise


def gaussian_dropout(y: Array, x: Array, noise: Noise) -> None:
    """y = x * (1 + std * z), z normal, flat."""
    _fit(y, x, noise)
    contracts.select(x).gaussian_dropout(y, x, noise)


def gaussian_noise(y: Array, x: Array, noise: Noise) -> None:
    """y = x + std * z, z normal, flat."""
    _fit(y, x, noise)
    contracts.select(x).gaussian_noise(y, x, noise)


def _fit(y: Array, x: Array, noise: Noise) -> None:
    input_("x", x, (x.size,), x.dtype, x)
    result("y", y, x.shape, x.dtype, x)
    law(noise.key, noise.call, 0)
