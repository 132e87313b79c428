"""Launchers of normal noise, multiplied or added."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from normdrop._cpu.kernels import gaussian
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import Kernel, workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import DRAWN
from normdrop._normal_numbers import Noise

Array: TypeAlias = npt.NDArray[Any]


def gaussian_dropout(y: Array, x: Array, noise: Noise) -> None:
    """y = x * (1 + std * z), z normal, flat."""
    _run(gaussian.gaussian_dropout, y, x, noise)


def gaussian_noise(y: Array, x: Array, noise: Noise) -> None:
    """y = x + std * z, z normal, flat."""
    _run(gaussian.gaussian_noise, y, x, noise)


def _run(kernel: Kernel, y: Array, x: Array, noise: Noise) -> None:
    work = scratch((workers(x.size), DRAWN))
    kernel.variant(x.dtype, x.size)(stored(y), stored(x), *noise.key, noise.call, noise.std, work)
