"""Batch normalization by given statistics, a residual sum and an activation in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _overlap
from normdrop._passes import Pass, kept
from normdrop.functional import _per_channel as per_channel
from normdrop.functional._batch_norm_inference import InferenceContext, batch_norm_inference_backward
from normdrop.functional._masking import DropoutContext
from normdrop.functional._steps_of import Activation, activation_of, residual_of, steps_of, undrawn
from normdrop.random import RNG, Key, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]


class BatchNormActInferenceContext(NamedTuple):
    """What `batch_norm_act_inference_backward` needs; without x, there is no backward.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, mean, var = np.ones((2, 1)), np.zeros(1), np.ones(1)
    >>> _, context = functional.batch_norm_act_inference(x, mean, var, keep_x=True)
    >>> context.activation, context.x is x
    (('relu', 0.0), True)
    """

    norm: InferenceContext
    """What batch normalization keeps: the scale and, on request, x and the statistics."""
    shift: Vector
    """beta, or zeros, shape (C,)."""
    residual: Array | None
    """What was added, kept with x, not to be changed before backward; a copy where it was overwritten."""
    activation: tuple[str, float]
    """Name of the activation, and its parameter."""
    dropout: DropoutContext
    """What dropout keeps: no mask, but what draws it again."""

    @property
    def x(self) -> Array | None:
        """The input, if it was kept."""
        return self.norm.x

    @property
    def scale(self) -> Vector:
        """gamma / sqrt(var + eps), shape (C,)."""
        return self.norm.scale


def batch_norm_act_inference(  # noqa: PLR0913  # four vectors and the options, those by keyword
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    residual: Array | None = None,
    activation: Activation = "relu",
    p: float = 0.0,
    shared_axes: int | Iterable[int] = (),
    rng: RNG = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    keep_x: bool = False,
    out: Array | None = None,
) -> tuple[Array, BatchNormActInferenceContext]:
    r"""Compute dropout(activation(batch_norm_inference(x) + residual)) in one pass over memory.

    Nothing is dropped by default, as in inference; with `p`, masks are drawn, as in estimates of uncertainty. Every
    step is rounded to the dtype of `x`, so that the bits are those of `batch_norm_inference`, a sum and `act_dropout`
    one after the other.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Input; any strides. Not modified unless it is also `out`.
    mean, var : ndarray of floats, shape (C,)
        Statistics; `var` must not be negative.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    residual : ndarray, shape and dtype of `x`, optional
        What is added before the activation.
    activation : str or (str, float), default "relu"
        As in `act_dropout`.
    p : float, default 0.0
        Probability of dropping an element, from 0 to 1; as in `dropout`, with inverted scaling.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element, as in `dropout`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the mask comes from; a `MaskStream` moves on by one call, unless `p` is 0 or `x` is empty.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.
    keep_x : bool, default False
        Whether the context keeps `x` and `residual`, which backward needs: they are held, not copies of them.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x` or `residual`, of which a copy is then kept with `keep_x`.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : BatchNormActInferenceContext
        For `batch_norm_act_inference_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    batch_norm_act : the same by the statistics of the batch.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[-1.0], [3.0]])
    >>> y, context = functional.batch_norm_act_inference(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> np.round(y, 6).ravel()
    array([0., 1.])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    n_channels = x.shape[axis]
    mean, var = per_channel.statistics(("mean", "var"), (mean, var), n_channels, x)
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    _checks.not_negative(var, "var")
    eps = _checks.eps(eps)
    act, r, drops = activation_of(activation), residual_of(residual, x), undrawn(x, p, shared_axes)
    keep_x = _checks.flag(keep_x, "keep_x")
    if out is not None:
        out = _checks.out(out, x, [("x", x)] if r is None else [("x", x), ("residual", r)])
    check_rng(rng)
    vectors = per_channel.empty(4, n_channels, x)
    _backend.inference_vectors(vectors, mean, var, scale, shift, eps)
    norm = InferenceContext(x.shape, x.dtype, _device.native(vectors[1]), axis)
    if keep_x:
        statistics = per_channel.empty(3, n_channels, x)
        statistics[0], statistics[1], statistics[2] = mean, var, vectors[3]
        dtype = per_channel.parameter_dtype(x, gamma, beta)
        norm = norm._replace(x=x, statistics=_device.native(statistics), parameter_dtype=dtype)
    context = BatchNormActInferenceContext(norm, _device.native(vectors[2]), r, act, drops)
    if drops.threshold == 0:
        return _forward(x, vectors, context, out)

    def drawn(key: Key, call: int) -> tuple[Array, BatchNormActInferenceContext]:
        return _forward(x, vectors, context._replace(dropout=drops._replace(key=key, call=call)), out)

    return with_call(rng, drawn)


def _forward(
    x: Array, vectors: Array, context: BatchNormActInferenceContext, out: Array | None
) -> tuple[Array, BatchNormActInferenceContext]:
    norm, held, r = context.norm, None, None
    walk = Pass(x, out, norm.channel_axis)
    if context.residual is not None:
        held, r = kept(context.residual, out) if norm.x is not None else None, walk.beside(context.residual)
    if norm.x is not None:
        norm = norm._replace(x=walk.kept())
    if x.size:
        steps = steps_of(context.activation, context.dropout, x, walk)
        _backend.normalize_act(walk.y, (walk.x, r), vectors, steps)
    return walk.result(), context._replace(norm=norm, residual=held)


def batch_norm_act_inference_backward(
    dy: Array, context: BatchNormActInferenceContext, *, out: Array | None = None
) -> tuple[Array, Array | None, Array, Array]:
    r"""Gradients of `batch_norm_act_inference`, whose forward pass was asked to keep `x`.

    Where an element was dropped or the derivative of the activation is 0, the gradient is +0, whatever `dy` is.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : BatchNormActInferenceContext
        What `batch_norm_act_inference` returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape and dtype of `x`, memory order of `x` as the forward pass saw it, or `out`.
    dresidual : ndarray or None
        Gradient with respect to `residual`, if there was one; as `dx`.
    dgamma, dbeta : ndarray, shape (C,)
        Dtype of `gamma`, or of `beta` without it, or of `x` without both.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass, or that did not keep `x`.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.1 (inference is a fixed linear map).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, mean, var = np.array([[-1.0], [3.0]]), np.array([1.0]), np.array([4.0])
    >>> y, context = functional.batch_norm_act_inference(x, mean, var, eps=1e-12, keep_x=True)
    >>> dx, dresidual, dgamma, dbeta = functional.batch_norm_act_inference_backward(np.ones((2, 1)), context)
    >>> np.round(dx, 6).ravel(), dresidual, dbeta
    (array([0. , 0.5]), None, array([1.]))
    """
    if not isinstance(context, BatchNormActInferenceContext):
        raise TypeError(f"context must be what batch_norm_act_inference() returned; got {_checks.kind(context)}")
    norm = context.norm
    if not isinstance(norm, InferenceContext):
        raise TypeError(f"context.norm must be an InferenceContext; got {_checks.kind(norm)}")
    if norm.x is None:
        raise ValueError(
            "context has no x, of which the derivative of the activation is computed; call "
            "batch_norm_act_inference(..., keep_x=True), or layer(x, keep_x=True), if there will be a backward"
        )
    x = _checks.array(norm.x, "context.norm.x")
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    r = residual_of(context.residual, x)
    axis = _checks.channel_axis(x, norm.channel_axis)
    n_channels = x.shape[axis]
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
    scale = _checks.channels(norm.scale, "context.norm.scale", n_channels, x)
    shift = _checks.channels(context.shift, "context.shift", n_channels, x)
    statistics = _checks.array(norm.statistics, "context.norm.statistics", np.dtype(np.float64))
    if statistics.shape != (3, n_channels):
        raise ValueError(
            f"context.norm.statistics must have shape {(3, n_channels)} for x of shape {x.shape}; got "
            f"{statistics.shape}. Pass the context as batch_norm_act_inference() returned it."
        )
    vectors = per_channel.empty(3, n_channels, x)
    vectors[0], vectors[1], vectors[2] = statistics[0], scale, shift
    apart = r is not None or (out is not None and _overlap.is_possible(out, x))  # x is needed after du is written
    walk = Pass(x, None if apart else out, axis)
    steps = steps_of(activation_of(context.activation), context.dropout, x, walk)
    if x.size:
        inputs = walk.x, None if r is None else walk.beside(r)
        _backend.act_gradient(walk.y, walk.beside(dy), inputs, vectors, steps)
    du = walk.result()
    dx, dgamma, dbeta = batch_norm_inference_backward(du, norm, out=du if r is None and out is None else out)
    return dx, None if r is None else du, dgamma, dbeta  # type: ignore[return-value]  # with x there are both
