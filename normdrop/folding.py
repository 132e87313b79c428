"""Folding: the linear map of a batch normalization in inference becomes part of the weight before or after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _linear_map
from normdrop._linear_map import Normalization, Weight
from normdrop.layers import BatchNorm, BatchNormAct

Array = npt.NDArray[Any]

__all__ = ["Folded", "fold"]

_NOT_OF_ZEROS = ("valid", "reflect", "replicate", "circular")


class Folded(NamedTuple):
    """A weight and a bias that do what they did together with a batch normalization.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> norm = normdrop.BatchNorm(2, eps=1e-12, unbiased=False, momentum=0.0)
    >>> _ = norm(np.array([[-2.0, 0.0], [2.0, 4.0]]))
    >>> folded = normdrop.fold(np.eye(2), None, norm)
    >>> folded.weight.round(6).tolist(), folded.bias.round(6).tolist(), folded.max_difference < 1e-9
    ([[0.5, 0.0], [0.0, 0.5]], [0.0, -1.0], True)
    """

    weight: Array
    """New array of the weight's shape and dtype."""
    bias: Array
    """New array of shape (outputs,), of the dtype of the given bias, or else of the weight."""
    max_difference: float
    """Largest difference of an output from the two steps, on random inputs, in float64 with these numbers."""


def fold(
    weight: Array,
    bias: Array | None,
    norm: BatchNorm,
    axis: int = 0,
    *,
    before: bool = False,
    groups: int = 1,
    padding: int | str | Sequence[int] | None = None,
) -> Folded:
    r"""Fold a batch normalization in inference into the linear layer or convolution beside it.

    .. math::
        W' = s_c W, \quad b' = \beta_c + s_c (b - \mu_c), \qquad s_c = \frac{\gamma_c}{\sqrt{\sigma^2_c + \epsilon}}

    after a layer, with its outputs as channels c; with ``before=True``, its inputs:

    .. math:: W' = W s_c, \quad b' = b + \sum_{c,k} W_{c,k} (\beta_c - s_c \mu_c)

    Parameters
    ----------
    weight : ndarray of floats, at least two axes
        Weight of the layer: a matrix, or the kernels of a convolution. Not modified.
    bias : ndarray of floats, shape (outputs,), or None
        Its bias, if it has one. Not modified.
    norm : BatchNorm
        The layer after it, with running statistics; its mode does not matter. A `BatchNormAct` must have
        ``activation="identity"``.
    axis : {0, 1, -1, -2}, default 0
        The axis of the weight's **outputs**. Its inputs are on the axis beside it: 1, 0, -2 or -1. See the notes.
    before : bool, default False
        Whether the norm comes before the layer, not after it.
    groups : int, default 1
        Groups of a convolution.
    padding : int, str or sequence of int, optional
        What the convolution pads its input with; needed with ``before=True`` for more than two axes. Zeros that are
        added after the norm would be normalized by the folded weight, too: only ``0``, ``"valid"``, and what pads with
        the input's own values (``"reflect"``, ``"replicate"``, ``"circular"``) can be folded if the norm shifts.

    Returns
    -------
    Folded
        New weight and bias, and the largest difference found.

    Raises
    ------
    TypeError
        An array is not of floats, or `norm` is no `BatchNorm`.
    ValueError
        Shapes do not fit, or the result could not be right: the norm has no running statistics, or none but the
        initial ones; they are not finite; an activation follows it; zeros are padded between norm and convolution, or
        it is a transposed one, whose places see parts of the kernel; a result is beyond the weight's dtype.
    ArithmeticError
        The result differs from the two steps by more than its rounding explains.

    Notes
    -----
    Computed in float64 and rounded once, to the dtype of the weight, and the bias to its own: float16 and bfloat16
    weights lose as much again as they lost when they were made. Then 16 random inputs go through both, and
    each output must agree within :math:`u \, (\sum |W'| |x| + |b'|)`, u half a unit in the last place of the
    dtype, and what float64 loses.

    ========= ==================================================================================
    axis      weight
    ========= ==================================================================================
    0         PyTorch, ONNX: (out, in), (out, in / groups, ...)
    1         PyTorch, ONNX, transposed convolution: (in, out / groups, ...)
    -1        Keras, Flax, ``x @ weight``: (in, out), (..., in / groups, out)
    -2        Keras, transposed convolution: (..., out, in)
    ========= ==================================================================================

    A depthwise kernel of Keras, (..., in, multiplier), is ``kernel.reshape(..., 1, -1)`` with ``axis=-1`` and as many
    groups as it has inputs. A transposed one of Flax, (..., in, out), has ``axis=-1`` and cannot be told from a plain
    one: fold a norm after it, not before it.

    A weight with two axes is taken for a linear layer, whose outputs are on the last axis of what it returns; that must
    be the norm's ``channel_axis``.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> rng = np.random.default_rng(0)
    >>> weight, bias = rng.normal(size=(3, 4)), np.zeros(3)
    >>> norm = normdrop.BatchNorm(3, dtype=np.float64).fit([rng.normal(2, 3, (100, 3))])
    >>> folded = normdrop.fold(weight, bias, norm)
    >>> x = rng.normal(size=(5, 4))
    >>> bool(np.allclose(x @ folded.weight.T + folded.bias, norm.eval()(x @ weight.T + bias)))
    True
    """
    given, before = _host(weight, "weight"), _checks.flag(before, "before")
    dtypes = given.dtype, given.dtype
    layer, axes = _layer(given, axis, _checks.integer(groups, "groups", 1))
    n_in, n_out = layer.sizes
    values = _numbers(
        norm, n_in if before else n_out, f"{'inputs' if before else 'outputs'} on axis {axes[1 if before else 0]}"
    )
    _check_rank(norm, given.ndim)
    if before and given.ndim > 2 and values.shift.any():  # one that does not shift leaves zeros as they are
        _check_padding(padding, layer.transposed)
    b = np.zeros(n_out)
    if bias is not None:
        bias = _host(bias, "bias")
        if bias.shape != (n_out,):
            raise ValueError(f"bias must have shape ({n_out},), one value per output of weight; got {bias.shape}")
        b, dtypes = bias.astype(np.float64), (given.dtype, bias.dtype)
    for name, numbers in (("weight", layer.values), ("bias", b)):
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} must be finite, or nothing could be verified; it has NaN or infinity")
    with np.errstate(over="ignore"):
        exact = _linear_map.fold(layer, b, values, before)
    result = tuple(map(_linear_map.rounded, exact, dtypes, ("weight", "bias")))
    difference = _linear_map.verify(layer, b, values, norm.eps, before, exact, (result[0], result[1]))
    return Folded(np.ascontiguousarray(np.moveaxis(result[0], (0, 1), axes)), result[1], difference)


def _host(values: Array, name: str) -> Array:
    values = _checks.array(values, name)
    return values if _device.on_host(values) else _device.to_host(values)


def _layer(weight: Array, axis: int, groups: int) -> tuple[Weight, tuple[int, int]]:
    """Return the weight in float64, and the axes of its outputs and inputs."""
    ndim, shape, near = weight.ndim, weight.shape, _checks.integer(axis, "axis", -(2**31))
    if ndim < 2 or weight.size == 0:
        raise ValueError(f"weight must have at least two axes, for outputs and inputs, and be not empty; got {shape}")
    if 2 <= near < ndim:
        near -= ndim
    if near not in (0, 1, -1, -2):
        raise ValueError(
            f"axis must be that of the weight's outputs, 0, 1, -1 or -2; got {axis} for shape {shape}. Move the axes "
            "of outputs and inputs to the front: np.moveaxis(weight, (outputs, inputs), (0, 1)) with axis=0."
        )
    axes = near, 1 - near if near >= 0 else -3 - near
    transposed = ndim > 2 and near in (1, -2)
    moved = np.moveaxis(weight.astype(np.float64), axes, (0, 1))
    n = moved.shape[transposed]
    if n % groups:
        raise ValueError(f"groups must divide the {n} {'inputs' if transposed else 'outputs'} of weight; got {groups}")
    return Weight(moved, groups, transposed), axes


def _numbers(norm: BatchNorm, n: int, side: str) -> Normalization:
    """Return the numbers of a norm that can be folded into a layer with n channels on a side of it."""
    if not isinstance(norm, BatchNorm):
        raise TypeError(
            f"norm must be a normdrop.BatchNorm; got {_checks.kind(norm)}. normdrop.convert makes one of the layers of "
            "other libraries."
        )
    if isinstance(norm, BatchNormAct) and norm.activation != "identity":
        raise ValueError(
            f"norm must be linear, but applies {norm.activation!r}; fold a BatchNorm with the same state, and apply "
            "the activation to what the folded layer returns"
        )
    if norm.num_features != n:
        raise ValueError(f"norm must have {n} channels, as weight has {side}; got {norm.num_features}. See axis.")
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            "norm must have running statistics: without, it normalizes by each batch and is no fixed map; make it with "
            "track_running_stats=True"
        )
    mean, var = _device.to_host(norm.running_mean), _device.to_host(norm.running_var)
    if norm.num_batches == 0 and not mean.any() and (var == 1).all():
        raise ValueError("norm must have seen a batch: its running statistics are those it began with; train it first")
    gamma = np.ones(n) if norm.gamma is None else _device.to_host(norm.gamma).astype(np.float64)
    beta = np.zeros(n) if norm.beta is None else _device.to_host(norm.beta).astype(np.float64)
    wrong = ~np.isfinite([mean, var, gamma, beta]).all(axis=0) | (var < 0)
    if wrong.any():
        raise ValueError(
            "norm must have finite parameters and statistics, and no negative variance; not so in channels "
            f"{np.flatnonzero(wrong)[:5].tolist()}"
        )
    return Normalization(mean, var, gamma, beta, np.sqrt(var + norm.eps))


def _check_rank(norm: BatchNorm, ndim: int) -> None:
    """Check that a layer with a weight of so many axes can be beside a norm whose rank is known."""
    ranks = norm._ranks
    if ndim == 2 and ranks and not any(norm.channel_axis in (-1, rank - 1) for rank in ranks):
        raise ValueError(
            f"weight has two axes: a linear layer, with outputs on the last axis; but norm is a {type(norm).__name__} "
            f"with channel_axis={norm.channel_axis}. For a convolution with kernels of one place, add axes to weight."
        )
    if ndim > 2 and ranks and ndim not in ranks:
        raise ValueError(
            f"weight has {ndim} axes: a convolution over {ndim - 2}; but norm is a {type(norm).__name__}, for inputs "
            f"{norm._shape}"
        )


def _check_padding(padding: object, transposed: bool) -> None:
    """Refuse what sees zeros where it should see the shift."""
    if transposed:
        raise ValueError(
            "norm shifts, and comes before a transposed convolution (axis=1 or -2), whose places see different "
            "parts of the kernel, so that no one bias is right; fold it into the layer before it"
        )
    if padding is None:
        raise ValueError(
            "padding must be given for a norm before a convolution, which would normalize padded zeros, too, once "
            "it is folded; pass padding=0 if there are none"
        )
    is_own = padding in _NOT_OF_ZEROS if isinstance(padding, str) else not np.any(padding)  # type: ignore[call-overload]
    if not is_own:
        raise ValueError(
            f"padding must be 0, or one of {', '.join(map(repr, _NOT_OF_ZEROS))}, for a norm that shifts before a "
            f"convolution; got {padding!r}: its border sees zeros that were not normalized, so that no one bias is "
            "right. Fold the norm into the layer before it."
        )
