"""Alpha dropout without state: forward and backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks
from normdrop.functional._dropout import dropout_backward, forward
from normdrop.functional._masking import Affine, DropoutContext, Mask, keep_prob_of, threshold_of
from normdrop.random import RNG

Array: TypeAlias = npt.NDArray[Any]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]

_FLOOR = -1.7580993408473768  # what SELU tends to at minus infinity: -lambda * alpha


def mean_of(value: object) -> float:
    """Return the mean that is to be kept, after checks."""
    remedy = "finite, for example 0.0, the mean of x"
    number = _checks.real(value, "mean", remedy)
    if not math.isfinite(number):
        raise ValueError(f"mean must be {remedy}; got {value!r}")
    return number


def var_of(value: object) -> float:
    """Return the variance that is to be kept, after checks."""
    remedy = "positive and finite, for example 1.0, the variance of x"
    number = _checks.real(value, "var", remedy)
    if not 0.0 < number < math.inf:
        raise ValueError(f"var must be {remedy}; got {value!r}")
    return number


@lru_cache(maxsize=256)
def law_of(p: float, mean: float, var: float) -> tuple[int, float, Affine]:
    """T, the scale a, and (a, b, what is dropped becomes), so that mean and variance are those of x."""
    threshold = threshold_of(p)
    keep_prob = keep_prob_of(threshold)
    if keep_prob == 0.0:
        return threshold, 0.0, (0.0, mean, mean)
    realized, std, distance = 1.0 - keep_prob, math.sqrt(var), _FLOOR - mean
    # var / (q var + p q (alpha' - mean)^2), of which no square can overflow
    a = std / (math.sqrt(keep_prob) * math.hypot(std, math.sqrt(realized) * distance))
    return threshold, a, (a, mean - a * (keep_prob * mean + realized * _FLOOR), mean + a * keep_prob * distance)


@overload
def alpha_dropout(
    x: Array,
    p: float,
    *,
    mean: float = ...,
    var: float = ...,
    shared_axes: int | Iterable[int] = ...,
    rng: RNG = ...,
    mask: Mask | None = ...,
    sample_ids: Integers | None = ...,
    out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> tuple[Array, DropoutContext]: ...


@overload
def alpha_dropout(
    x: Array,
    p: float,
    *,
    mean: float = ...,
    var: float = ...,
    shared_axes: int | Iterable[int] = ...,
    rng: RNG = ...,
    mask: Mask | None = ...,
    sample_ids: Integers | None = ...,
    out: Array | None = ...,
    return_mask: Literal[True],
) -> tuple[Array, DropoutContext, Mask]: ...


def alpha_dropout(  # noqa: PLR0913  # what decides the mask, by keyword
    x: Array,
    p: float,
    *,
    mean: float = 0.0,
    var: float = 1.0,
    shared_axes: int | Iterable[int] = (),
    rng: RNG = None,
    mask: Mask | None = None,
    sample_ids: Integers | None = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> tuple[Array, DropoutContext] | tuple[Array, DropoutContext, Mask]:
    r"""Drop elements to the floor of SELU with probability `p`, and map all so that mean and variance stay.

    .. math:: y_i = a \left(m_i x_i + (1 - m_i) \alpha'\right) + b, \qquad m_i \sim \mathrm{Bernoulli}(q), \quad
        q = 1 - p

    where :math:`\alpha' = -\lambda \alpha \approx -1.7581` is what SELU tends to at minus infinity, and

    .. math:: a = \sqrt{\frac{\nu}{q \nu + p q (\alpha' - \mu)^2}}, \qquad b = \mu - a (q \mu + p \alpha')

    If x has mean :math:`\mu` and variance :math:`\nu`, so has y. It is meant for networks of SELU, whose activations
    have mean 0 and variance 1, the defaults.

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        Input; not modified unless it is also `out`.
    p : float
        Probability of dropping an element, from 0 to 1. It is rounded to a multiple of 2**-32, and a and b are those of
        the rounded value.
    mean : float, default 0.0
        :math:`\mu`, the mean of `x`.
    var : float, default 1.0
        :math:`\nu`, the variance of `x`; positive.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element. ``(2, 3)`` on (N, C, H, W) drops whole channels.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the mask comes from; a `MaskStream` moves on by one call. The mask is that of `dropout` with the same key,
        call and `p`.
    mask : ndarray of bool, shape of `x` with 1 on the shared axes, optional
        A mask to use instead of a drawn one; True = kept. Not copied, and needed again in backward.
    sample_ids : ndarray of integers, shape (N,), optional
        An id for each sample along axis 0 of `x`: see `dropout`.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`.
    return_mask : bool, default False
        Whether to return the mask as a third item.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : DropoutContext
        For `alpha_dropout_backward`. Its scale is a.
    mask : ndarray of bool, shape of `x` with 1 on the shared axes
        Only with ``return_mask=True``; True = kept.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    alpha_dropout_backward : gradient with respect to `x`.

    Notes
    -----
    What is dropped is set to the constant :math:`a \alpha' + b`: a NaN or infinity there disappears. a, b and that
    constant are computed in float64, as is each element, which is then rounded once (twice if it has 16 bits: to
    float32 first). A p of 0 leaves every bit as it is, unless there is a `mask`.

    With p = 1 the variance cannot stay. The constant tends to the mean as p tends to 1, so all elements are the mean
    then, whatever `mask` says, and all gradients +0. PyTorch has 0 there, which is its mean.

    The paper has mean 0 and variance 1. The general formulas follow from the mean :math:`q \mu + p \alpha'` and
    variance :math:`q \nu + p q (\alpha' - \mu)^2` of what is in brackets above.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017,
       section "New dropout technique".

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.random.default_rng(0).normal(size=100_000)
    >>> y, context, mask = functional.alpha_dropout(x, 0.1, rng=1, return_mask=True)
    >>> bool(abs(y.mean()) < 0.01 and abs(y.var() - 1) < 0.02)
    True
    >>> np.unique(y[~mask]).size
    1
    """
    x = _checks.array(x, "x")
    threshold, scale, affine = law_of(_checks.probability(p), mean_of(mean), var_of(var))
    numbers = (lambda _: (threshold if x.size else 0, scale, None)), affine if threshold or mask is not None else None
    return forward(x, numbers, shared_axes, rng, mask, sample_ids, out, return_mask)


def alpha_dropout_backward(dy: Array, context: DropoutContext, *, out: Array | None = None) -> Array:
    r"""Gradient of alpha dropout with respect to `x`: :math:`dx_i = a\, m_i\, dy_i`, +0 where dropped.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : DropoutContext
        What the forward pass returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017,
       section "New dropout technique".

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context, mask = functional.alpha_dropout(np.ones(8), 0.5, rng=1, return_mask=True)
    >>> dx = functional.alpha_dropout_backward(np.ones(8), context)
    >>> bool(np.all(dx == context.scale * mask))
    True
    """
    if not isinstance(context, DropoutContext):
        raise TypeError(f"context must be what alpha_dropout() returned; got {_checks.kind(context)}")
    return dropout_backward(dy, context, out=out)
