"""Batch normalization by given statistics: a fixed linear map, forward and backward."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device
from normdrop._passes import Pass, Reading
from normdrop.functional import _as_one as as_one
from normdrop.functional import _counted as counted
from normdrop.functional import _per_channel as per_channel
from normdrop.functional._as_one import AsOne

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


class InferenceContext(NamedTuple):
    """What `batch_norm_inference_backward` needs; without x, no parameter gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, mean, var = np.ones((2, 1)), np.zeros(1), np.array([3.0])
    >>> _, context = functional.batch_norm_inference(x, mean, var, eps=1.0)
    >>> context.scale, context.x is None
    (array([0.5]), True)
    """

    shape: tuple[int, ...]
    """Shape of x."""
    dtype: np.dtype[Any]
    """Dtype of x."""
    scale: Vector
    """gamma / sqrt(var + eps), shape (C,)."""
    channel_axis: int
    """Axis of the channels, from 0 to ndim - 1."""
    x: Array | None = None
    """The input itself, kept only on request; it must not be changed before backward."""
    statistics: Vectors | None = None
    """The given mean and variance, and 1 / sqrt(var + eps), shape (3, C); kept with x."""
    parameter_dtype: np.dtype[Any] | None = None
    """Dtype of the gradients of gamma and beta; None is that of x."""
    mask: Mask | None = None
    """A copy of the mask, on the host; None: all positions count."""
    masked: Literal["zero", "normalize", "keep"] = "zero"
    """What became of the others."""
    as_one: AsOne | None = None
    """How an input with several channel axes is viewed with one, as `x` is; None: it has one."""


def batch_norm_inference(  # noqa: PLR0913  # four vectors and the options, those by keyword
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    mask: Array | None = None,
    masked: Literal["zero", "normalize", "keep"] = "zero",
    keep_x: bool = False,
    out: Array | None = None,
) -> tuple[Array, InferenceContext]:
    r"""Normalize each channel by given statistics, such as running ones.

    .. math:: y = \gamma_c \, \frac{x - \mathrm{mean}_c}{\sqrt{\mathrm{var}_c + \epsilon}} + \beta_c

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Input; any strides. Not modified unless it is also `out`.
    mean, var : ndarray of floats, shape (C,)
        Statistics; `var` must not be negative.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int or tuple of int, default 1
        Axis of the channels, or axes, as in `batch_norm`.
    mask : ndarray of bool, optional
        Which positions count: True; as in `batch_norm`.
    masked : {"zero", "normalize", "keep"}, default "zero"
        What `y` is where a position does not count: 0; normalized as the others; or `x`.
    keep_x : bool, default False
        Whether the context keeps `x`, which only the gradients of `gamma` and `beta` need.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; with `keep_x`, a copy of `x` is then kept.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : InferenceContext
        For `batch_norm_inference_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0]])
    >>> y, context = functional.batch_norm_inference(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> np.round(y, 6).ravel()
    array([0., 1.])
    """
    x = _checks.array(x, "x")
    if isinstance(channel_axis, tuple):
        one = as_one.of(x, channel_axis)
        y, context = batch_norm_inference(
            one.merge(x), mean, var, gamma, beta, eps=eps, channel_axis=one.axis, mask=mask, masked=masked,
            keep_x=keep_x, out=one.taken(out, x),
        )  # fmt: skip
        return one.result(y, out), context._replace(as_one=one)
    channel_axis = _checks.channel_axis(x, channel_axis)
    n_channels = x.shape[channel_axis]
    mean, var = per_channel.statistics(("mean", "var"), (mean, var), n_channels, x)
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    _checks.not_negative(var, "var")
    eps = _checks.eps(eps)
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    keep_x = _checks.flag(keep_x, "keep_x")
    walk = Pass(x, out, channel_axis)
    positions = counted.positions(walk, x.shape, channel_axis, mask, None, masked)
    vectors = per_channel.empty(4, n_channels, x)
    _backend.inference_vectors(vectors, mean, var, scale, shift, eps)
    context = InferenceContext(x.shape, x.dtype, _device.native(vectors[1]), channel_axis)
    if mask is not None:
        context = context._replace(mask=_device.to_host(mask), masked=masked)
    if keep_x:
        statistics = per_channel.empty(3, n_channels, x)
        statistics[0], statistics[1], statistics[2] = mean, var, vectors[3]
        dtype = per_channel.parameter_dtype(x, gamma, beta)
        context = context._replace(x=walk.kept(), statistics=_device.native(statistics), parameter_dtype=dtype)
    counted.normalize(walk.y, walk.x, vectors, positions)
    return walk.result(), context


def batch_norm_inference_backward(
    dy: Array, context: InferenceContext, *, out: Array | None = None
) -> tuple[Array, Array | None, Array | None]:
    r"""Gradients of batch normalization with given (frozen) statistics.

    .. math:: dx = \frac{\gamma_c}{\sqrt{\mathrm{var}_c + \epsilon}} \, dy

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : InferenceContext
        What `batch_norm_inference` returned.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.
    dgamma, dbeta : ndarray, shape (C,), or None
        ``None`` unless the forward pass was asked to keep `x`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.1 (inference is a fixed linear map).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0]])
    >>> y, context = functional.batch_norm_inference(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> dx, dgamma, dbeta = functional.batch_norm_inference_backward(np.ones((2, 1)), context)
    >>> np.round(dx, 6).ravel(), dgamma
    (array([0.5, 0.5]), None)
    """
    if not isinstance(context, InferenceContext):
        raise TypeError(f"context must be what batch_norm_inference() returned; got {_checks.kind(context)}")
    if context.as_one is not None:
        one = as_one.checked(context.as_one)
        dy = _checks.gradient(dy, one.shape, context.dtype)
        within = one.taken(out, dy)
        alone = batch_norm_inference_backward(one.merge(dy), context._replace(as_one=None), out=within)
        return one.result(alone[0], out), alone[1], alone[2]
    dy = _checks.gradient(dy, context.shape, context.dtype)
    axis = _checks.channel_axis(dy, context.channel_axis)
    scale = _checks.channels(context.scale, "context.scale", dy.shape[axis], dy)
    dgamma: Array | None = None
    dbeta: Array | None = None
    kept = None if context.x is None else _checks.array(context.x, "context.x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy)] if kept is None else [("dy", dy), ("x", kept)])
    if kept is not None:
        _checks.same_shape(kept, dy.shape, "context.x", "the forward pass's x")
        sums = per_channel.empty(2, scale.size, kept)
        read = Reading(kept, axis)
        statistics = _checks.array(context.statistics, "context.statistics", np.dtype(np.float64))
        positions = counted.positions(read, kept.shape, axis, context.mask, None, context.masked)
        counted.parameter_gradients(sums, read.beside(dy), read.x, statistics, positions)
        dgamma, dbeta = per_channel.gradients(sums, kept, context.parameter_dtype)
    walk = Pass(dy, out, axis)
    vectors = per_channel.empty(3, scale.size, dy)
    vectors.fill(0.0)
    vectors[1] = scale
    positions = counted.positions(walk, dy.shape, axis, context.mask, None, context.masked)
    counted.normalize(walk.y, walk.x, vectors, positions)
    return walk.result(), dgamma, dbeta
