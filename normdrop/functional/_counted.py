"""Which positions of a batch count in a pass of batch normalization, by a mask or weights without channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _positions
from normdrop._passes import Pass, Reading
from normdrop._positions import OTHERS, SPARE, Positions

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


def positions(
    reading: Reading, shape: tuple[int, ...], axis: int, mask: Any, weights: Any, masked: str
) -> Positions | None:
    """Return which positions count, in the order in which `reading` has them, after checks; None if all do."""
    _checks.choice(masked, "masked", OTHERS)
    if mask is None and weights is None:
        return None
    given = None if mask is None else _beside(_along(_boolean(mask), shape, axis, "mask"), reading, shape, axis)
    w = None if weights is None else _beside(_along(_real(weights), shape, axis, "weights"), reading, shape, axis)
    return _positions.of(given, w, masked, like=reading.x)


def _beside(values: Array, reading: Reading, shape: tuple[int, ...], axis: int) -> Array:
    """Return what `_along` does as (outer, inner), in the order in which `reading` has the positions."""
    return reading.positions(np.broadcast_to(values, tuple(1 if k == axis else n for k, n in enumerate(shape))))


def along(shape: tuple[int, ...], axis: int, mask: Any, weights: Any) -> tuple[Array, Array | None]:
    """Return which positions count, and weights if there are any, after checks, with one channel on its axis."""
    full = tuple(1 if k == axis else n for k, n in enumerate(shape))
    counted = np.broadcast_to(True, full) if mask is None else _along(_boolean(mask), shape, axis, "mask")
    w = None if weights is None else _along(_real(weights), shape, axis, "weights")
    return counted if w is None else counted & (w > 0), w


def by_axes(where: Positions | None, reading: Reading, shape: tuple[int, ...], axis: int) -> Positions | None:
    """Return positions in the order of the axes, for a context: copies and pickles may change that of memory."""
    order = reading.layout.order
    if where is None or reading.layout.is_c_order:
        return where
    lengths = [1 if k == axis else shape[k] for k in order]
    return _moved(where, lambda values: values.reshape(lengths).transpose(np.argsort(order)))


def by_memory(where: Positions, reading: Reading, shape: tuple[int, ...], axis: int) -> Positions:
    """Return positions in the order in which `reading` has them, from that of the axes."""
    if reading.layout.is_c_order:
        return where
    lengths = [1 if k == axis else n for k, n in enumerate(shape)]
    return _moved(where, lambda values: values.reshape(lengths).transpose(reading.layout.order))


def _moved(where: Positions, move: Callable[[Array], Array]) -> Positions:
    mask, weights = (_device.to_host(values)[:-SPARE] for values in where[:2])
    w = move(weights) if weights.size else None
    return _positions.of(move(mask), w, where.others, like=where.mask)


def _boolean(mask: Any) -> Array:
    on_host = _device.to_host(mask) if _device.is_device_array(mask) else mask
    return _checks.mask(on_host, np.shape(on_host), on_host)


def _real(weights: Any) -> Array:
    """Return weights in float32, as passes take them."""
    given = _device.to_host(_checks.array(weights, "weights"))
    with np.errstate(over="ignore"):
        w = given.astype(np.float32, copy=False)
    if w.size and not (w.min() >= 0 and w.max() < np.inf):  # a NaN is neither
        raise ValueError(
            "weights must be finite in float32 and not negative; leave a position out by the weight 0 or a mask"
        )
    return w


def _along(values: Array, shape: tuple[int, ...], axis: int, name: str) -> Array:
    """View a mask or weights with an axis of length 1 where x has its channels, all others as long as those of x."""
    without = shape[:axis] + shape[axis + 1 :]
    full = (*shape[:axis], 1, *shape[axis + 1 :])
    try:
        if values.ndim == len(shape):
            return np.broadcast_to(values, full)
        return np.expand_dims(np.broadcast_to(values, without), axis)
    except ValueError:
        raise ValueError(
            f"{name} must have the shape of x without its channels, {without}, or one that broadcasts to it; got "
            f"{values.shape} for x of shape {shape} with channel_axis = {axis}"
        ) from None


def forward(walk: Pass, statistics: Vectors, affine: tuple[Array, Array], eps: float, where: Positions) -> None:
    """Fill the statistics of what counts, and y."""
    more_than_one(where)
    if where.total > 0:
        _backend.masked_batch_norm(walk.y, walk.x, statistics, *affine, eps, where)
    else:
        statistics.fill(np.nan)
        _fill(walk.y, walk.x, where.others)


def more_than_one(where: Positions) -> None:
    """Check that positions enough for statistics count."""
    if where.n_counted == 1:
        raise ValueError(
            "one position counts, and the variance of one value is no estimate; let more count, or use "
            "batch_norm_inference with running statistics"
        )


def backward(walk: Pass, dy: Array, sums: Vectors, statistics: Vectors, scale: Array, where: Positions) -> None:
    """Fill the sums over what is normalized, and dx."""
    dy = walk.beside(dy)
    if where.total > 0:
        _backend.masked_batch_norm_backward(walk.y, dy, walk.x, sums, statistics, scale, where)
    else:
        sums.fill(np.nan if where.others == "normalize" and walk.x.size else 0.0)
        _fill(walk.y, dy, where.others)


def normalize(y: Array, x: Array, vectors: Vectors, where: Positions | None) -> None:
    """Write y of normalization by given vectors."""
    if not x.size:
        return
    if where is None or where.others == "normalize":
        _backend.normalize(y, x, vectors)
    elif where.total > 0:
        _backend.masked_normalize(y, x, vectors, where)
    else:
        _fill(y, x, where.others)


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, where: Positions | None) -> None:
    """Fill the sums of gradients of normalization by given statistics."""
    if not x.size or (where is not None and where.total == 0 and where.others != "normalize"):
        sums.fill(0.0)
    elif where is None or where.others == "normalize":
        _backend.parameter_gradients(sums, dy, x, statistics)
    else:
        _backend.masked_parameter_gradients(sums, dy, x, statistics, where)


def others(where: Positions | None, shape: tuple[int, ...], axis: int) -> Array | None:
    """Return which positions, in the order of the axes, are not normalized, with one channel; None if all are."""
    if where is None or where.others == "normalize":
        return None
    return ~where.mask[:-SPARE].reshape([1 if k == axis else n for k, n in enumerate(shape)])


def write_others(y: Array, x: Array, where: Positions | None, axis: int) -> None:
    """Write zeros, or `x`, where positions are not normalized."""
    rest = others(where, y.shape, axis)
    if where is not None and rest is not None:
        np.copyto(y, x if where.others == "keep" else y.dtype.type(0), where=rest)


def _fill(y: Array, x: Array, others: str) -> None:
    """Write what becomes of everything where nothing counts; what would be normalized is a NaN."""
    if others == "keep":
        y[...] = x
    else:
        y.fill(np.nan if others == "normalize" else 0.0)
