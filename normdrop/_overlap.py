"""Whether arrays overlap in memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _device

Array: TypeAlias = npt.NDArray[Any]


def is_possible(a: Any, b: Any) -> bool:
    """Whether the memory of two arrays overlaps, by its first and last address."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        owners = a.flags.owndata and b.flags.owndata  # of memory of their own, each
        return a is b if owners else np.may_share_memory(a, b)
    (a_first, a_end), (b_first, b_end) = _device.extent(a), _device.extent(b)
    return a_first < b_end and b_first < a_end


def apart(v: Array, out: Array) -> Array:
    """Return `v`, or a copy if writing to `out` might change it."""
    return v.copy() if is_possible(v, out) else v


def _address(a: Array) -> int:
    return int(a.__array_interface__["data"][0]) if _device.on_host(a) else _device.extent(a)[0]


def _same_elements(a: Array, b: Array) -> bool:
    return _address(a) == _address(b) and a.strides == b.strides and a.shape == b.shape and a.dtype == b.dtype


def _is_real(a: Array, b: Array) -> bool:
    if not _device.on_host(a):
        return True
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]  # the stub is too narrow
    except np.exceptions.TooHardError:
        return True


def is_partial(a: Array, b: Array) -> bool:
    """Whether two arrays share memory otherwise than by being the same elements; True where that is hard to tell."""
    return is_possible(a, b) and not _same_elements(a, b) and _is_real(a, b)


def of_itself(x: Array) -> bool:
    """Whether two elements of `x` may share memory; never False when they do."""
    if x.flags.c_contiguous or x.size <= 1:
        return False
    reach = x.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False
