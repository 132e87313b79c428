"""Batch normalization, a residual sum, an activation and dropout in one pass, by the statistics of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _overlap
from normdrop._passes import Pass, kept
from normdrop.functional import _per_channel as per_channel
from normdrop.functional._batch_norm import BatchNormContext, more_than_one_value
from normdrop.functional._masking import DropoutContext
from normdrop.functional._steps_of import Activation, activation_of, residual_of, steps_of, undrawn
from normdrop.random import RNG, Key, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]


class BatchNormActContext(NamedTuple):
    """What `batch_norm_act_backward` needs, and the statistics of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.batch_norm_act(np.array([[1.0], [3.0]]))
    >>> context.activation, context.norm.mean, context.n
    (('relu', 0.0), array([2.]), 2)
    """

    norm: BatchNormContext
    """What batch normalization keeps: x, the statistics of the batch, gamma."""
    beta: Array | None
    """A copy of the shift that was applied."""
    residual: Array | None
    """What was added, not to be changed before backward; a copy where it was overwritten."""
    activation: tuple[str, float]
    """Name of the activation, and its parameter."""
    dropout: DropoutContext
    """What dropout keeps: no mask, but what draws it again."""

    @property
    def x(self) -> Array:
        """The input."""
        return self.norm.x

    @property
    def statistics(self) -> npt.NDArray[np.float64]:
        """Mean, biased variance and 1 / sqrt(var + eps) of each channel, shape (3, C)."""
        return self.norm.statistics

    @property
    def n(self) -> float:
        """Number of values per channel."""
        return self.norm.n


def batch_norm_act(  # noqa: PLR0913  # the options of all that is fused, by keyword
    x: Array,
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
    out: Array | None = None,
) -> tuple[Array, BatchNormActContext]:
    r"""Compute dropout(activation(batch_norm(x) + residual)) in one pass over memory.

    Every step is rounded to the dtype of `x`, so that the bits are those of `batch_norm`, a sum, `act_dropout` and
    `dropout` one after the other. Running statistics are not touched; they are the layer's.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Batch; any strides. Not modified unless it is also `out`. It is held, not a copy of it, until backward.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    residual : ndarray, shape and dtype of `x`, optional
        What is added before the activation. It is held, not a copy of it, until backward.
    activation : str or (str, float), default "relu"
        As in `act_dropout`.
    p : float, default 0.0
        Probability of dropping an element, from 0 to 1; as in `dropout`, with inverted scaling.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element: ``(2, 3)`` drops whole channels of (N, C, H, W).
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the mask comes from; a `MaskStream` moves on by one call, unless `p` is 0 or `x` is empty.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x` or `residual`, of which a copy is then kept for backward.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : BatchNormActContext
        For `batch_norm_act_backward`. Beside what it holds, no mask and no intermediate result is kept.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range, or there is one value per channel. Nothing has changed
        then, the stream included.

    See Also
    --------
    batch_norm_act_backward : the gradients.
    batch_norm_act_inference : the same map with given statistics and without dropout.

    Notes
    -----
    Where a channel fits a cache, and channels lie in planes, it is read from memory once; elsewhere twice, as by
    `batch_norm`. Activations are computed in float64 and rounded once.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal
       covariate shift", ICML 2015, section 3.2.
    .. [2] K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR 2016, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, context = functional.batch_norm_act(x, activation="relu", eps=1e-12)
    >>> np.round(y, 6)
    array([[0., 0.],
           [1., 1.]])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    n_channels = x.shape[axis]
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    eps = _checks.eps(eps)
    more_than_one_value(x, n_channels, "batch_norm_act_inference")
    act, r, drops = activation_of(activation), residual_of(residual, x), undrawn(x, p, shared_axes)
    if out is not None:
        out = _checks.out(out, x, [("x", x)] if r is None else [("x", x), ("residual", r)])
        scale, shift = _overlap.apart(scale, out), _overlap.apart(shift, out)
    check_rng(rng)
    parameters = per_channel.kept(gamma, scale), per_channel.kept(beta, shift)
    dtype = per_channel.parameter_dtype(x, gamma, beta)
    norm = BatchNormContext(x, per_channel.empty(3, n_channels, x), parameters[0], axis, eps, dtype)
    context = BatchNormActContext(norm, parameters[1], r, act, drops)
    if drops.threshold == 0:
        return _forward(context, (scale, shift), out)

    def drawn(key: Key, call: int) -> tuple[Array, BatchNormActContext]:
        return _forward(context._replace(dropout=drops._replace(key=key, call=call)), (scale, shift), out)

    return with_call(rng, drawn)


def _forward(
    context: BatchNormActContext, affine: tuple[Array, Array], out: Array | None
) -> tuple[Array, BatchNormActContext]:
    norm, x, statistics = context.norm, context.x, context.statistics
    walk = Pass(x, out, norm.channel_axis)
    held = r = None
    if context.residual is not None:
        held, r = kept(context.residual, out), walk.beside(context.residual)
    norm = norm._replace(x=walk.kept(), statistics=_device.native(statistics))
    if x.size:
        steps = steps_of(context.activation, context.dropout, x, walk)
        _backend.batch_norm_act(walk.y, (walk.x, r), statistics, affine, norm.eps, steps)
    else:
        statistics.fill(np.nan)
    return walk.result(), context._replace(norm=norm, residual=held)


def batch_norm_act_backward(
    dy: Array, context: BatchNormActContext, *, out: Array | None = None
) -> tuple[Array, Array | None, Array, Array]:
    r"""Gradients of `batch_norm_act`.

    What the activation took is computed again from `x` and `residual`. Its gradient is +0 where an element was dropped
    or its derivative is 0, whatever `dy` is.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : BatchNormActContext
        What `batch_norm_act` returned. It can be used any number of times.
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
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3 (the six chain-rule equations).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.batch_norm_act(np.array([[1.0], [2.0], [4.0]]), residual=np.zeros((3, 1)))
    >>> dx, dresidual, dgamma, dbeta = functional.batch_norm_act_backward(np.ones((3, 1)), context)
    >>> dresidual.ravel(), dbeta
    (array([0., 0., 1.]), array([1.]))
    """
    if not isinstance(context, BatchNormActContext):
        raise TypeError(f"context must be what batch_norm_act() returned; got {_checks.kind(context)}")
    norm = context.norm
    if not isinstance(norm, BatchNormContext):
        raise TypeError(f"context.norm must be a BatchNormContext; got {_checks.kind(norm)}")
    x = _checks.array(norm.x, "context.norm.x")
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    r = residual_of(context.residual, x)
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
        r = r if r is None else _overlap.apart(r, out)
    axis = _checks.channel_axis(x, norm.channel_axis)
    n_channels = x.shape[axis]
    walk = Pass(x, out, axis)
    apart = r is not None or (out is not None and _overlap.is_possible(out, x))  # x is needed after du is written
    to_du = Pass(x, None, axis) if apart else walk
    sums = per_channel.empty(2, n_channels, x)
    if x.size:
        statistics = _checks.array(norm.statistics, "context.statistics", np.dtype(np.float64))
        affine = per_channel.vectors(("gamma", "beta"), (norm.gamma, context.beta), n_channels, x)
        if out is not None:
            affine = [_overlap.apart(v, out) for v in affine]
        steps = steps_of(activation_of(context.activation), context.dropout, x, walk)
        inputs = walk.beside(dy), walk.x, None if r is None else walk.beside(r)
        _backend.batch_norm_act_backward((walk.y, to_du.y), inputs, sums, statistics, (affine[0], affine[1]), steps)
    else:
        sums.fill(0.0)
    dgamma, dbeta = per_channel.gradients(sums, x, norm.parameter_dtype)
    return walk.result(), None if r is None else to_du.result(), dgamma, dbeta
