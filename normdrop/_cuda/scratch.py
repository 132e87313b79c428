"""Workspaces: memory of kernels on a GPU, kept from pass to pass."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from normdrop._cuda import launch
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.kinds import NumbaKind

_kept = threading.local()


def scratch(like: DeviceArray, size: int, slot: int = 0) -> DeviceArray:
    """Return `size` float64 of workspace, kept per thread, device, stream and slot; its contents last for one pass."""
    spaces: dict[Any, DeviceArray] = _kept.__dict__.setdefault("spaces", {})
    key = like.device, like.stream, slot
    space = spaces.get(key)
    if space is None or space.size < size:
        with launch.on_device(like.device):
            kind = NumbaKind(like.device, like.stream)
            space = spaces[key] = kind.empty((max(size, 1024),), np.dtype(np.float64), (0,))
    return space
