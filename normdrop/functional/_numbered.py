"""Passes whose random numbers follow the C-order index of an element: arrays as they are counted there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy.typing as npt

from normdrop import _device, _layout
from normdrop._passes import Pass

Array: TypeAlias = npt.NDArray[Any]


def counted(x: Array) -> Array:
    """Return the elements as the mask law counts them."""
    return _layout.c_ordered(x).reshape(-1)


def flat(walk: Pass) -> tuple[Array, Callable[[], None]]:
    """Return where to write the result as the mask law counts it, and what then brings it into the order of memory."""
    shape, order = walk.dense.shape, walk.layout.order
    walk.fold(tuple(shape[axis] for axis in order))
    if walk.layout.is_c_order:
        return walk.y.reshape(-1), lambda: None
    y = _device.empty(shape, walk.y.dtype, walk.y)

    def turn() -> None:
        walk.y[...] = y.transpose(order)

    return y.reshape(-1), turn
