"""A p that varies from element to element: what it may be, its law, and where its numbers go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _philox, _pool

if TYPE_CHECKING:
    from normdrop.random import Key

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


class Varied(NamedTuple):
    """The law of a pass whose p is an array: of its shape, with as many axes as the mask, on the host."""

    thresholds: Vector
    """T of the mask law, whole numbers from 0 to 2**32."""
    inverted: bool
    """Whether training scales, by 1 / (1 - T / 2**32), or else inference, by 1 - T / 2**32."""
    training: bool = True
    """Whether elements are dropped."""

    def factors(self) -> Vector | None:
        """Return the factors of the kept elements, 0 where none is kept; None where all are 1."""
        if self.inverted != self.training:
            return None
        keep_probs = keep_probs_of(self.thresholds)
        if not self.training:
            return keep_probs
        return np.divide(1.0, keep_probs, out=np.zeros_like(keep_probs), where=keep_probs > 0)


def is_array(p: object) -> bool:
    """Whether p is an array, wherever it is."""
    return isinstance(p, np.ndarray) or _device.is_device_array(p)


def probabilities(p: object) -> float | Vector:
    """Return p as a float, or as an array of float64 on the host, from 0 to 1."""
    if type(p) is float or not is_array(p):
        return _checks.probability(p)
    given = _checks.array(p, "p")
    values = (given if _device.on_host(given) else _device.to_host(given)).astype(np.float64, copy=False)
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):  # a NaN is neither
        place = tuple(np.argwhere(~((values >= 0.0) & (values <= 1.0)))[0].tolist())
        raise ValueError(
            f"p must have the probabilities of dropping elements, from 0 to 1; got {float(values[place])} at "
            f"{place}. Use np.clip(p, 0, 1) if it is a matter of rounding."
        )
    return values if values.ndim else float(values)


def realized(p: float | Vector) -> float | Vector:
    """Return the probabilities that p realizes, T / 2**32."""
    return round(p * 2.0**32) / 2.0**32 if isinstance(p, float) else np.rint(p * 2.0**32) * 2.0**-32


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
    thresholds = np.multiply(p, 2.0**32, out=_pool.empty(p.shape, np.dtype(np.float64)))
    return np.asarray(np.rint(thresholds, out=thresholds))


def keep_probs_of(thresholds: Vector) -> Vector:
    """Realized probabilities of keeping an element, 1 - T / 2**32, exactly."""
    return np.asarray(1.0 - thresholds * 2.0**-32)


def folded(values: Vector, shape: Shape) -> tuple[tuple[int, int, int], Vector]:
    """Return the shape (outer, C, inner) of a C-ordered x of which numbers follow the second axis, and those."""
    long = [axis for axis, n in enumerate(values.shape) if n > 1]
    first, stop = long[0], long[-1] + 1
    fold = math.prod(shape[:first]), math.prod(shape[first:stop]), math.prod(shape[stop:])
    whole = *values.shape[:first], *shape[first:stop], *values.shape[stop:]
    return fold, (values if values.shape == whole else np.broadcast_to(values, whole)).reshape(-1)


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
