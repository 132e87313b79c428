"""Several channel axes as one, or none at all: how arrays are viewed with one channel axis, and results back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device

Array: TypeAlias = npt.NDArray[Any]
Axes: TypeAlias = "int | tuple[int, ...]"


class AsOne(NamedTuple):
    """How an array with several channel axes is viewed with one."""

    shape: tuple[int, ...]
    """Shape of the array."""
    order: tuple[int, ...]
    """Its axes in the order in which those of the channels are side by side."""
    axis: int
    """Where they begin in that order."""
    n_axes: int
    """How many they are."""

    def merge(self, x: Array) -> Array:
        """View an array of this shape with one channel axis; a copy, if its memory does not allow that."""
        return x.transpose(self.order).reshape(self._merged())

    def split(self, y: Array) -> Array:
        """View what `merge` gives, or what has its shape, with all axes again."""
        return y.reshape([self.shape[k] for k in self.order]).transpose(np.argsort(self.order))

    def taken(self, out: Array | None, x: Array) -> Array | None:
        """Return a view of `out` that a pass can write to, or None; after checks."""
        if out is None:
            return None
        out = _checks.out(out, x, [("x", x)])
        merged = self.merge(out)
        return merged if np.may_share_memory(merged, out) else None

    def result(self, y: Array, out: Array | None) -> Array:
        """Return the result of a pass, in `out` if there is one."""
        if out is None:
            return self.split(y)
        if not np.may_share_memory(y, out):
            out[...] = self.split(y)
        return out

    def _merged(self) -> tuple[int, ...]:
        lengths = [self.shape[k] for k in self.order]
        stop = self.axis + self.n_axes
        return (*lengths[: self.axis], math.prod(lengths[self.axis : stop]), *lengths[stop:])


def of(x: Array, axes: Sequence[int]) -> AsOne:
    """Return how `x` is viewed; with no axes at all, as one channel."""
    if not _device.on_host(x):
        raise TypeError("channel_axis must be an int for x on a GPU; got a tuple. Reshape x, or copy it to the host.")
    axes = tuple(_checks.axis(axis, "channel_axis", x.ndim) for axis in axes)
    if len(set(axes)) < len(axes):
        raise ValueError(f"channel_axis must name each axis of x once; got {axes} for {x.ndim} axes")
    rest = [k for k in range(x.ndim) if k not in axes]
    place = min(axes, default=x.ndim)
    before = [k for k in rest if k < place]
    return AsOne(x.shape, (*before, *axes, *rest[len(before) :]), len(before), len(axes))


def merged(x: Array, axis: Axes) -> tuple[Array, int]:
    """Return a view of `x` with one channel axis, and where it is."""
    if not isinstance(axis, tuple):
        return x, axis
    one = of(x, axis)
    return one.merge(x), one.axis


def checked(value: object) -> AsOne:
    """Return what a context has, after a check of its type."""
    if not isinstance(value, AsOne):
        raise TypeError(f"context.as_one must be as it was returned; got {_checks.kind(value)}")
    return value
