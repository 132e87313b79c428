"""Normal noise on a GPU, multiplied or added: the numbers of the mask law, and formulas in float64."""

from __future__ import annotations

from typing import Any

from normdrop import _normal_numbers
from normdrop._cuda.activations import PRIMITIVES
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.drawn_numbers import n_write_blocks, writer
from normdrop._cuda.launch import Kernel, helper
from normdrop._cuda.launchers import key_word
from normdrop._normal_numbers import Noise

_multiplied, _added = _normal_numbers.bound(PRIMITIVES, helper)


@helper
def _multiply(x: Any, a: Any, std: Any, unused: Any, unused_too: Any) -> Any:
    return _multiplied(x, a, std)


@helper
def _add(x: Any, a: Any, std: Any, unused: Any, unused_too: Any) -> Any:
    return _added(x, a, std)


multiply_noise, add_noise = writer("multiply_noise", _multiply), writer("add_noise", _add)


def gaussian_dropout(y: DeviceArray, x: DeviceArray, noise: Noise) -> None:
    """y = x * (1 + std * z), z normal, flat."""
    _run(multiply_noise, y, x, noise)


def gaussian_noise(y: DeviceArray, x: DeviceArray, noise: Noise) -> None:
    """y = x + std * z, z normal, flat."""
    _run(add_noise, y, x, noise)


def _run(kernel: Kernel, y: DeviceArray, x: DeviceArray, noise: Noise) -> None:
    kernel(x.dtype, n_write_blocks(x.size), y, x, key_word(noise.key), noise.call, noise.std, 0.0, 0.0)
