"""Launchers of dropout whose p varies."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu.kernels import varied
from normdrop._cpu.kernels.mask_law import PAIR
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]

_BOOL = np.dtype(np.bool_)
_NONE = np.empty(0)


def dropout_varied(y: Array, x: Array, thresholds: Vector, key: tuple[int, int], call: int, inverted: bool) -> None:
    """y = x / (1 - T / 2**32) or x where the mask law keeps with T of the channel, else +0.

    Where channels lie side by side, their numbers are repeated, so that each task finds its own in one run. Where
    each serves one element, factors are computed on the way.
    """
    outer, n_channels, inner = x.shape
    factors = _NONE
    if outer > 1 or inner > 1:
        with np.errstate(divide="ignore"):
            factors = 1.0 / (1.0 - thresholds * 2.0**-32) if inverted else np.ones(n_channels)
        if inner == 1:
            n = n_channels + PAIR
            thresholds, factors = np.resize(thresholds, n), np.resize(factors, n)
    law = *key, call, _row(thresholds), _row(factors), n_channels, inner, int(inverted)
    run = varied.dropout_varied.variant(x.dtype, x.size)
    run(stored(y).reshape(-1), stored(x).reshape(-1), *law, scratch((workers(x.size), varied.WORK)))


def _row(values: Vector) -> Vectors:
    """Numbers as one row that kernels take for writable, so that they reach it as their own memory; never written."""
    return (values if values.flags.writeable else values.copy()).reshape(1, -1)


def keep_varied(mask: Mask, thresholds: Vectors, keys: Integers, call: int) -> None:
    """mask[n, j] = whether the mask law keeps element j under key n with T = thresholds[n, j]."""
    limits = np.concatenate([thresholds.reshape(-1), np.zeros(PAIR)])
    run = varied.keep_varied.variant(_BOOL, mask.size)
    run(mask.reshape(-1), _row(limits), keys if keys.flags.writeable else keys.copy(), mask.shape[1], call)


def apply_factors(y: Array, x: Array, mask: Mask, factors: Vectors) -> None:
    """y = factor * x where a given mask keeps and the factor is above 0, else +0."""
    _, n_shared, length = x.shape
    run = varied.apply_factors.variant(x.dtype, x.size)
    run(stored(y).reshape(-1), stored(x).reshape(-1), (factors * mask).reshape(-1), n_shared, length)
