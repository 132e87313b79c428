"""Numbers per channel, as all passes of batch normalization take and give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def empty(n_rows: int, n_channels: int, x: Array) -> Vectors:
    """Return rows of float64, not initialized, where `x` is."""
    vectors: Vectors = _device.empty((n_rows, n_channels), _FLOAT64, x)
    return vectors


def vectors(names: tuple[str, ...], given: tuple[Array | None, ...], n_channels: int, x: Array) -> Sequence[Array]:
    """Return vectors after checks, as backends take them; None stands for the ones of gamma or the zeros of beta."""
    shape, dtype = (n_channels,), _FLOAT64 if x.dtype == _FLOAT64 else getattr(given[0], "dtype", None)
    for v in given:  # the usual ones first
        if type(v) is not np.ndarray or v.dtype is not dtype or v.shape != shape or not v.flags.carray:
            break
    else:
        if type(x) is np.ndarray and dtype in (_FLOAT32, _FLOAT64):
            return given  # type: ignore[return-value]  # none is None
    pairs = zip(names, given, strict=True)
    checked = [None if v is None else _checks.channels(v, name, n_channels, x) for name, v in pairs]
    wide = x.dtype == _FLOAT64 or any(v is not None and v.dtype == _FLOAT64 for v in checked)
    dtype = _FLOAT64 if wide else _FLOAT32
    return [_taken(v, float(name == "gamma"), shape, dtype, x) for name, v in zip(names, checked, strict=True)]


def _taken(v: Array | None, default: float, shape: tuple[int], dtype: np.dtype[Any], x: Array) -> Array:
    if v is not None:
        return v if v.dtype == dtype and v.flags.c_contiguous and v.flags.aligned else v.astype(dtype)
    constant: Array = _device.empty(shape, dtype, x)
    constant.fill(default)
    return constant


def statistics(names: tuple[str, ...], given: tuple[Array, ...], n_channels: int, x: Array) -> Sequence[Array]:
    """Return given statistics after checks, in float64 as backends take them."""
    for v in given:  # the usual ones first
        if type(v) is not np.ndarray or v.dtype is not _FLOAT64 or v.shape != (n_channels,) or not v.flags.carray:
            break
    else:
        if type(x) is np.ndarray:
            return given
    checked = [_checks.channels(v, name, n_channels, x) for name, v in zip(names, given, strict=True)]
    return [_taken(v, 0.0, (n_channels,), _FLOAT64, x) for v in checked]


def parameter_dtype(x: Array, *given: Array | None) -> np.dtype[Any]:
    """Dtype of the gradients of gamma and beta: that of the first of them that there is."""
    for v in given:
        if v is not None:
            return v.dtype if type(v) is np.ndarray else _device.view(v).dtype
    return _FLOAT32 if x.itemsize == 2 else x.dtype


def kept(gamma: Array | None, scale: Array) -> Array | None:
    """Return a copy for a context of the scale that is applied: a step may change gamma before backward."""
    return None if gamma is None else _device.native(scale.copy())


def gradients(sums: Vectors, x: Array, dtype: np.dtype[Any] | None) -> tuple[Array, Array]:
    """Return dgamma and dbeta in the dtype of the parameters, or without one in that of `x`."""
    if dtype is None:
        dtype = parameter_dtype(x)
    elif dtype is not _FLOAT32 and dtype is not _FLOAT64:
        dtype = _checks.input_dtype(dtype, "context.parameter_dtype")
    rows = sums.astype(dtype)
    return _device.native(rows[0]), _device.native(rows[1])
