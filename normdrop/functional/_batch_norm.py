"""Batch normalization by the statistics of the batch, without state, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _overlap
from normdrop._passes import Pass
from normdrop._positions import Positions
from normdrop.functional import _as_one as as_one
from normdrop.functional import _counted as counted
from normdrop.functional import _per_channel as per_channel
from normdrop.functional import _shared as shared
from normdrop.functional._as_one import AsOne

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]


class BatchNormContext(NamedTuple):
    """What `batch_norm_backward` needs, and the statistics of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.batch_norm(np.array([[1.0], [3.0]]))
    >>> context.mean, context.var, context.n
    (array([2.]), array([1.]), 2)
    """

    x: Array
    """The input itself, not to be changed before backward; a copy where it was overwritten or had no dense memory."""
    statistics: Vectors
    """Mean, biased variance (divided by n) and 1 / sqrt(var + eps) of each channel, shape (3, C)."""
    gamma: Array | None
    """A copy of the scale that was applied."""
    channel_axis: int
    """Axis of the channels, from 0 to ndim - 1."""
    eps: float
    """Number that was added to the variance."""
    parameter_dtype: np.dtype[Any] | None = None
    """Dtype of the gradients of gamma and beta; None is that of x."""
    n_shared: int | None = None
    """Number of values per channel of a batch that processes share, of which x is a part; None: x is all of it."""
    positions: Positions | None = None
    """Which positions count, in the order of the axes; None: all."""
    as_one: AsOne | None = None
    """How an input with several channel axes is viewed with one, as `x` is; None: it has one."""

    @property
    def mean(self) -> Vector:
        """Mean of each channel, shape (C,)."""
        return cast(Vector, self.statistics[0])

    @property
    def var(self) -> Vector:
        """Biased variance of each channel (divided by n), shape (C,)."""
        return cast(Vector, self.statistics[1])

    @property
    def inv_std(self) -> Vector:
        """1 / sqrt(var + eps), shape (C,)."""
        return cast(Vector, self.statistics[2])

    @property
    def n(self) -> float:
        """Number of values per channel, in all processes that share the batch; with weights, the sum of those."""
        if self.n_shared is not None:
            return self.n_shared
        if self.positions is not None:
            return self.positions.n
        shape = _checks.array(self.x, "context.x").shape
        n_channels = shape[self.channel_axis]
        return math.prod(shape) // n_channels if n_channels else 0


def more_than_one_value(x: Array, n_channels: int, instead: str) -> None:
    """Check that channels have values enough for statistics."""
    if x.size == n_channels > 0:
        raise ValueError(
            f"x has one value per channel (shape {x.shape}), whose variance is no estimate; "
            f"use a larger batch or {instead} with running statistics"
        )


def batch_norm(  # noqa: PLR0913  # what is normalized and the options, those by keyword
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    mask: Array | None = None,
    weights: Array | None = None,
    masked: Literal["zero", "normalize", "keep"] = "zero",
    reduce: Callable[[Any], Any] | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormContext]:
    r"""Normalize each channel of a batch by its own mean and variance.

    For channel :math:`c`, over its :math:`n` values,

    .. math:: y = \gamma_c \, \frac{x - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + \beta_c

    Running statistics are not touched; they are the layer's.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Batch; any strides. Not modified unless it is also `out`.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int or tuple of int, default 1
        Axis of the channels: 1 for channels-first, -1 for channels-last. Several axes are one, in C order, of as many
        channels as the product of their lengths; with none, ``()``, all of `x` is one channel.
    mask : ndarray of bool, optional
        Which positions count: True. Of the shape of `x` without the channel axis, (N, L) for `x` of shape (N, C, L), or
        one that broadcasts to it; or with a channel axis of length 1.
    weights : ndarray of floats, optional
        How often each position counts, zero or more; shape as of `mask`. They are rounded to float32.
    masked : {"zero", "normalize", "keep"}, default "zero"
        What `y` is where a position does not count: 0; normalized as the others; or `x`.
    reduce : callable, optional
        Where several processes hold parts of the batch, also unequal and empty ones: what returns the sum over them of
        what it is given, `ChannelStatistics` here. Every process must call at the same time.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; a copy of `x` is then kept for backward.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : BatchNormContext
        For `batch_norm_backward`; its ``mean`` and ``var`` (biased) are float64, shape (C,).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range, or there is one value per channel.

    See Also
    --------
    batch_norm_backward : gradients with respect to `x`, `gamma` and `beta`.
    batch_norm_inference : the same map with given statistics.

    Notes
    -----
    Sums are float64 sums of values shifted by a value of their own block; blocks are fixed by the shape and merged in a
    fixed order [2]_, so that the bits do not depend on the number of threads. The output is computed in float64 and
    rounded once. A constant channel gives exactly `beta`. An empty `x` gives an empty `y` and NaN statistics, which are
    those of one in which nothing counts, too.

    With weights w, :math:`\mu_c = \sum w x / \sum w` and :math:`\sigma^2_c = \sum w (x - \mu_c)^2 / \sum w`. What does
    not count is not read, unless `masked` asks for it: it may be a NaN.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal
       covariate shift", ICML 2015, Algorithm 1 and section 3.2.
    .. [2] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
       recommendations", The American Statistician 37 (1983) 242-247.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.batch_norm(np.array([[1.0, 10.0], [3.0, 30.0]]), eps=1e-12)
    >>> np.round(y, 6)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> context.mean
    array([ 2., 20.])
    """
    x = _checks.array(x, "x")
    if isinstance(channel_axis, tuple):
        one = as_one.of(x, channel_axis)
        y, context = batch_norm(
            one.merge(x), gamma, beta, eps=eps, channel_axis=one.axis, mask=mask, weights=weights, masked=masked,
            reduce=reduce, out=one.taken(out, x),
        )  # fmt: skip
        return one.result(y, out), context._replace(as_one=one)
    channel_axis = _checks.channel_axis(x, channel_axis)
    n_channels = x.shape[channel_axis]
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    eps = _checks.eps(eps)
    if reduce is not None:
        shared.check(reduce, x)
        if mask is not None or weights is not None:
            raise ValueError("mask and weights must be None where reduce is given; pass one or the other")
    elif mask is None and weights is None:
        more_than_one_value(x, n_channels, "batch_norm_inference")
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
        scale, shift = _overlap.apart(scale, out), _overlap.apart(shift, out)
    scale_kept = per_channel.kept(gamma, scale)  # before anything is written, which may be where gamma is
    walk = Pass(x, out, channel_axis)
    positions = counted.positions(walk, x.shape, channel_axis, mask, weights, masked)
    n_shared = None
    if reduce is not None:
        statistics, n_shared = shared.statistics(x, channel_axis, eps, reduce)
    else:
        statistics = per_channel.empty(3, n_channels, x)
    kept = walk.kept()
    if n_shared is not None:
        shared.normalize(walk, statistics, scale, shift)
    elif positions is not None:
        counted.forward(walk, statistics, (scale, shift), eps, positions)
    elif x.size:
        _backend.batch_norm(walk.y, walk.x, statistics, scale, shift, eps)
    else:
        statistics.fill(np.nan)
    y, dtype = walk.result(), per_channel.parameter_dtype(x, gamma, beta)
    rows, positions = _device.native(statistics), counted.by_axes(positions, walk, x.shape, channel_axis)
    return y, BatchNormContext(kept, rows, scale_kept, channel_axis, eps, dtype, n_shared, positions)


def batch_norm_backward(
    dy: Array,
    context: BatchNormContext,
    *,
    reduce: Callable[[Any], Any] | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of batch normalization in training.

    With :math:`\hat x = (x - \mu_c) / \sqrt{\sigma^2_c + \epsilon}` and sums over the :math:`n` values of channel
    :math:`c`,

    .. math::
       d\beta_c = \sum dy, \qquad d\gamma_c = \sum dy \, \hat x, \qquad
       dx = \frac{\gamma_c}{\sqrt{\sigma^2_c + \epsilon}} \left(dy - \frac{d\beta_c + \hat x \, d\gamma_c}{n}\right)

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : BatchNormContext
        What `batch_norm` returned. It can be used any number of times.
    reduce : callable, optional
        As in the forward pass, and if it had one; it is given a float64 array of shape (3, C), the sums of dy * x_hat,
        of dy and of ones. All gradients are then those of the whole batch.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape and dtype of `x`, memory order of `x` as the forward pass saw it, or `out`.
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
    >>> y, context = functional.batch_norm(np.array([[1.0], [2.0], [4.0]]))
    >>> dx, dgamma, dbeta = functional.batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), context)
    >>> bool(abs(dx.sum()) < 1e-12)  # the output does not change when x is shifted
    True
    """
    if not isinstance(context, BatchNormContext):
        raise TypeError(f"context must be what batch_norm() returned; got {_checks.kind(context)}")
    if (reduce is None) != (context.n_shared is None):
        had = "no" if context.n_shared is None else "a"
        raise ValueError(f"the forward pass had {had} reduce; pass the same to both")
    x = _checks.array(context.x, "context.x")
    if context.as_one is not None:
        one = as_one.checked(context.as_one)
        dy = _checks.gradient(dy, one.shape, x.dtype)
        within = one.taken(out, dy)
        alone = context._replace(as_one=None)
        dx, dgamma, dbeta = batch_norm_backward(one.merge(dy), alone, reduce=reduce, out=within)
        return one.result(dx, out), dgamma, dbeta
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
    axis = _checks.channel_axis(x, context.channel_axis)
    walk = Pass(x, out, axis)
    sums = per_channel.empty(2, x.shape[axis], x)
    if x.size or context.n_shared is not None or context.positions is not None:
        statistics = _checks.array(context.statistics, "context.statistics", np.dtype(np.float64))
        (scale,) = per_channel.vectors(("gamma",), (context.gamma,), x.shape[axis], x)
        scale = scale if out is None else _overlap.apart(scale, out)
    if context.n_shared is not None and reduce is not None:
        sums = shared.sums(dy, walk, statistics, context.n_shared, reduce)
        shared.input_gradient(walk, dy, statistics, sums, scale, context.n_shared)
    elif context.positions is not None:
        where = counted.by_memory(context.positions, walk, x.shape, axis)
        counted.backward(walk, dy, sums, statistics, scale, where)
    elif x.size:
        _backend.batch_norm_backward(walk.y, walk.beside(dy), walk.x, sums, statistics, scale)
    else:
        sums.fill(0.0)
    dgamma, dbeta = per_channel.gradients(sums, x, context.parameter_dtype)
    return walk.result(), dgamma, dbeta
