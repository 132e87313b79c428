"""Batch normalization whose scale and shift come with the batch, for all samples or for each, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _formulas, _overlap, _pool
from normdrop._passes import Reading
from normdrop._positions import Positions
from normdrop.functional import _counted as counted
from normdrop.functional import _of_batch as of_batch
from normdrop.functional import _per_channel as per_channel

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


class ConditionalBatchNormContext(NamedTuple):
    """What `conditional_batch_norm_backward` needs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.conditional_batch_norm(np.array([[1.0], [3.0]]), np.ones((2, 1)))
    >>> context.statistics[0], context.gamma.shape
    (array([2.]), (2, 1))
    """

    x: Array | None
    """The input itself, not to be changed before backward, or a copy in C order; None: no gradients but dx."""
    statistics: Vectors
    """Mean, variance and 1 / sqrt(var + eps) of each channel, shape (3, C)."""
    gamma: Array
    """A copy of the scale that was applied, shape (N, C) or (C,), in float64."""
    channel_axis: int
    """Axis of the channels, from 1 to ndim - 1."""
    n: float
    """Number of values per channel of the batch whose the statistics are, or the sum of their weights; 0: they were
    given, or nothing counts."""
    shape: tuple[int, ...]
    """Shape of the input."""
    dtype: np.dtype[Any]
    """Dtype of the input."""
    parameters: tuple[tuple[tuple[int, ...], np.dtype[Any]], tuple[tuple[int, ...], np.dtype[Any]]]
    """Shape and dtype of gamma and beta."""
    n_shared: None = None
    """No processes share the batch."""
    positions: Positions | None = None
    """Which positions count, in the order of the axes; None: all."""


def conditional_batch_norm(  # noqa: PLR0913  # as batch_norm, with statistics that may be given
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    mean: Array | None = None,
    var: Array | None = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    mask: Array | None = None,
    weights: Array | None = None,
    masked: Literal["zero", "normalize", "keep"] = "zero",
    out: Array | None = None,
) -> tuple[Array, ConditionalBatchNormContext]:
    r"""Normalize each channel, then scale and shift it by numbers of each sample.

    .. math:: y_n = \gamma_{n c} \, \frac{x_n - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + \beta_{n c}

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Batch of samples along axis 0, on the host; in C order, or it is copied.
    gamma, beta : ndarray of floats, shape (N, C) or (C,), optional
        Scale and shift of each sample, or of all; ``None`` means ones and zeros.
    mean, var : ndarray of floats, shape (C,), optional
        Statistics to normalize by, such as running ones; without them, those of the batch.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels, not axis 0.
    mask, weights, masked : optional
        As for `batch_norm`; no weights where `mean` and `var` are given.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; a copy of `x` is then kept for backward.

    Returns
    -------
    y : ndarray
        Shape and dtype of `x`, in C order, or `out`.
    context : ConditionalBatchNormContext
        For `conditional_batch_norm_backward`, and for `update_running` if the statistics are those of the batch.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range, or there is one value per channel.

    Notes
    -----
    Reads and writes as often as `batch_norm` does; its backward pass writes `dx` once more and reads it, and rounds
    gamma * dy to the dtype of `x`. Where the channel axis is not axis 1, each sample is a pass of its own. With a mask
    or weights, what is not normalized is written once more, and backward copies `dy` and `x` without it.

    References
    ----------
    .. [1] H. de Vries, F. Strub, J. Mary, H. Larochelle, O. Pietquin and A. Courville, "Modulating early visual
       processing by language", NIPS 2017, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, gamma = np.array([[1.0], [3.0]]), np.array([[10.0], [20.0]])
    >>> y, context = functional.conditional_batch_norm(x, gamma, eps=1e-12)
    >>> y.round(6).ravel()
    array([-10.,  20.])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    if axis == 0:
        raise ValueError("channel_axis must not be 0, along which the samples lie; pass x transposed")
    if not _device.on_host(x):
        raise TypeError("conditional batch normalization needs x on the host, and x is on a GPU; copy it there")
    n_channels, eps = x.shape[axis], _checks.eps(eps)
    g, b = (_parameter(v, name, x, n_channels) for name, v in (("gamma", gamma), ("beta", beta)))
    if (mean is None) != (var is None):
        raise ValueError("mean and var must both be given, or neither; pass the one that is missing")
    reading = Reading(x, axis)
    positions = counted.positions(reading, x.shape, axis, mask, weights, masked)
    if mean is None or var is None:
        rows, n, _ = of_batch.batch(reading, x, axis, positions, eps, None)
    elif weights is not None:
        raise ValueError(
            "weights must be None by given statistics, as in inference: they weigh none of x; leave them out"
        )
    else:
        mean, var = per_channel.statistics(("mean", "var"), (mean, var), n_channels, x)
        _checks.not_negative(var, "var")
        rows, n = np.stack([mean, var, 1.0 / np.sqrt(var + eps)]), 0
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    source = np.ascontiguousarray(x)
    if out is not None and _overlap.is_possible(out, source):
        source = source.copy()
    y = out if out is not None and out.flags.carray else _pool.empty(x.shape, x.dtype)
    vectors = np.empty((3, x.shape[0], n_channels))
    vectors[0], vectors[1], vectors[2] = rows[0], g * rows[2], b
    for at, x_at, y_at in _pieces(axis, vectors, source, y):
        _backend.normalize(y_at, x_at, at)
    positions = counted.by_axes(positions, reading, x.shape, axis)
    counted.write_others(y, source, positions, axis)
    if out is not None and out is not y:
        out[...] = y
    default = per_channel.parameter_dtype(x, gamma, beta)
    parameters = [((n_channels,), default) if v is None else (v.shape, v.dtype) for v in (gamma, beta)]
    context = ConditionalBatchNormContext(
        source, rows, np.array(g, np.float64), axis, n, x.shape, x.dtype, (parameters[0], parameters[1]),
        positions=positions,
    )  # fmt: skip
    return y if out is None else out, context


def _parameter(values: Array | None, name: str, x: Array, n_channels: int) -> Array:
    """Return scale or shift after checks."""
    if values is None:
        return np.full(n_channels, float(name == "gamma"))
    vectors = _checks.array(values, name)
    _checks.same_place(vectors, name, x, "x")
    if vectors.shape not in ((n_channels,), (x.shape[0], n_channels)):
        raise ValueError(
            f"{name} must have shape ({n_channels},) or ({x.shape[0]}, {n_channels}), one value per channel or one per "
            f"sample and channel of x; got {vectors.shape}"
        )
    return vectors


def _pieces(axis: int, vectors: Vectors, *arrays: Array) -> Iterator[tuple[Any, ...]]:
    """Yield vectors (k, C') and views (outer, C', inner) of arrays in C order, whose channels have the same numbers.

    Where channels follow samples, all of them are channels of one piece; else each sample is a piece.
    """
    shape = arrays[0].shape
    inner, n_channels = math.prod(shape[axis + 1 :]), shape[axis]
    if not math.prod(shape):
        return
    if axis == 1:
        fold = 1, shape[0] * n_channels, inner
        yield vectors.reshape(len(vectors), -1), *(array.reshape(fold) for array in arrays)
        return
    fold = math.prod(shape[1:axis]), n_channels, inner
    for k in range(shape[0]):
        yield np.ascontiguousarray(vectors[:, k]), *(array[k].reshape(fold) for array in arrays)


def _sums(axis: int, statistics: Vectors, dy: Array, x: Array) -> Vectors:
    """Return the sums of dy * x_hat and of dy over the values of each sample and channel."""
    sums = np.zeros((2, *statistics.shape[1:]))
    for k, (at, dy_at, x_at) in enumerate(_pieces(axis, statistics, dy, x)):
        part = np.empty((2, at.shape[1]))
        _backend.parameter_gradients(part, dy_at, x_at, np.ascontiguousarray(at))
        if axis == 1:
            sums[...] = part.reshape(sums.shape)
        else:
            sums[:, k] = part
    return sums


def _through_statistics(g: Array, x: Array, sums: Vectors, context: ConditionalBatchNormContext) -> None:
    """Turn gamma * dy into dx, by statistics of the batch; the sums are those of g * x_hat and of g."""
    mean, _, inv_std = context.statistics
    k = context.channel_axis
    fold = math.prod(g.shape[:k]), g.shape[k], math.prod(g.shape[k + 1 :])
    g, x = g.reshape(fold), x.reshape(fold)
    if context.positions is None:
        rows = np.stack([mean, sums[1] / context.n, _formulas.slope(sums[0], inv_std, context.n), inv_std])
        _backend.input_gradient(g, g, x, rows)
    else:
        rows, ones = np.ascontiguousarray(context.statistics), np.ones(fold[1])
        _backend.masked_batch_norm_backward(g, g, x, np.empty((2, fold[1])), rows, ones, context.positions)


def conditional_batch_norm_backward(
    dy: Array, context: ConditionalBatchNormContext, *, out: Array | None = None
) -> tuple[Array, Array | None, Array | None]:
    r"""Gradients of conditional batch normalization.

    With :math:`g = \gamma dy` and sums over the values of a sample in :math:`d\gamma_{nc} = \sum dy \, \hat x` and
    :math:`d\beta_{nc} = \sum dy`, dx is that of `batch_norm_backward` of g with a scale of 1, or, by given statistics,
    :math:`g / \sqrt{\sigma^2_c + \epsilon}`.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : ConditionalBatchNormContext
        What `conditional_batch_norm` returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape and dtype of `x`, in C order, or `out`.
    dgamma, dbeta : ndarray, shape and dtype of `gamma` and `beta`, or None
        Of shape (C,) where those were not given; ``None`` if the context has no `x`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, gamma = np.array([[1.0], [3.0]]), np.array([[10.0], [20.0]])
    >>> y, context = functional.conditional_batch_norm(x, gamma, eps=1e-12)
    >>> dx, dgamma, dbeta = functional.conditional_batch_norm_backward(np.ones((2, 1)), context)
    >>> dgamma.round(6).ravel(), dbeta
    (array([-1.,  1.]), array([2.]))
    """
    if not isinstance(context, ConditionalBatchNormContext):
        raise TypeError(f"context must be what conditional_batch_norm() returned; got {_checks.kind(context)}")
    dy, axis = _checks.gradient(dy, context.shape, context.dtype), context.channel_axis
    x = None if context.x is None else _checks.array(context.x, "context.x")
    if x is None and context.n:
        raise ValueError("context has no x, which gradients by statistics of the batch need")
    if x is not None:
        _checks.same_shape(x, dy.shape, "context.x", "the forward pass's x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy)] if x is None else [("dy", dy), ("x", x)])
    n_samples, n_channels = dy.shape[0], dy.shape[axis]
    given, dx = np.ascontiguousarray(dy), _pool.empty(dy.shape, dy.dtype)
    others = counted.others(context.positions, dy.shape, axis)
    if others is not None:
        zero = dy.dtype.type(0)
        given, x = np.where(others, zero, given), None if x is None else np.where(others, zero, x)
    elif out is not None and out.flags.carray:
        dx = out
    tile = np.broadcast_to(context.statistics[:, None], (3, n_samples, n_channels))
    gamma = np.broadcast_to(context.gamma, (n_samples, n_channels))
    gradients: list[Array | None] = [None, None]
    if x is not None:
        nothing = others is not None and others.all()
        sums = np.zeros((2, n_samples, n_channels)) if nothing else _sums(axis, tile, given, x)
        totals = zip(sums, context.parameters, strict=True)
        gradients = [(s if len(shape) == 2 else s.sum(axis=0)).astype(dtype) for s, (shape, dtype) in totals]
    vectors = np.zeros((3, n_samples, n_channels))
    vectors[1] = gamma if context.n else gamma * context.statistics[2]
    for at, dy_at, dx_at in _pieces(axis, vectors, given, dx):
        _backend.normalize(dx_at, dy_at, at)
    if context.n and x is not None:
        _through_statistics(dx, x, (gamma * sums).sum(axis=1), context)
    counted.write_others(dx, dy, context.positions, axis)
    if out is not None and out is not dx:
        out[...] = dx
    return dx if out is None else out, gradients[0], gradients[1]
