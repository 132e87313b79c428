"""Kernels of normal noise, multiplied or added, with the loop of `normdrop._cpu.kernels.drawn_numbers`."""

from __future__ import annotations

from typing import Any

from numba import prange

from normdrop import _normal_numbers
from normdrop._cpu.kernels.activations import PRIMITIVES
from normdrop._cpu.kernels.drawn_numbers import write_share
from normdrop._cpu.kinds import Index, Memory, Real, Table
from normdrop._cpu.toolchain.launch import helper, kernel

_multiplied, _added = _normal_numbers.bound(PRIMITIVES, helper)


@kernel("oinnnfP")
def gaussian_dropout(y: Memory, x: Memory, key0: Any, key1: Any, call: Index, std: Real, work: Table) -> None:
    """y = x * (1 + std * z), z normal; flat. Parallel over workers with chunks, each with a row of `work`."""
    for worker in prange(work.shape[0]):
        write_share(y, x, ((key0, key1), call), worker, _multiplied, (std,), work)


@kernel("oinnnfP")
def gaussian_noise(y: Memory, x: Memory, key0: Any, key1: Any, call: Index, std: Real, work: Table) -> None:
    """y = x + std * z, z normal; flat. Parallel as above."""
    for worker in prange(work.shape[0]):
        write_share(y, x, ((key0, key1), call), worker, _added, (std,), work)
