"""Launchers of concrete dropout."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._concrete import CHUNK, Relaxation
from normdrop._cpu.kernels import concrete
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


def concrete_dropout(y: Array, x: Array, relaxation: Relaxation) -> None:
    """y = x * (1 - z) / (1 - p), flat; +0 where 1 - z is 0."""
    work = scratch((workers(x.size), CHUNK))
    run = concrete.concrete_dropout.variant(x.dtype, x.size)
    run(stored(y), stored(x), *relaxation.key, relaxation.call, np.array(relaxation.constants()), work)


def concrete_dropout_backward(dx: Array, dlogit: Vectors, dy: Array, x: Array, relaxation: Relaxation) -> None:
    """Fill dx, flat, and dlogit[0], the gradient of the logit, a sum over chunks in order."""
    work = scratch((workers(x.size), CHUNK))
    sums = np.empty((1, -(-x.size // CHUNK)))
    law = *relaxation.key, relaxation.call, np.array(relaxation.constants())
    concrete.concrete_dropout_backward.variant(x.dtype, x.size)(stored(dx), stored(dy), stored(x), *law, sums, work)
    dlogit[0] = np.add.accumulate(sums[0])[-1]
