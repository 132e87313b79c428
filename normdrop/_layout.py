"""Memory layout: any array as a dense one, and a dense one as (outer, C, inner).

A dense array fills one block of memory without gaps, its axes in any order: C order, Fortran order, a transposed view.
Dense arrays are viewed, never copied; all others are copied once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


class Layout:
    """The order of a dense array's axes in memory, and the views that follow from it."""

    __slots__ = ("_folds", "is_c_order", "order")

    def __init__(self, order: Shape) -> None:
        self.order = order
        self.is_c_order = order == tuple(range(len(order)))
        self._folds: dict[tuple[Shape, int], Shape] = {}

    def flat(self, x: Array) -> Array:
        """View `x` as one axis in memory order."""
        return (x if self.is_c_order else x.transpose(self.order)).reshape(-1)

    def by_channel(self, x: Array, channel_axis: int) -> Array:
        """View `x` as (outer, C, inner): what lies outside and inside the channel axis in memory."""
        fold = self._folds.get((x.shape, channel_axis))
        if fold is None:
            place = self.order.index(channel_axis)
            outer = math.prod(x.shape[axis] for axis in self.order[:place])
            inner = math.prod(x.shape[axis] for axis in self.order[place + 1 :])
            fold = (outer, x.shape[channel_axis], inner)
            if len(self._folds) < 1024:
                self._folds[x.shape, channel_axis] = fold
        return (x if self.is_c_order else x.transpose(self.order)).reshape(fold)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a new array of this layout."""
        if self.is_c_order:
            return np.empty(shape, dtype)
        return np.empty([shape[axis] for axis in self.order], dtype).transpose(np.argsort(self.order))

    def of_same(self, x: Array) -> bool:
        """Whether `x` is dense, aligned and has this layout; axes of length 1 do not matter."""
        if not x.flags.aligned:
            return False
        if self.is_c_order:
            return x.flags.c_contiguous
        return x.transpose(self.order).flags.c_contiguous

    def conform(self, x: Array) -> Array:
        """Return `x`, or a copy of it that has this layout."""
        if self.of_same(x):
            return x
        copy = self.empty(x.shape, x.dtype)
        copy[...] = x
        return copy


@lru_cache(maxsize=256)
def _layout(order: Shape) -> Layout:
    return Layout(order)


@lru_cache(maxsize=1024)
def _axes_by_stride(shape: Shape, strides: Shape) -> Shape:
    return tuple(sorted(range(len(shape)), key=lambda axis: (-abs(strides[axis]), -shape[axis], axis)))


def dense(x: Array) -> tuple[Array, Layout]:
    """Return `x` and its layout; a copy with the same order of axes if `x` has gaps, repeats or misaligned elements."""
    flags = x.flags
    if flags.c_contiguous:
        return (x if flags.aligned else x.copy()), _layout(tuple(range(x.ndim)))
    layout = _layout(_axes_by_stride(x.shape, x.strides))
    if layout.of_same(x):
        return x, layout
    copy = x.copy(order="K")
    if copy.flags.c_contiguous:
        return copy, _layout(tuple(range(x.ndim)))
    return copy, _layout(_axes_by_stride(copy.shape, copy.strides))


def target(shape: Shape, dtype: np.dtype[Any], layout: Layout, out: Array | None) -> tuple[Array, Array]:
    """Return (result, buffer): the array to hand back and an array of this layout to compute in.

    They are the same array unless `out` has another layout; `finish` then copies.
    """
    if out is None:
        out = layout.empty(shape, dtype)
        return out, out
    return out, (out if layout.of_same(out) else layout.empty(shape, dtype))


def finish(result: Array, buffer: Array) -> Array:
    """Copy the computed buffer into the result if they are two arrays, and return the result."""
    if result is not buffer:
        result[...] = buffer
    return result
