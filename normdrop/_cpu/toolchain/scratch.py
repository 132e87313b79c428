"""Memory that kernels need while they run, kept for the next call: one set of buffers per thread.

No call leaves anything in it for another, so that a call from a signal handler or a finalizer between two lines of
Python does no harm.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop._cpu.lanes.memory import CACHE_LINE

_LIMIT = 1 << 23  # bytes kept per thread


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_shape: dict[tuple[int, ...], npt.NDArray[Any]] = {}
        self.n_bytes = 0


_buffers = _Buffers()


def scratch(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return a float64 array, aligned to a cache line and not initialized, for use until the kernel returns."""
    found = _buffers.by_shape.get(shape)
    return _new(shape) if found is None else found


def _new(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    n_bytes = math.prod(shape) * 8
    memory = np.empty(n_bytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    array = memory[start : start + n_bytes].view(np.float64).reshape(shape)
    if n_bytes <= _LIMIT:
        if _buffers.n_bytes + n_bytes > _LIMIT:
            _buffers.by_shape.clear()
            _buffers.n_bytes = 0
        _buffers.by_shape[shape] = array
        _buffers.n_bytes += n_bytes
    return array
