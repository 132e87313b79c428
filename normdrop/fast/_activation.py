"""Moments through an activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from normdrop import _checks
from normdrop.fast import _rectifiers, _sigmoids
from normdrop.fast._moments import Array, Gradients, Moments, Vector, Wide, context_of, gradients, rounded, widened

_PIECE = 2048  # values at once, so that what is computed on the way stays in a cache
ACTIVATIONS = ("relu", "leaky_relu", "step", "sigmoid", "tanh")


class ActivationContext(NamedTuple):
    """What `activation_backward` needs: the derivatives, in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> _, context = fast.activation(fast.Moments(np.zeros(1), np.ones(1)), "relu")
    >>> context.mean_by_mean
    array([0.5])
    """

    mean_by_mean: Vector
    """Of the mean of the result by the mean of the input."""
    mean_by_var: Vector
    """Of the mean of the result by the variance of the input."""
    var_by_mean: Vector
    """Of the variance of the result by the mean of the input."""
    var_by_var: Vector
    """Of the variance of the result by the variance of the input."""
    dtype: np.dtype[Any]
    """Dtype of the input."""


def activation(
    moments: Moments, activation: str = "relu", *, negative_slope: float = 0.01
) -> tuple[Moments, ActivationContext]:
    r"""Find the moments of f(x) for normal x with the given moments.

    For ReLU, with r = m / √v and the standard normal distribution Φ and density φ:

    .. math:: E = m \Phi(r) + \sqrt{v} \varphi(r), \qquad
       \mathrm{Var} = (m^2 + v) \Phi(r) + m \sqrt{v} \varphi(r) - E^2

    Parameters
    ----------
    moments : Moments, any shape
        Of x; without variances, x itself. Not modified, and needed no more after the pass.
    activation : {"relu", "leaky_relu", "step", "sigmoid", "tanh"}, default "relu"
        Which; the step is 1 for x > 0, else 0.
    negative_slope : float, default 0.01
        Of the leaky ReLU for negative x, from 0 to 1.

    Returns
    -------
    moments : Moments
        Of the result; shape and dtype of the input's.
    context : ActivationContext
        For `activation_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    Notes
    -----
    ReLU, leaky ReLU and step are in closed form, with a relative error of both moments of at most 1e-12, also where one
    value in 10²⁰ is positive, before the result is rounded to its dtype. Sigmoid and tanh are by quadrature, with an
    absolute error of at most 1e-9. With a variance of 0 the result is f of the mean.

    References
    ----------
    .. [1] S. Wang and C. Manning, "Fast dropout training", ICML 2013, sections 2 and 3.
    .. [2] B. Frey and G. Hinton, "Variational learning in nonlinear Gaussian belief networks", Neural Computation 11
       (1999) 193-213 (moments of rectified normal variables).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments, context = fast.activation(fast.Moments(np.zeros(1), np.ones(1)), "relu")
    >>> moments.mean.round(4).tolist(), moments.var.round(4).tolist()  # 1 / √(2π), 1/2 - 1/(2π)
    ([0.3989], [0.3408])
    """
    x = widened(moments)
    name = _checks.choice(activation, "activation", ACTIVATIONS)
    if name in ("relu", "leaky_relu"):
        slope = _checks.real(negative_slope, "negative_slope", "from 0 to 1") if name == "leaky_relu" else 0.0
        if not 0.0 <= slope <= 1.0:
            raise ValueError(f"negative_slope must be from 0 to 1; got {negative_slope!r}")
        curve = _by_pieces(partial(_rectifiers.leaky_relu, slope=slope), x)
    else:
        curve = _by_pieces({"step": _rectifiers.step, "sigmoid": _sigmoids.sigmoid, "tanh": _sigmoids.tanh}[name], x)
    return rounded(curve.mean, curve.var, x.dtype), ActivationContext(*curve[2:], x.dtype)


def _by_pieces(function: Callable[[Vector, Vector], _rectifiers.Curve], x: Wide) -> _rectifiers.Curve:
    mean, var = x.mean.ravel(), x.spread.ravel()
    rows: Vector = np.empty((6, mean.size))
    for start in range(0, mean.size, _PIECE):
        piece = np.s_[start : start + _PIECE]
        rows[:, piece] = function(mean[piece], var[piece])
    return _rectifiers.Curve(*rows.reshape(6, *x.mean.shape))


def activation_backward(d_mean: Array | None, d_var: Array | None, context: ActivationContext) -> Gradients:
    r"""Find the gradients of `activation`.

    .. math:: dm = d_E \frac{\partial E}{\partial m} + d_{Var} \frac{\partial \mathrm{Var}}{\partial m}, \qquad
       dv = d_E \frac{\partial E}{\partial v} + d_{Var} \frac{\partial \mathrm{Var}}{\partial v}

    Parameters
    ----------
    d_mean, d_var : ndarray, shape of the result, or None
        Gradient with respect to its means and variances; ``None`` is 0.
    context : ActivationContext
        What `activation` returned.

    Returns
    -------
    Gradients
        With respect to the means and the variances of the input, in its dtype. At a variance of 0 they are
        the limits, except at a kink or step: there derivatives by the mean are those of f at its left, and the infinite
        ones by the variance are 0.

    Raises
    ------
    TypeError, ValueError
        `d_mean` or `d_var` does not match the forward pass.

    References
    ----------
    .. [1] R. Price, "A useful theorem for nonlinear devices having Gaussian inputs", IRE Transactions on Information
       Theory 4 (1958) 69-72: ∂E f / ∂v = E f'' / 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> _, context = fast.activation(fast.Moments(np.zeros(1), np.ones(1)), "relu")
    >>> gradients = fast.activation_backward(np.ones(1), None, context)
    >>> gradients.mean.tolist(), gradients.var.round(4).tolist()
    ([0.5], [0.1995])
    """
    context_of(context, ActivationContext, "activation")
    mean_by_mean, mean_by_var, var_by_mean, var_by_var, dtype = context
    dm, dv = gradients(d_mean, d_var, mean_by_mean.shape)
    d_input = dm * mean_by_mean + dv * var_by_mean
    d_input_var = dm * mean_by_var + dv * var_by_var
    return Gradients(d_input.astype(dtype, copy=False), d_input_var.astype(dtype, copy=False))
