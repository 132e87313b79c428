"""Memory layout: any array as a dense one, and a dense one as (outer, C, inner).

A dense array fills one block of memory without gaps, its axes in any order: C order, Fortran order, a transposed view.
Dense arrays are viewed, never copied; all others are copied once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from normdrop import _device, _pool

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


class Layout:
    """The order of a dense array's axes in memory, and the views that follow from it."""

    __slots__ = ("_exchanges", "_folds", "is_c_order", "order")

    def __init__(self, order: Shape) -> None:
        self.order = order
        self.is_c_order = order == tuple(range(len(order)))
        self._folds: dict[tuple[Shape, int], Shape] = {}
        self._exchanges: dict[Shape, Shape | None] = {}

    def fold(self, shape: Shape, channel_axis: int) -> Shape:
        """Return (outer, C, inner): the sizes of what lies outside and inside the channel axis in memory."""
        fold = self._folds.get((shape, channel_axis))
        if fold is None:
            place = self.order.index(channel_axis)
            outer = math.prod(shape[axis] for axis in self.order[:place])
            inner = math.prod(shape[axis] for axis in self.order[place + 1 :])
            if len(self._folds) >= 1024:
                self._folds.clear()
            fold = self._folds[shape, channel_axis] = (outer, shape[channel_axis], inner)
        return fold

    def folded(self, x: Array, fold: Shape) -> Array:
        """View `x`, folded in memory order."""
        return (x if self.is_c_order else x.transpose(self.order)).reshape(fold)

    def exchange(self, shape: Shape) -> Shape | None:
        """Return (A, P, Q) if an array of this layout is an (A, Q, P) array whose last two axes were exchanged."""
        if shape not in self._exchanges:
            if len(self._exchanges) >= 1024:
                self._exchanges.clear()
            self._exchanges[shape] = _exchange([axis for axis in self.order if shape[axis] > 1], shape)
        return self._exchanges[shape]

    def empty(self, x: Array) -> Array:
        """Return a new array of this layout, of the shape and dtype of `x` and where it is."""
        shape, dtype = x.shape, x.dtype
        if not _device.on_host(x):
            return cast(Array, _device.empty(shape, dtype, x, self.order))
        if self.is_c_order:
            return _pool.empty(shape, dtype)
        return _pool.empty(tuple(shape[axis] for axis in self.order), dtype).transpose(np.argsort(self.order))

    def of_same(self, x: Array) -> bool:
        """Whether `x` is dense, aligned and has this layout; axes of length 1 do not matter."""
        flags = x.flags
        if not flags.aligned:
            return False
        return flags.c_contiguous if self.is_c_order else x.transpose(self.order).flags.c_contiguous

    def conform(self, x: Array) -> Array:
        """Return `x`, or a copy of it that has this layout."""
        if self.of_same(x):
            return x
        copy = self.empty(x)
        copy[...] = x
        return copy


def _exchange(order: list[int], shape: Shape) -> Shape | None:
    c_order = sorted(order)
    first = 0
    while first < len(order) and order[first] == c_order[first]:
        first += 1
    outer, rest = c_order[:first], order[first:]
    for n in range(1, len(rest)):
        if rest[n:] + rest[:n] == c_order[first:]:
            a, p, q = (math.prod(shape[axis] for axis in axes) for axes in (outer, rest[:n], rest[n:]))
            return a, p, q
    return None


@lru_cache(maxsize=256)
def _layout(order: Shape) -> Layout:
    return Layout(order)


_C_ORDER = [_layout(tuple(range(ndim))) for ndim in range(65)]


@lru_cache(maxsize=1024)
def _axes_by_stride(shape: Shape, strides: Shape) -> Shape:
    return tuple(sorted(range(len(shape)), key=lambda axis: (-abs(strides[axis]), -shape[axis], axis)))


def dense(x: Array) -> tuple[Array, Layout]:
    """Return `x` and its layout; a copy with the same order of axes if `x` has gaps, repeats or misaligned elements."""
    flags = x.flags
    if flags.c_contiguous:
        return (x if flags.aligned else x.copy()), _C_ORDER[x.ndim]
    layout = _layout(_axes_by_stride(x.shape, x.strides))
    if layout.of_same(x):
        return x, layout
    copy = x.copy(order="K")
    if copy.flags.c_contiguous:
        return copy, _C_ORDER[x.ndim]
    return copy, _layout(_axes_by_stride(copy.shape, copy.strides))


def c_ordered(x: Array) -> Array:
    """Return `x`, or a copy in C order."""
    if _device.on_host(x):
        return np.ascontiguousarray(x)
    return x if x.flags.c_contiguous else x.copy()


def broadcast(x: Array, shape: list[int]) -> Array:
    """View axes of length 1 repeated."""
    return np.broadcast_to(x, shape) if _device.on_host(x) else _device.broadcast(x, shape)
