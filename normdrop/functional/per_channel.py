"""Numbers per channel, as all passes of batch normalization take and give them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]

_FLOAT64 = np.dtype(np.float64)


def empty(n_rows: int, n_channels: int, x: Array) -> Vectors:
    """Return rows of float64, not initialized, where `x` is."""
    vectors: Vectors = _device.empty((n_rows, n_channels), _FLOAT64, x)
    return vectors


def axis(x: Array, channel_axis: int) -> int:
    """Return the axis of the channels as one from 0 to ndim - 1, after checks."""
    if type(channel_axis) is int and 0 <= channel_axis < x.ndim >= 2:
        return channel_axis
    if x.ndim < 2:
        raise ValueError(f"x must have at least two axes, a batch axis and a channel axis; got shape {x.shape}")
    return _checks.axis(channel_axis, "channel_axis", x.ndim)


def rows(n_rows: int, gamma: Array | None, beta: Array | None, n_channels: int, x: Array) -> Vectors:
    """Return rows of float64, where `x` is; the last two hold gamma and beta, after checks, else ones and zeros."""
    vectors = empty(n_rows, n_channels, x)
    vectors[n_rows - 2] = 1.0 if gamma is None else _checks.channels(gamma, "gamma", n_channels, x)
    vectors[n_rows - 1] = 0.0 if beta is None else _checks.channels(beta, "beta", n_channels, x)
    return vectors


def scale(gamma: Array | None, n_channels: int, x: Array) -> Vector:
    """Return gamma in float64, where `x` is, after checks; ones for none."""
    if gamma is not None:
        return _checks.channels(gamma, "gamma", n_channels, x).astype(_FLOAT64)
    ones: Vector = _device.empty((n_channels,), _FLOAT64, x)
    ones.fill(1.0)
    return ones


def _parameter_dtype(x: Array, gamma: Array | None) -> np.dtype[Any]:
    """Dtype of the gradients of gamma and beta."""
    if gamma is not None:
        return _checks.array(gamma, "gamma").dtype
    return np.dtype(np.float32) if x.itemsize == 2 else x.dtype


def gradients(sums: Vectors, x: Array, gamma: Array | None) -> tuple[Array, Array]:
    """Return dgamma and dbeta in the dtype of gamma."""
    dgamma, dbeta = sums.astype(_parameter_dtype(x, gamma))
    return _device.native(dgamma), _device.native(dbeta)
