"""Batch normalization by given statistics in compiled code: inference, and the gradients."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional import BatchNormContext
from normdrop.numba import _channel_loops as loops
from normdrop.numba import _kinds as kinds

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


def normalize_into(
    y: Array,
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float = 1e-5,
    channel_axis: int = 1,
) -> None:
    """Normalize each channel by given statistics, such as running ones, as `functional.batch_norm_inference`.

    Parameters
    ----------
    y : ndarray, shape and dtype of `x`, C-contiguous
        Where the result is written. It may be `x`, or else must not overlap it.
    x : ndarray of float32 or float64, C-contiguous, two axes or more
        Input.
    mean, var : ndarray of float32 or float64, shape (C,)
        Statistics; `var` must not be negative.
    gamma, beta : ndarray of float32 or float64, shape (C,), or None
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, layout or range; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import normalize_into
    >>> y = np.empty((2, 1))
    >>> normalize_into(y, np.array([[1.0], [3.0]]), np.ones(1), np.full(1, 4.0), None, None, 1e-12)
    >>> np.round(y, 6).ravel()
    array([0., 1.])
    """
    functional.batch_norm_inference(x, mean, var, gamma, beta, eps=eps, channel_axis=channel_axis, out=y)


@kinds.compiled(normalize_into)
def _normalize_into(
    y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1
) -> Any:
    kinds.normalization(x, gamma, beta, eps, channel_axis)
    kinds.like("y", y, x, written=True)
    kinds.vector("mean", mean)
    kinds.vector("var", var)

    def run(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: Any = 1e-5, channel_axis: Any = 1) -> None:
        n_channels = loops.n_channels(x.shape, channel_axis)
        scale, shift = kinds.or_constant(gamma, n_channels, 1.0), kinds.or_constant(beta, n_channels, 0.0)
        loops.normalize(y, x, (mean, var), scale, shift, np.float64(eps), np.int64(channel_axis))

    return run


def batch_norm_backward_into(
    dx: Array,
    dgamma: Array,
    dbeta: Array,
    dy: Array,
    x: Array,
    statistics: Vectors,
    gamma: Array | None,
    channel_axis: int = 1,
) -> None:
    """Write the gradients of batch normalization in training, as `functional.batch_norm_backward`.

    Parameters
    ----------
    dx : ndarray, shape and dtype of `x`, C-contiguous
        Where the gradient of `x` is written. It may be `dy` or `x`, or else must not overlap them.
    dgamma, dbeta : ndarray of float32 or float64, shape (C,)
        Where those of the parameters are written.
    dy : ndarray, shape and dtype of `x`, C-contiguous
        Gradient with respect to `y`.
    x : ndarray of float32 or float64, C-contiguous, two axes or more
        That of the forward pass.
    statistics : ndarray of float64, shape (3, C), C-contiguous
        Those of the forward pass.
    gamma : ndarray of float32 or float64, shape (C,), or None
        That of the forward pass.
    channel_axis : int, default 1
        That of the forward pass.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, layout or range; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import batch_norm, batch_norm_backward_into
    >>> x, dy = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> y, statistics = batch_norm(x, None, None)
    >>> dx, dgamma, dbeta = np.empty_like(x), np.empty(1), np.empty(1)
    >>> batch_norm_backward_into(dx, dgamma, dbeta, dy, x, statistics, None)
    >>> bool(abs(dx.sum()) < 1e-12), dbeta.tolist()
    (True, [1.0])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    for name, vector in (("dgamma", dgamma), ("dbeta", dbeta)):
        if not _checks.channels(vector, name, x.shape[axis], x).flags.writeable:
            raise ValueError(f"{name} is read-only; pass a writable array")
    context = BatchNormContext(x, statistics, gamma, axis, 0.0, np.dtype(np.float64))
    _, dgamma[...], dbeta[...] = functional.batch_norm_backward(dy, context, out=dx)


@kinds.compiled(batch_norm_backward_into)
def _batch_norm_backward_into(
    dx: Any, dgamma: Any, dbeta: Any, dy: Any, x: Any, statistics: Any, gamma: Any, channel_axis: Any = 1
) -> Any:
    kinds.array("x", x, 2)
    kinds.like("dx", dx, x, written=True)
    kinds.vector("dgamma", dgamma, written=True)
    kinds.vector("dbeta", dbeta, written=True)
    kinds.like("dy", dy, x)
    kinds.table("statistics", statistics)
    kinds.optional_vector("gamma", gamma)
    kinds.integer("channel_axis", channel_axis)

    def run(
        dx: Any, dgamma: Any, dbeta: Any, dy: Any, x: Any, statistics: Any, gamma: Any, channel_axis: Any = 1
    ) -> None:
        scale = kinds.or_constant(gamma, loops.n_channels(x.shape, channel_axis), 1.0)
        loops.backward(dx, (dgamma, dbeta), dy, x, statistics, scale, np.int64(channel_axis))

    return run
