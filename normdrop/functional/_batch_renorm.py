"""Batch renormalization, without state, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device
from normdrop._passes import Pass
from normdrop._positions import Positions
from normdrop.functional import _as_one as as_one
from normdrop.functional import _counted as counted
from normdrop.functional import _of_batch as of_batch
from normdrop.functional import _per_channel as per_channel
from normdrop.functional._as_one import AsOne
from normdrop.functional._batch_norm import BatchNormContext, batch_norm_backward

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]


class BatchRenormContext(NamedTuple):
    """What `batch_renorm_backward` needs: that of batch norm with the scale gamma * r, and r and d.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0]])
    >>> _, context = functional.batch_renorm(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> context.r.round(6), context.d.round(6)
    (array([0.5]), array([0.5]))
    """

    norm: BatchNormContext
    """Input, statistics of the batch, and the scale gamma * r, rounded to the dtype of gamma."""
    r: Vector
    """What multiplies x_hat, shape (C,)."""
    d: Vector
    """What is added to it then, shape (C,)."""
    parameter_dtype: np.dtype[Any]
    """Dtype of the gradients of gamma and beta."""

    @property
    def x(self) -> Array:
        """The input."""
        return self.norm.x

    @property
    def statistics(self) -> Vectors:
        """Those of the batch, as in `BatchNormContext`."""
        return self.norm.statistics

    @property
    def n(self) -> float:
        """Number of values per channel, as in `BatchNormContext`."""
        return self.norm.n

    @property
    def n_shared(self) -> int | None:
        """That of all processes, as in `BatchNormContext`."""
        return self.norm.n_shared

    @property
    def as_one(self) -> AsOne | None:
        """How several channel axes are viewed as one, as in `BatchNormContext`."""
        return self.norm.as_one

    @property
    def positions(self) -> Positions | None:
        """Which positions count, as in `BatchNormContext`."""
        return self.norm.positions


def limit(value: object, name: str, least: float) -> float:
    """Return a bound of r or d after checks."""
    number = _checks.real(value, name, f"at least {least:g}, such as {'3' if least else '5'}, or math.inf for no bound")
    if number < least:
        raise ValueError(f"{name} must be at least {least:g}; got {value!r}")
    return number


def batch_renorm(  # noqa: PLR0913  # as batch_norm, with the running statistics and two bounds
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    mask: Array | None = None,
    weights: Array | None = None,
    masked: Literal["zero", "normalize", "keep"] = "zero",
    reduce: Callable[[Any], Any] | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchRenormContext]:
    r"""Normalize each channel of a batch by its own statistics, corrected towards running ones.

    With :math:`\sigma_B = \sqrt{\sigma^2_c + \epsilon}` of the batch and :math:`\sigma = \sqrt{\mathrm{var}_c +
    \epsilon}`,

    .. math::
       y = \gamma_c \left(\frac{x - \mu_c}{\sigma_B} r_c + d_c\right) + \beta_c, \qquad
       r_c = \mathrm{clip}\left(\frac{\sigma_B}{\sigma}, \frac{1}{r_{max}}, r_{max}\right), \qquad
       d_c = \mathrm{clip}\left(\frac{\mu_c - \mathrm{mean}_c}{\sigma}, -d_{max}, d_{max}\right)

    r and d are constants in the backward pass. With ``r_max=1`` and ``d_max=0`` this is `batch_norm`, to the bit;
    without bounds, y is what `batch_norm_inference` gives.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
        Batch, as for `batch_norm`.
    mean, var : ndarray of floats, shape (C,)
        Running statistics from before the batch; they are not changed.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    r_max : float, default 3.0
        Bound of r, at least 1.
    d_max : float, default 5.0
        Bound of d, at least 0.
    eps, channel_axis, mask, weights, masked, reduce : optional
        As for `batch_norm`.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; a copy of `x` is then kept for backward.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : BatchRenormContext
        For `batch_renorm_backward`, and for `update_running` as ``context.norm``.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range, or there is one value per channel.

    References
    ----------
    .. [1] S. Ioffe, "Batch renormalization: towards reducing minibatch dependence in batch-normalized models", NIPS
       2017, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0]])
    >>> y, context = functional.batch_renorm(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> np.round(y, 6).ravel(), context.r.round(6), context.d.round(6)
    (array([0., 1.]), array([0.5]), array([0.5]))
    """
    x = _checks.array(x, "x")
    if isinstance(channel_axis, tuple):
        one = as_one.of(x, channel_axis)
        y, context = batch_renorm(
            one.merge(x), mean, var, gamma, beta, r_max=r_max, d_max=d_max, eps=eps, channel_axis=one.axis, mask=mask,
            weights=weights, masked=masked, reduce=reduce, out=one.taken(out, x),
        )  # fmt: skip
        return one.result(y, out), context._replace(norm=context.norm._replace(as_one=one))
    channel_axis = _checks.channel_axis(x, channel_axis)
    n_channels = x.shape[channel_axis]
    mean, var = per_channel.statistics(("mean", "var"), (mean, var), n_channels, x)
    scale, shift = per_channel.vectors(("gamma", "beta"), (gamma, beta), n_channels, x)
    _checks.not_negative(var, "var")
    bounds = limit(r_max, "r_max", 1.0), limit(d_max, "d_max", 0.0)
    eps = _checks.eps(eps)
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    walk = Pass(x, out, channel_axis)
    positions = counted.positions(walk, x.shape, channel_axis, mask, weights, masked)
    batch = of_batch.batch(walk, x, channel_axis, positions, eps, reduce)
    rows = _device.to_host(batch.statistics)
    r, d = _corrections(rows, _device.to_host(mean), _device.to_host(var), eps, bounds) if batch.n else (1.0, 0.0)
    g, b = _device.to_host(scale), _device.to_host(shift)
    vectors, scaled = per_channel.empty(3, n_channels, x), _device.empty((n_channels,), scale.dtype, x)
    _device.assign(vectors, np.stack([rows[0], g * r * rows[2], b + g * d]))
    _device.assign(scaled, (g * r).astype(scale.dtype))
    dtype = per_channel.parameter_dtype(x, gamma, beta)
    norm = BatchNormContext(
        walk.kept(), batch.statistics, _device.native(scaled), channel_axis, eps, np.dtype(np.float64),
        batch.n_shared, counted.by_axes(positions, walk, x.shape, channel_axis),
    )  # fmt: skip
    counted.normalize(walk.y, walk.x, vectors, positions)
    ones = np.ones(n_channels)
    return walk.result(), BatchRenormContext(norm, r * ones, d * ones, dtype)


def _corrections(
    batch: Vectors, mean: Vector, var: Vector, eps: float, bounds: tuple[float, float]
) -> tuple[Vector, Vector]:
    """Return r and d."""
    r_max, d_max = bounds
    sigma = np.sqrt(var + eps)
    with np.errstate(invalid="ignore", over="ignore"):  # batches that are not finite
        r = np.clip(np.sqrt(batch[1] + eps) / sigma, 1.0 / r_max, r_max)
        return r, np.clip((batch[0] - mean) / sigma, -d_max, d_max)


def batch_renorm_backward(
    dy: Array,
    context: BatchRenormContext,
    *,
    reduce: Callable[[Any], Any] | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of batch renormalization, in which r and d are constants.

    .. math::
       d\beta_c = \sum dy, \qquad d\gamma_c = \sum dy \, (\hat x r_c + d_c),

    and dx is that of `batch_norm_backward` with :math:`\gamma_c r_c` for :math:`\gamma_c`.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : BatchRenormContext
        What `batch_renorm` returned. It can be used any number of times.
    reduce : callable, optional
        As in the forward pass, and if it had one.
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
    .. [1] S. Ioffe, "Batch renormalization", NIPS 2017, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.array([[1.0], [3.0]])
    >>> y, context = functional.batch_renorm(x, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> dx, dgamma, dbeta = functional.batch_renorm_backward(np.array([[0.0], [1.0]]), context)
    >>> dgamma.round(6)
    array([1.])
    """
    if not isinstance(context, BatchRenormContext):
        raise TypeError(f"context must be what batch_renorm() returned; got {_checks.kind(context)}")
    x = _checks.array(context.norm.x, "context.norm.x")
    dx, of_scaled, dbeta = batch_norm_backward(dy, context.norm, reduce=reduce, out=out)
    s, t = _device.to_host(of_scaled), _device.to_host(dbeta)
    sums = per_channel.empty(2, s.size, x)
    with np.errstate(invalid="ignore", over="ignore"):
        _device.assign(sums, np.stack([context.r * s + context.d * t, t]))
    return dx, *per_channel.gradients(sums, x, context.parameter_dtype)
