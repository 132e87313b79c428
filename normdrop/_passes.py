"""The way of an array through a pass, walked once: dense, viewed as launchers take it, computed, handed back.

A pass checks its arguments, makes a `Pass` of `x` and `out`, gives a launcher the views ``walk.y``, ``walk.x`` and
``walk.beside(dy)``, and returns ``walk.result()``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from normdrop import _device, _layout, _overlap

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


def kept(values: Array, out: Array | None) -> Array:
    """Return an input for a context, a copy if `out` may overwrite it; to be called before that is written."""
    overwritten = out is not None and _overlap.is_possible(out, values)
    return _device.native(values.copy(order="K") if overwritten else values)


class Reading:
    """An array that is read, made dense by a copy if it has gaps, and how it is viewed.

    `x` is what launchers take: (outer, C, inner) with a channel axis, or any shape that `fold` gives, the axes in the
    order of memory.
    """

    __slots__ = ("_shape", "dense", "layout", "x")

    def __init__(self, x: Array, channel_axis: int | None = None) -> None:
        self.dense, self.layout = _layout.dense(x)
        if channel_axis is not None:
            self.fold(self.layout.fold(x.shape, channel_axis))

    def fold(self, shape: Shape) -> None:
        """View the array in this shape."""
        self._shape = shape
        self.x = self.layout.folded(self.dense, shape)

    def beside(self, other: Array) -> Array:
        """View another array of the shape of `x` alike; a copy if it has another layout."""
        return self.layout.folded(self.layout.conform(other), self._shape)

    def positions(self, values: Array) -> Array:
        """View a host array with one channel and all other axes of `x` as (outer, inner), in the order of memory."""
        outer, _, inner = self._shape
        return (values if self.layout.is_c_order else values.transpose(self.layout.order)).reshape(outer, inner)


class Pass(Reading):
    """The same with the array that takes the result: `out`, or a new one of the layout of `x`.

    Launchers write to `y`. Where `out` has another layout that is a buffer, which is copied at the end.
    """

    __slots__ = ("_buffer", "_is_given", "_out", "y")

    def __init__(self, x: Array, out: Array | None = None, channel_axis: int | None = None) -> None:
        self.dense, self.layout = dense, layout = _layout.dense(x)
        self._is_given = out is not None
        if out is None:
            self._out = self._buffer = layout.empty(dense)
        else:
            self._out, self._buffer = out, out if layout.of_same(out) else layout.empty(dense)
        if channel_axis is not None:
            self.fold(layout.fold(x.shape, channel_axis))

    def fold(self, shape: Shape) -> None:
        """View the arrays in this shape."""
        super().fold(shape)
        self.y = self.layout.folded(self._buffer, shape)

    def kept(self) -> Array:
        """Return the input for a context, a copy if `out` may overwrite it; to be called before that is written."""
        return kept(self.dense, self._out if self._is_given else None)

    def filled(self, value: float) -> Array:
        """Return the result with this value everywhere."""
        self._out.fill(value)
        return _device.native(self._out)

    def result(self) -> Array:
        """Return the result as the caller takes it."""
        if self._out is not self._buffer:
            self._out[...] = self._buffer
        return _device.native(self._out)
