"""Moments through dropout and a linear map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normdrop import _checks
from normdrop.fast._moments import Array, Moments, Vector, array, context_of, gradients, rounded, widened
from normdrop.functional._masking import keep_prob_of, threshold_of


class LinearContext(NamedTuple):
    """What `linear_backward` needs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> weight = np.array([[3.0], [1.0]])
    >>> _, context = fast.linear(fast.Moments(np.ones((4, 2))), weight, p=0.5)
    >>> context.mean.shape, context.var is None, context.keep_prob
    ((4, 2), True, 0.5)
    """

    mean: Vector
    """Means of the input, in float64."""
    var: Vector | None
    """Its variances, or None."""
    weight: Array
    """The weights, which must not be changed before backward."""
    has_bias: bool
    """Whether there was a bias."""
    keep_prob: float
    """Probability of keeping an input, as the mask law rounds it."""
    dtype: np.dtype[Any]
    """Dtype of the input."""


class LinearGradients(NamedTuple):
    """Gradients of a linear map with dropout on its inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0], [1.0]])
    >>> _, context = fast.linear(fast.Moments(x), weight, p=0.5)
    >>> gradients = fast.linear_backward(np.ones((1, 1)), None, context)
    >>> gradients.weight.tolist(), gradients.bias is None
    ([[1.0], [2.0]], True)
    """

    mean: Array
    """With respect to the means of the input, shape (N, D)."""
    var: Array | None
    """With respect to its variances, shape (N, D); None where the input had none."""
    weight: Array
    """With respect to the weights, shape and dtype of theirs."""
    bias: Array | None
    """With respect to the bias; None where there was none."""
    p: float
    """With respect to the dropout probability."""


def linear(
    moments: Moments, weight: Array, bias: Array | None = None, *, p: float = 0.0
) -> tuple[Moments, LinearContext]:
    r"""Find the moments of x · weight + bias under dropout on x; exact for independent x.

    .. math:: E_k = \sum_d w_{dk} m_d + b_k, \qquad
       \mathrm{Var}_k = \sum_d w_{dk}^2 \, \frac{v_d + p \, m_d^2}{1 - p}

    with the inverted scaling: kept inputs are divided by :math:`1 - p`.

    Parameters
    ----------
    moments : Moments, shape (N, D)
        Of x; without variances, x itself. Not modified, and needed no more after the pass.
    weight : ndarray of float32 or float64, shape (D, K)
        Weights. Kept in the context by reference: they must not change before backward.
    bias : ndarray of float32 or float64, shape (K,), optional
        Added.
    p : float, default 0.0
        Probability of dropping each x, from 0 to 1, rounded to a multiple of 2**-32 as `normdrop.functional.dropout`
        rounds it. With 1, everything is dropped.

    Returns
    -------
    moments : Moments, shape (N, K)
        Of the result, in the dtype of the input.
    context : LinearContext
        For `linear_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    Notes
    -----
    Results for different k are dependent, as they come from the same x; later passes take them for independent.

    References
    ----------
    .. [1] S. Wang and C. Manning, "Fast dropout training", ICML 2013, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0], [1.0]])
    >>> moments, context = fast.linear(fast.Moments(x), weight, p=0.5)
    >>> moments.mean.tolist(), moments.var.tolist()  # of 0, 4, 6 and 10
    ([[5.0]], [[13.0]])
    """
    x = widened(moments)
    weight = array(weight, "weight")
    if x.mean.ndim != 2 or weight.ndim != 2 or x.mean.shape[1] != len(weight):
        raise ValueError(
            f"weight must have shape (D, K) and moments (N, D); got weight {weight.shape} and moments {x.mean.shape}"
        )
    keep_prob = keep_prob_of(threshold_of(_checks.probability(p)))
    wide = weight.astype(np.float64, copy=False)
    if keep_prob == 0.0:
        mean = var = np.zeros((len(x.mean), wide.shape[1]))
    else:
        mean, var = x.mean @ wide, _noise(x.mean, x.var, keep_prob) @ (wide * wide)
    if bias is not None:
        bias = array(bias, "bias")
        if bias.shape != mean.shape[1:]:
            raise ValueError(f"bias must have shape {mean.shape[1:]}, one value per column of weight; got {bias.shape}")
        mean = mean + bias
    return rounded(mean, var, x.dtype), LinearContext(x.mean, x.var, weight, bias is not None, keep_prob, x.dtype)


def _noise(mean: Vector, var: Vector | None, keep_prob: float) -> Vector:
    """Variances of the inputs after dropout: a sum without cancellation."""
    noise: Vector = mean * mean * ((1.0 - keep_prob) / keep_prob)
    if var is not None:
        noise += var / keep_prob
    return noise


def linear_backward(d_mean: Array | None, d_var: Array | None, context: LinearContext) -> LinearGradients:
    r"""Find the gradients of `linear`.

    With :math:`g = d_{Var} \, (w^2)^T`, shape (N, D), and :math:`q = 1 - p`:

    .. math:: dm = d_E w^T + \frac{2 p}{q} m g, \quad dv = \frac{g}{q}, \quad
       dw = m^T d_E + 2 w \left(\tfrac{v + p m^2}{q}\right)^T d_{Var}, \quad
       dp = \sum g \, \frac{v + m^2}{q^2}

    Parameters
    ----------
    d_mean, d_var : ndarray, shape (N, K), or None
        Gradient with respect to the means and variances of the result; ``None`` is 0.
    context : LinearContext
        What `linear` returned.

    Returns
    -------
    LinearGradients
        With respect to the moments of the input, weights, bias and p. With p = 1 all but that of the bias are 0.

    Raises
    ------
    TypeError, ValueError
        `d_mean` or `d_var` does not match the forward pass.

    References
    ----------
    .. [1] S. Wang and C. Manning, "Fast dropout training", ICML 2013, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0], [1.0]])
    >>> _, context = fast.linear(fast.Moments(x), weight, p=0.5)
    >>> gradients = fast.linear_backward(None, np.ones((1, 1)), context)
    >>> gradients.mean.tolist(), gradients.p
    ([[18.0, 4.0]], 52.0)
    """
    context_of(context, LinearContext, "linear")
    mean, var, weight, has_bias, keep_prob, dtype = context
    dm, dv = gradients(d_mean, d_var, (len(mean), weight.shape[1]))
    dbias = dm.sum(axis=0).astype(weight.dtype) if has_bias else None
    if keep_prob == 0.0:
        zeros = np.zeros(mean.shape, dtype)
        return LinearGradients(zeros, None if var is None else zeros.copy(), np.zeros_like(weight), dbias, 0.0)
    wide = weight.astype(np.float64, copy=False)
    noise = _noise(mean, var, keep_prob)
    dnoise = dv @ (wide * wide).T
    dx = dm @ wide.T + dnoise * mean * (2.0 * (1.0 - keep_prob) / keep_prob)
    dweight = noise.T @ dv
    dweight *= wide
    dweight *= 2.0
    dweight += mean.T @ dm
    second = mean * mean if var is None else mean * mean + var
    dp = float(np.vdot(dnoise, second)) / keep_prob**2
    dx_var = None if var is None else (dnoise / keep_prob).astype(dtype, copy=False)
    return LinearGradients(dx.astype(dtype, copy=False), dx_var, dweight.astype(weight.dtype, copy=False), dbias, dp)
