"""Ghost batch normalization: groups of a batch normalized apart, without state, forward and backward."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _layout, _merging, _overlap
from normdrop._passes import kept
from normdrop._positions import OTHERS
from normdrop.functional import _counted as counted
from normdrop.functional import _per_channel as per_channel
from normdrop.functional._batch_norm import BatchNormContext, batch_norm, batch_norm_backward, more_than_one_value

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


class GhostBatchNormContext(NamedTuple):
    """What `ghost_batch_norm_backward` needs: the contexts of the groups.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0], [4.0], [8.0]])
    >>> _, context = functional.ghost_batch_norm(x, ghost_size=2)
    >>> [group.mean.tolist() for group in context.groups], context.statistics[0]
    ([[2.0], [6.0]], array([4.]))
    """

    x: Array
    """The input itself, not to be changed before backward; a copy where it was overwritten."""
    groups: tuple[BatchNormContext, ...]
    """Those of the groups, in their order along axis 0."""
    statistics: Vectors
    """Mean, biased variance and 1 / sqrt(var + eps) of the whole batch, shape (3, C)."""
    n: float
    """Number of values per channel in the whole batch; with weights, the sum of those."""
    parameter_dtype: np.dtype[Any]
    """Dtype of the gradients of gamma and beta."""
    n_shared: None = None
    """No processes share the batch."""
    positions: None = None
    """Which positions count, the groups know."""
    as_one: None = None
    """There is one channel axis."""


def ghost_batch_norm(  # noqa: PLR0913  # as batch_norm, with the size of groups
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    ghost_size: int,
    eps: float = 1e-5,
    channel_axis: int = 1,
    mask: Array | None = None,
    weights: Array | None = None,
    masked: Literal["zero", "normalize", "keep"] = "zero",
    out: Array | None = None,
) -> tuple[Array, GhostBatchNormContext]:
    """Normalize groups of consecutive samples of a batch, each by its own statistics.

    Each group has `ghost_size` samples, the last one what is left. A last group of one value per channel, which has no
    variance, joins the one before.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Batch of samples along axis 0, on the host; any strides.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    ghost_size : int
        Samples in a group, any number from 1; it need not divide N. A group must have more than one value per channel.
    eps, channel_axis, mask, weights, masked : optional
        As for `batch_norm`; the channel axis is not axis 0. Groups are of so many samples, whatever counts of them.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; a copy of `x` is then kept for backward.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : GhostBatchNormContext
        For `ghost_batch_norm_backward`; its ``statistics`` are those of the whole batch, merged of the groups'.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range, or a group has one value per channel that counts.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization gap in large
       batch training of neural networks", NIPS 2017, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0], [10.0], [30.0], [50.0]])
    >>> y, context = functional.ghost_batch_norm(x, ghost_size=2, eps=1e-12)
    >>> y.round(3).ravel(), [group.n for group in context.groups]
    (array([-1.   ,  1.   , -1.225,  0.   ,  1.225]), [2, 3])
    """
    x = _checks.array(x, "x")
    axis = _checks.channel_axis(x, channel_axis)
    if axis == 0:
        raise ValueError("channel_axis must not be 0, along which the samples of ghost batches lie; pass x transposed")
    if not _device.on_host(x):
        raise TypeError("ghost batches need x on the host, and x is on a GPU; copy it there, or use batch_norm")
    n_channels = x.shape[axis]
    ghost_size, eps = _checks.integer(ghost_size, "ghost_size", 1), _checks.eps(eps)
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    _checks.choice(masked, "masked", OTHERS)
    slices, which = _groups(x, n_channels, ghost_size), _which(x.shape, axis, mask, weights)
    if which:
        _more_than_one(slices, which)
        which["masked"] = masked
    else:
        more_than_one_value(x, n_channels, "batch_norm_inference")
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
        scale, shift = _overlap.apart(scale, out), _overlap.apart(shift, out)
    dense, layout = _layout.dense(x)
    source, y = kept(dense, out), layout.empty(dense) if out is None else out
    groups, moments = [], _merging.empty(max(n_channels, 1))[:, :n_channels]
    for group in slices:
        of_group = {name: values if name == "masked" else values[group] for name, values in which.items()}
        _, context = batch_norm(source[group], scale, shift, eps=eps, channel_axis=axis, out=y[group], **of_group)
        moments = _merging.merge(moments, _merging.of(context.n, context.mean, context.var))
        groups.append(context._replace(parameter_dtype=np.dtype(np.float64)))
    var = _merging.var(moments, 0)
    statistics = np.stack([_merging.mean(moments), var, 1.0 / np.sqrt(var + eps)])
    dtype = per_channel.parameter_dtype(x, gamma, beta)
    return y, GhostBatchNormContext(source, tuple(groups), statistics, sum(part.n for part in groups), dtype)


def _which(shape: tuple[int, ...], axis: int, mask: Any, weights: Any) -> dict[str, Any]:
    """Return mask and weights after checks, with one channel on its axis; empty if all positions count."""
    if mask is None and weights is None:
        return {}
    mask, weights = counted.along(shape, axis, mask, weights)
    return {"mask": mask} if weights is None else {"mask": mask, "weights": weights}


def _more_than_one(groups: list[slice], which: dict[str, Any]) -> None:
    """Check that in no group one position counts, before anything is written."""
    for group in groups:
        if np.count_nonzero(which["mask"][group]) == 1:
            raise ValueError(
                f"one position counts in the group of samples {group.start} to {group.stop - 1}, and the variance of "
                "one value is no estimate; let more count or none, or take a larger ghost_size"
            )


def _groups(x: Array, n_channels: int, ghost_size: int) -> list[slice]:
    """Return where the groups lie along axis 0."""
    n_samples = x.shape[0]
    if x.size == 0:
        return []
    n_values = x.size // (n_samples * n_channels)  # of a channel, in a sample
    if n_values * ghost_size == 1:
        raise ValueError(
            f"ghost_size must be 2 or more for samples of one value per channel (shape {x.shape}), whose variance is "
            "no estimate; got 1"
        )
    ends = [*range(ghost_size, n_samples, ghost_size), n_samples]
    if len(ends) > 1 and (ends[-1] - ends[-2]) * n_values == 1:
        del ends[-2]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def ghost_batch_norm_backward(
    dy: Array, context: GhostBatchNormContext, *, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of ghost batch normalization: `batch_norm_backward` in each group, added up for gamma and beta.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : GhostBatchNormContext
        What `ghost_batch_norm` returned. It can be used any number of times.
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

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0], [10.0], [30.0]])
    >>> y, context = functional.ghost_batch_norm(x, ghost_size=2)
    >>> dx, dgamma, dbeta = functional.ghost_batch_norm_backward(np.ones((4, 1)), context)
    >>> dbeta
    array([4.])
    """
    if not isinstance(context, GhostBatchNormContext):
        raise TypeError(f"context must be what ghost_batch_norm() returned; got {_checks.kind(context)}")
    x = _checks.array(context.x, "context.x")
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
    if sum(len(part.x) for part in context.groups) != (len(x) if x.size else 0):
        raise ValueError("context.groups must be of all samples of context.x; pass the context as it was returned")
    dense, layout = _layout.dense(x)
    dx = layout.empty(dense) if out is None else out
    sums, start = np.zeros((2, context.statistics.shape[-1])), 0
    for part in context.groups:
        group = slice(start, start + len(part.x))
        _, *gradients = batch_norm_backward(dy[group], part, out=dx[group])
        sums += gradients
        start = group.stop
    return dx, *per_channel.gradients(sums, x, context.parameter_dtype)
