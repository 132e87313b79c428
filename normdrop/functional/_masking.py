"""Masking and scaling: what the passes of dropout have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _layout
from normdrop._passes import Pass
from normdrop.functional import _varied
from normdrop.functional._varied import Varied, Vector
from normdrop.random import Key

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Scaling: TypeAlias = Literal["inverted", "original"]
Affine: TypeAlias = tuple[float, float, float]

SCALINGS = ("inverted", "original")
ALL_DROPPED = 1 << 32  # T with which everything is dropped


class DropoutContext(NamedTuple):
    """What `dropout_backward` needs. No mask is kept: it is drawn again from key and call.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.dropout(np.ones((2, 3)), 0.5, shared_axes=1, rng=0)
    >>> context.scale, context.mask_shape, context.call
    (2.0, (2, 1), 0)
    """

    shape: tuple[int, ...]
    """Shape of x."""
    dtype: np.dtype[Any]
    """Dtype of x."""
    threshold: int
    """T of the mask law: an element is dropped with probability T / 2**32."""
    scale: float
    """Factor of the kept elements."""
    shared_axes: tuple[int, ...] = ()
    """Axes along which one mask element serves all, each from 0 to ndim - 1."""
    key: Key = (0, 0)
    """Key of the stream."""
    call: int = 0
    """Call of the stream."""
    mask: Mask | None = None
    """The caller's mask, if there was one."""
    sample_ids: Integers | None = None
    """Ids of the samples, on the host, if each has a mask of its own."""
    varied: Varied | None = None
    """T and factors of the elements if p is an array, instead of `threshold` and `scale`."""

    @property
    def follows_x(self) -> bool:
        """Whether the law counts the elements of x itself, not those of a smaller mask or of samples."""
        return not self.shared_axes and self.sample_ids is None

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of the mask: that of x with 1 on the shared axes."""
        return tuple(1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape))


def threshold_of(p: float) -> int:
    """T = round(p * 2**32)."""
    return round(p * 2.0**32)


def keep_prob_of(threshold: int) -> float:
    """Realized probability of keeping an element, 1 - T / 2**32, exactly."""
    return 1.0 - threshold / 2.0**32


def shared_axes_of(shared_axes: int | Iterable[int], ndim: int) -> tuple[int, ...]:
    """Return the shared axes, each from 0 to ndim - 1, after checks."""
    if isinstance(shared_axes, tuple) and not shared_axes:
        return ()
    return tuple(sorted({_checks.axis(axis, "shared_axes", ndim) for axis in _checks.axes(shared_axes)}))


def sample_ids_of(sample_ids: object, x: Array, shared_axes: tuple[int, ...]) -> Integers | None:
    """Return a copy of the ids of the samples of `x` on the host, modulo 2**64, after checks."""
    if sample_ids is None:
        return None
    ids: Any = _device.view(sample_ids) if _device.is_device_array(sample_ids) else sample_ids
    taken = isinstance(ids, np.ndarray) or ids is not sample_ids
    if not taken or ids.dtype.kind not in "iu" or isinstance(ids, np.ma.MaskedArray):
        what = ids.dtype if taken and ids.dtype.kind not in "iu" else _checks.kind(sample_ids)
        raise TypeError(
            f"sample_ids must be an array of integers, one for each sample of x; got {what}. "
            "Use np.asarray(sample_ids, np.int64) if each is a whole number."
        )
    if x.ndim == 0:
        raise ValueError("sample_ids are those of samples along axis 0 of x, which has no axis; use x[np.newaxis]")
    if ids.shape != x.shape[:1]:
        raise ValueError(f"sample_ids must have shape {x.shape[:1]}, one for each sample of x; got {ids.shape}")
    if 0 in shared_axes:
        raise ValueError(
            f"sample_ids give each sample along axis 0 a mask of its own, but shared_axes {shared_axes} let all have "
            "one; leave out sample_ids, or take axis 0 out of shared_axes"
        )
    return _device.to_host(ids).astype(np.int64)


@lru_cache(maxsize=256)
def law_of(p: float, scaling: str) -> tuple[int, float]:
    """T, and the factor of the kept elements in training."""
    threshold = threshold_of(p)
    if scaling == "original":
        return threshold, 1.0
    keep_prob = keep_prob_of(threshold)
    return threshold, 1.0 / keep_prob if keep_prob > 0 else 0.0


def law_for(
    p: float | Vector, x: Array, shared_axes: tuple[int, ...], scaling: str
) -> tuple[int, float, Varied | None]:
    """T and the factor of the kept elements in training for `x`, or those of each where p is an array."""
    varied = None
    if not isinstance(p, float):
        p = _varied.aligned(p, DropoutContext(x.shape, x.dtype, 0, 1.0, shared_axes).mask_shape)
        if x.size and p.size > 1:
            varied = Varied(_varied.thresholds_of(p), scaling == "inverted")
        p = p.item() if p.size == 1 else 0.0
    threshold, scale = law_of(p, scaling)
    # Of nothing, nothing is dropped, and a mask of shared axes keeps everything.
    return (threshold if x.size else 0), scale, varied


def inference_of(p: float | Vector, x: Array, original: bool) -> DropoutContext:
    """Return the context of a pass in inference. It drops nothing (T = 0), unless p = 1 with original scaling."""
    if not isinstance(p, float):
        p = _varied.aligned(p, x.shape)
        if original and x.size and p.size > 1:
            axes = tuple(axis for axis, n in enumerate(p.shape) if n == 1)
            return DropoutContext(x.shape, x.dtype, 0, 1.0, axes, varied=Varied(_varied.thresholds_of(p), False, False))
        p = p.item() if p.size == 1 else 0.0
    keep_prob = keep_prob_of(threshold_of(p))
    threshold = ALL_DROPPED if original and keep_prob == 0 else 0
    return DropoutContext(x.shape, x.dtype, threshold, keep_prob if original else 1.0)


def apply(x: Array, context: DropoutContext, out: Array | None, affine: Affine | None = None) -> Array:
    """Mask and scale `x`: the one computation of forward and backward.

    With affine = (scale, shift, constant), what is kept is shifted, too, and what is dropped becomes the constant.
    """
    if context.varied is not None and x.size:
        return _apply_varied(x, context, context.varied, out)
    threshold, scale = context.threshold, context.scale
    walk = Pass(x, out)
    layout = walk.layout
    if x.size == 0 or (threshold == ALL_DROPPED and (context.mask is None or scale == 0.0)):
        return walk.filled(0 if affine is None else affine[2])
    drawn = context.mask is None and threshold > 0 and context.follows_x
    exchange = layout.exchange(x.shape) if drawn and not layout.is_c_order else None
    if drawn and layout.is_c_order:
        walk.fold((x.size,))
        if affine is None:
            _backend.dropout(walk.y, walk.x, context.key, context.call, threshold, scale)
        else:
            _backend.affine_dropout(walk.y, walk.x, context.key, context.call, threshold, affine)
    elif exchange is not None:
        walk.fold(exchange)
        if affine is None:
            _backend.dropout_transposed(walk.y, walk.x, context.key, context.call, threshold, scale)
        else:
            _backend.affine_dropout_transposed(walk.y, walk.x, context.key, context.call, threshold, affine)
    else:
        everything = context.mask is None and threshold == 0  # one element of such a mask is enough
        shape, values = ((1, x.size, 1), _kept(x)) if everything else fold(mask_of(context, x), x.shape, layout)
        walk.fold(shape)
        if affine is None:
            _backend.apply_mask(walk.y, walk.x, values, scale)
        else:
            _backend.apply_affine_mask(walk.y, walk.x, values, affine)
    return walk.result()


def _apply_varied(x: Array, context: DropoutContext, varied: Varied, out: Array | None) -> Array:
    walk = Pass(x, out)
    layout = walk.layout
    if varied.training and context.mask is None and context.follows_x and layout.is_c_order:
        shape, values = _varied.folded(varied.thresholds, x.shape)
        walk.fold(shape)
        values = _varied.placed(values, x)
        _backend.dropout_varied(walk.y, walk.x, values, context.key, context.call, varied.inverted)
        return walk.result()
    factors = varied.factors()
    shape, mask = fold(mask_of(context, x), x.shape, layout)
    walk.fold(shape)
    if factors is None:
        _backend.apply_mask(walk.y, walk.x, mask, 1.0)
    else:
        of_each = _varied.placed(np.broadcast_to(factors, context.mask_shape), x)
        _backend.apply_factors(walk.y, walk.x, mask, fold(of_each, x.shape, layout)[1])
    return walk.result()


def _kept(x: Array) -> Mask:
    """A mask of one element that keeps it."""
    kept: Mask = _device.empty((1, 1), np.bool_, x)
    kept.fill(True)
    return kept


def mask_of(context: DropoutContext, x: Array) -> Mask:
    """The mask of a forward pass, where `x` is; a drawn one is in C order."""
    shape = context.mask_shape
    if context.mask is not None:
        return _checks.mask(context.mask, shape, x)
    mask: Mask = _device.empty(shape, np.bool_, x)
    if context.varied is not None and context.varied.training:
        n_keys = 1 if context.sample_ids is None else shape[0]
        by_key = n_keys, mask.size // n_keys
        thresholds = _varied.placed(np.broadcast_to(context.varied.thresholds, shape), x).reshape(by_key)
        keys = _varied.placed(_varied.keys_of(context.key, context.sample_ids), x)
        _backend.keep_varied(mask.reshape(by_key), thresholds, keys, context.call)
    elif context.threshold in (0, ALL_DROPPED):
        mask.fill(context.threshold == 0)
    elif context.sample_ids is not None:
        ids = _device.empty(context.sample_ids.shape, np.int64, x)
        _device.assign(ids, context.sample_ids)
        _backend.keep_samples(
            mask.reshape((shape[0], math.prod(shape[1:]))), ids, context.key, context.call, context.threshold
        )
    else:
        _backend.keep_mask(mask.reshape(-1), context.key, context.call, context.threshold)
    return mask


def fold(mask: Array, shape: tuple[int, ...], layout: _layout.Layout) -> tuple[tuple[int, int, int], Array]:
    """Fold x's axes in memory order to (A, S, B), S the shared ones, and the mask, or what has its shape, to (A, B)."""
    mask = mask.transpose(layout.order)
    lengths = [shape[axis] for axis in layout.order]
    shared = [i for i, n in enumerate(lengths) if n > 1 and mask.shape[i] == 1]
    if shared and any(mask.shape[i] > 1 for i in range(shared[0], shared[-1])):
        mask, shared = _layout.broadcast(mask, lengths), []  # shared axes apart: no single S
    first, stop = (shared[0], shared[-1] + 1) if shared else (len(lengths), len(lengths))
    folded = math.prod(lengths[:first]), math.prod(lengths[first:stop]), math.prod(lengths[stop:])
    return folded, _layout.c_ordered(mask).reshape((folded[0], folded[2]))
