"""Batch normalization in compiled code."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, functional
from normdrop._passes import Reading
from normdrop.numba import _channel_loops as loops
from normdrop.numba import _kinds as kinds

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]


def moments(x: Array, channel_axis: int = 1) -> tuple[Vector, Vector]:
    """Return mean and biased variance of each channel.

    Parameters
    ----------
    x : ndarray of float32 or float64, C-contiguous, two axes or more
        Values, one or more per channel.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.

    Returns
    -------
    mean, var : ndarray of float64, shape (C,)
        Those of ``context.mean`` and ``context.var`` of `functional.batch_norm`, to the bit; NaN of an empty `x`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, layout or range; in compiled code, types are refused while it is compiled.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import moments
    >>> mean, var = moments(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> mean.tolist(), var.tolist()
    ([2.0, 20.0], [1.0, 100.0])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    statistics = np.full((3, x.shape[axis]), np.nan)
    if x.size:
        _backend.moments(statistics, Reading(x, axis).x)
    return statistics[0], statistics[1]


@kinds.compiled(moments)
def _moments(x: Any, channel_axis: Any = 1) -> Any:
    kinds.array("x", x, 2)
    kinds.integer("channel_axis", channel_axis)

    def run(x: Any, channel_axis: Any = 1) -> Any:
        statistics = np.empty((3, loops.n_channels(x.shape, channel_axis)))
        loops.moments(statistics, x, np.int64(channel_axis))
        return statistics[0], statistics[1]

    return run


def batch_norm(
    x: Array, gamma: Array | None, beta: Array | None, eps: float = 1e-5, channel_axis: int = 1
) -> tuple[Array, Vectors]:
    """Normalize each channel of a batch by its own mean and variance, as `functional.batch_norm`.

    Parameters
    ----------
    x : ndarray of float32 or float64, C-contiguous, two axes or more
        Batch; not modified.
    gamma, beta : ndarray of float32 or float64, shape (C,), or None
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.

    Returns
    -------
    y : ndarray
        New array of the shape and dtype of `x`.
    statistics : ndarray of float64, shape (3, C)
        Mean, biased variance and 1 / sqrt(var + eps) of each channel, for `batch_norm_backward_into`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, layout or range, or there is one value per channel; in compiled code, types
        are refused while it is compiled.

    See Also
    --------
    normdrop.functional.batch_norm : the same in Python, for arrays of any layout and on threads.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from normdrop.numba import batch_norm
    >>> @njit
    ... def largest(x):
    ...     y, statistics = batch_norm(x, None, None)
    ...     return y.max()
    >>> round(largest(np.array([[1.0], [3.0]])), 4)
    1.0
    """
    y, context = functional.batch_norm(x, gamma, beta, eps=eps, channel_axis=channel_axis)
    return y, context.statistics


@kinds.compiled(batch_norm)
def _batch_norm(x: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1) -> Any:
    kinds.normalization(x, gamma, beta, eps, channel_axis)

    def run(x: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1) -> Any:
        n_channels = loops.n_channels(x.shape, channel_axis)
        y, statistics = np.empty(x.shape, x.dtype), np.empty((3, n_channels))
        scale, shift = kinds.or_constant(gamma, n_channels, 1.0), kinds.or_constant(beta, n_channels, 0.0)
        loops.norm(y, statistics, x, scale, shift, np.float64(eps), np.int64(channel_axis))
        return y, statistics

    return run


def batch_norm_into(
    y: Array,
    statistics: Vectors,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float = 1e-5,
    channel_axis: int = 1,
) -> None:
    """Write what `batch_norm` returns.

    Parameters
    ----------
    y : ndarray, shape and dtype of `x`, C-contiguous
        Where the result is written. It may be `x`, which backward then lacks, or else must not overlap it.
    statistics : ndarray of float64, shape (3, C), C-contiguous
        Where mean, biased variance and 1 / sqrt(var + eps) are written.
    x : ndarray of float32 or float64, C-contiguous, two axes or more
        Batch.
    gamma, beta : ndarray of float32 or float64, shape (C,), or None
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`, or a result does not fit; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import batch_norm_into
    >>> x, statistics = np.array([[1.0, 10.0], [3.0, 30.0]]), np.empty((3, 2))
    >>> batch_norm_into(x, statistics, x, None, None)
    >>> statistics[0].tolist()
    [2.0, 20.0]
    """
    x = _checks.array(x, "x")
    shape = 3, x.shape[_checks.channel_axis(x, channel_axis)]
    statistics = _checks.array(statistics, "statistics", np.dtype(np.float64))
    if statistics.shape != shape or statistics.dtype != np.float64:
        raise ValueError(f"statistics must be float64 of shape {shape}; got {statistics.dtype} of {statistics.shape}")
    _, context = functional.batch_norm(x, gamma, beta, eps=eps, channel_axis=channel_axis, out=y)
    statistics[...] = context.statistics


@kinds.compiled(batch_norm_into)
def _batch_norm_into(
    y: Any, statistics: Any, x: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1
) -> Any:
    kinds.normalization(x, gamma, beta, eps, channel_axis)
    kinds.like("y", y, x, written=True)
    kinds.table("statistics", statistics, written=True)

    def run(y: Any, statistics: Any, x: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1) -> None:
        n_channels = loops.n_channels(x.shape, channel_axis)
        scale, shift = kinds.or_constant(gamma, n_channels, 1.0), kinds.or_constant(beta, n_channels, 0.0)
        loops.norm(y, statistics, x, scale, shift, np.float64(eps), np.int64(channel_axis))

    return run
