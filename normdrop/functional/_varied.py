"""A p that varies from element to element: what it may be, its law, and where its numbers go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _philox

if TYPE_CHECKING:
    from normdrop.random import Key

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


class Varied(NamedTuple):
    """The law of a pass whose p is an array: of its shape, with as many axes as the mask, on the host."""

    thresholds: Vector | None
    """T of the mask law, whole numbers from 0 to 2**32; None in inference, which drops nothing."""
    factors: Vector | None
    """Factors of the kept elements; None where all are 1."""


def is_array(p: object) -> bool:
    """Whether p is an array, wherever it is."""
    return isinstance(p, np.ndarray) or _device.is_device_array(p)


def probabilities(p: object) -> float | Vector:
    """Return p as a float, or as an array of float64 on the host, from 0 to 1."""
    if type(p) is float or not is_array(p):
        return _checks.probability(p)
    values = _device.to_host(_checks.array(p, "p")).astype(np.float64)
    inside = (values >= 0.0) & (values <= 1.0)
    if not inside.all():
        place = tuple(np.argwhere(~inside)[0].tolist())
        raise ValueError(
            f"p must have the probabilities of dropping elements, from 0 to 1; got {float(values[place])} at "
            f"{place}. Use np.clip(p, 0, 1) if it is a matter of rounding."
        )
    return values if values.ndim else float(values)


def aligned(p: Vector, mask_shape: Shape) -> Vector:
    """Return p with as many axes as the mask, after checking that it can be broadcast to its shape."""
    shape = (1,) * (len(mask_shape) - p.ndim) + p.shape
    if len(shape) != len(mask_shape) or any(n not in (1, m) for n, m in zip(shape, mask_shape, strict=True)):
        raise ValueError(
            f"p must be broadcastable to the mask, which has shape {mask_shape}: the shape of x with 1 on the shared "
            f"axes; got {p.shape}. Give it that shape, with 1 on the axes along which p is the same, by p.reshape(...)."
        )
    return p.reshape(shape)


def thresholds_of(p: Vector) -> Vector:
    """T = round(p * 2**32) of each, as float64, which holds it exactly."""
    return np.asarray(np.rint(p * 2.0**32))


def keep_probs_of(thresholds: Vector) -> Vector:
    """Realized probabilities of keeping an element, 1 - T / 2**32, exactly."""
    return np.asarray(1.0 - thresholds * 2.0**-32)


def factors_of(thresholds: Vector) -> Vector:
    """Factors of the kept elements with inverted scaling; 0 where none is kept."""
    keep_probs = keep_probs_of(thresholds)
    return np.divide(1.0, keep_probs, out=np.zeros_like(keep_probs), where=keep_probs > 0)


def folded(values: Vector, shape: Shape) -> tuple[tuple[int, int, int], Vector]:
    """Return the shape (outer, C, inner) of a C-ordered x of which numbers follow the second axis, and those."""
    long = [axis for axis, n in enumerate(values.shape) if n > 1]
    first, stop = long[0], long[-1] + 1
    fold = math.prod(shape[:first]), math.prod(shape[first:stop]), math.prod(shape[stop:])
    return fold, np.broadcast_to(values, (*values.shape[:first], *shape[first:stop], *values.shape[stop:])).reshape(-1)


def placed(values: Array, like: Array) -> Array:
    """Return numbers in C order where an array is."""
    if _device.on_host(like):
        return np.ascontiguousarray(values)
    moved: Array = _device.empty(values.shape, values.dtype, like)
    _device.assign(moved, values)
    return moved


def keys_of(key: Key, sample_ids: Integers | None) -> Integers:
    """Return the keys of the samples, of shape (N, 2); without ids, that of the stream alone."""
    if sample_ids is None:
        return np.array([key], np.int64)
    s = sample_ids.astype(np.uint64)  # modulo 2**64
    first, second = (np.full_like(s, word) for word in _philox.SAMPLE_COUNTER)
    words = _philox.philox4x32(first, second, s & _LOW, s >> _32, *map(np.uint64, key))
    return np.stack(words[:2], axis=1).astype(np.int64)
