"""The CUDA backend as one for NumPy arrays: each launcher copies its arrays to the GPU, and back what it changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from normdrop import _cuda, _device


def _launcher(name: str) -> Any:
    def launch(*arguments: Any, **named: Any) -> None:
        arrays = list(_arrays((*arguments, *named.values())))
        copies = {_memory(a): _device.view(_device.to_device(a)) for a in arrays}

        def on_gpu(a: Any) -> Any:
            if isinstance(a, tuple):
                return getattr(type(a), "_make", tuple)(map(on_gpu, a))
            return copies[_memory(a)] if isinstance(a, np.ndarray) else a

        returned = getattr(_cuda, name)(*map(on_gpu, arguments), **{key: on_gpu(a) for key, a in named.items()})
        for a in arrays:
            if a.flags.writeable and a.size:
                a[...] = copies[_memory(a)].to_host()
        return returned

    launch.__doc__ = getattr(_cuda, name).__doc__
    return launch


def _arrays(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """All arrays among arguments, also in tuples."""
    for a in arguments:
        if isinstance(a, np.ndarray):
            yield a
        elif isinstance(a, tuple):
            yield from _arrays(a)


def _memory(a: Any) -> Any:
    """What two arrays share that are the same elements."""
    return a.__array_interface__["data"][0], a.shape, a.strides


__all__ = list(_cuda.__all__)
globals().update({name: _launcher(name) for name in __all__})
