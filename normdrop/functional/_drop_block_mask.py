"""The mask of DropBlock: where blocks lie among the axes of an array, and what a context says of them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device
from normdrop._passes import Pass
from normdrop.functional._drop_block_rate import block_size_of, clamped, realized_p_of
from normdrop.functional._masking import ALL_DROPPED, DropoutContext, Mask, apply
from normdrop.random import Key

Array: TypeAlias = npt.NDArray[Any]
BlockScaling: TypeAlias = Literal["counted", "expected"]

BLOCK_SCALINGS = ("counted", "expected")


class DropBlockContext(NamedTuple):
    """What `drop_block_backward` needs. No mask is kept: it is drawn again from key and call.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.drop_block(np.ones((2, 3, 8, 8)), 0.1, 3, rng=0)
    >>> context.blocks, round(context.realized_p, 6)
    ((1, 1, 3, 3), 0.1)
    """

    shape: tuple[int, ...]
    """Shape of x."""
    dtype: np.dtype[Any]
    """Dtype of x."""
    threshold: int
    """T of the mask law: an element is a seed with probability T / 2**32."""
    scale: float
    """Factor of the kept elements."""
    blocks: tuple[int, ...]
    """Sides of a block along all axes of x; 1 for batch and channels."""
    shared_axes: tuple[int, ...] = ()
    """The axis of the channels, if they share a mask."""
    key: Key = (0, 0)
    """Key of the stream."""
    call: int = 0
    """Call of the stream."""

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of the mask: that of x with 1 on the shared axis."""
        return tuple(1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape))

    @property
    def realized_p(self) -> float:
        """Expected share of elements that are dropped."""
        return realized_p_of(self.shape, self.blocks, self.threshold)


def blocks_of(x: Array, block_size: int | tuple[int, ...], channel_axis: int) -> tuple[tuple[int, ...], int]:
    """Return the sides of a block along all axes of `x`, and the axis of the channels, after checks."""
    _checks.rank(
        x,
        (3, 4, 5),
        "drop_block",
        "Its input is (N, C, L), (N, C, H, W) or (N, C, D, H, W); use x[np.newaxis] for a single sample.",
    )
    axis = block_channel_axis(channel_axis, x.ndim)
    maps = [a for a in range(x.ndim) if a not in (axis, 1 if axis == 0 else 0)]
    given = block_size_of(block_size, len(maps))
    sizes = dict(zip(maps, given, strict=True))
    return clamped(tuple(sizes.get(a, 1) for a in range(x.ndim)), tuple(max(1, n) for n in x.shape)), axis


def block_channel_axis(value: object, ndim: int) -> int:
    """Return the axis of the channels as one from 0 to ndim - 1, after checks: the axes of a map lie side by side."""
    axis = _checks.axis(value, "channel_axis", ndim)
    if axis not in (0, 1, ndim - 1):
        raise ValueError(
            f"channel_axis must be 0, 1 or -1, because the axes of a map must lie side by side; got {value} for "
            f"{ndim} axes. Use np.moveaxis(x, {value}, 1)."
        )
    return axis


def mask_of(context: DropBlockContext, x: Array) -> tuple[Mask, Array]:
    """Return the mask of a forward pass, where `x` is, and how many of its elements are kept, an array."""
    shape, threshold = context.mask_shape, context.threshold
    mask: Mask = _device.empty(shape, np.bool_, x)
    n_kept: Array = _device.empty((1,), np.int64, x)
    if threshold in (0, ALL_DROPPED) or not mask.size:
        mask.fill(threshold == 0)
        _device.assign(n_kept, np.array([mask.size if threshold == 0 else 0]))
        return mask, n_kept
    folded, blocks = _folded(shape, context.blocks)
    _backend.keep_blocks(mask.reshape(folded), n_kept, blocks, context.key, context.call, threshold)
    return mask, n_kept


def _folded(shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Axes as launchers take them, (outer, three sides of a map, inner), and sides of a block along the three."""
    wide = [axis for axis, block in enumerate(blocks) if block > 1] or [len(shape) - 1]
    first, last = wide[0], wide[-1] + 1
    missing = (1,) * (3 - (last - first))
    b1, b2, b3 = missing + blocks[first:last]
    return (math.prod(shape[:first]), *missing, *shape[first:last], math.prod(shape[last:])), (b1, b2, b3)


def dropped(x: Array, context: DropBlockContext, out: Array | None, *, counted: bool) -> tuple[Array, DropBlockContext]:
    """Mask and scale `x`, by the number of elements that are kept if that is counted; return the context, too.

    The mask is in no array of its own where x lies as the law counts it.
    """
    threshold = context.threshold
    if threshold in (0, ALL_DROPPED) or not x.size or context.shared_axes or not x.flags.c_contiguous:
        mask, n_kept = mask_of(context, x)
        context = counted_scale(context, n_kept) if counted else context
        return applied(x, context, mask, out), context
    walk = Pass(x, out)
    shape, blocks = _folded(x.shape, context.blocks)
    walk.fold(shape)
    n_kept = _device.empty((1,), np.int64, x)
    scale = None if counted else context.scale
    _backend.drop_blocks(walk.y, walk.x, n_kept, blocks, context.key, context.call, threshold, scale)
    return walk.result(), counted_scale(context, n_kept) if counted else context


def counted_scale(context: DropBlockContext, n_kept: Array) -> DropBlockContext:
    """Return the context with the scale of a pass that kept so many elements of its mask."""
    n = int(_device.to_host(n_kept)[0])
    return context._replace(scale=math.prod(context.mask_shape) / n if n else 0.0)


def applied(x: Array, context: DropBlockContext, mask: Mask, out: Array | None) -> Array:
    """Mask and scale `x`: the one computation of forward and backward."""
    shape, dtype, threshold, scale = context[:4]
    if threshold == 0:
        return apply(x, DropoutContext(shape, dtype, 0, 1.0), out)
    kept = DropoutContext(shape, dtype, threshold, scale, context.shared_axes, mask=mask)
    return apply(x, kept, out)


def check_context(context: DropBlockContext) -> None:
    """Check that a context's blocks lie in its map: it may come from anywhere."""
    shape, blocks, shared = context.shape, context.blocks, context.shared_axes
    fits = len(blocks) == len(shape) and all(1 <= b <= max(1, n) for b, n in zip(blocks, shape, strict=True))
    wide = [axis for axis, block in enumerate(blocks) if block > 1] if fits else []
    if wide and (wide[-1] - wide[0] > 2 or any(wide[0] <= axis <= wide[-1] for axis in shared)):
        fits = False
    if not fits or not 0 <= context.threshold <= ALL_DROPPED:
        raise ValueError(
            f"context.blocks must be sides of blocks in a map of shape {shape}, and threshold from 0 to 2**32; got "
            f"{blocks} and {context.threshold}. Pass the context as drop_block() returned it."
        )
