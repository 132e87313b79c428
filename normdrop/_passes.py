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


class Reading:
    """An array that is read, made dense by a copy if it has gaps, and its views, such as (outer, C, inner)."""

    __slots__ = ("_fold", "dense", "layout")

    def __init__(self, x: Array, channel_axis: int | None = None) -> None:
        self.dense, self.layout = _layout.dense(x)
        if channel_axis is not None:
            self._fold = self.layout.fold(self.dense.shape, channel_axis)

    def fold(self, shape: Shape) -> None:
        """View all arrays in this shape instead, their axes in the order of memory."""
        self._fold = shape

    @property
    def x(self) -> Array:
        """The array as launchers take it."""
        return self.layout.folded(self.dense, self._fold)

    def beside(self, other: Array) -> Array:
        """View another array of the shape of `x` alike; a copy if it has another layout."""
        return self.layout.folded(self.layout.conform(other), self._fold)


class Pass(Reading):
    """The same with the array that takes the result: `out`, or a new one of the layout of `x`.

    Where `out` has another layout, launchers write to a buffer, which is copied at the end.
    """

    __slots__ = ("_buffer", "_is_given", "_out")

    def __init__(self, x: Array, out: Array | None = None, channel_axis: int | None = None) -> None:
        super().__init__(x, channel_axis)
        self._is_given = out is not None
        self._out = self._buffer = self.layout.empty(self.dense) if out is None else out
        if self._is_given and not self.layout.of_same(self._out):
            self._buffer = self.layout.empty(self.dense)

    @property
    def y(self) -> Array:
        """What launchers write to."""
        return self.layout.folded(self._buffer, self._fold)

    def kept(self) -> Array:
        """Return the input for a context, a copy if `out` may overwrite it; to be called before that is written."""
        overwritten = self._is_given and _overlap.is_possible(self._out, self.dense)
        return _device.native(self.dense.copy(order="K") if overwritten else self.dense)

    def filled(self, value: float) -> Array:
        """Return the result with this value everywhere."""
        self._out.fill(value)
        return _device.native(self._out)

    def result(self) -> Array:
        """Return the result as the caller takes it."""
        if self._out is not self._buffer:
            self._out[...] = self._buffer
        return _device.native(self._out)
