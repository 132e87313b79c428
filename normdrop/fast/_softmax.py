"""Moments through softmax, and the cross-entropy of a classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normdrop import _advice
from normdrop.fast._logits import Tilted, pieces, tilted
from normdrop.fast._moments import Array, Gradients, Moments, Vector, Wide, context_of, gradients, rounded, widened


class SoftmaxContext(NamedTuple):
    """What `softmax_backward` needs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> _, context = fast.softmax(fast.Moments(np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]])))
    >>> context.expected.round(3)
    array([[0.775, 0.225]])
    """

    mean: Vector
    """Means of the logits, in float64."""
    var: Vector
    """Their variances."""
    expected: Vector
    """Expected probabilities."""
    dtype: np.dtype[Any]
    """Dtype of the logits."""


def _logits(moments: Moments) -> Wide:
    x = widened(moments)
    if x.mean.ndim != 2 or x.mean.shape[1] < 1:
        raise ValueError(f"moments must have shape (N, K), one column per class; got {x.mean.shape}")
    return x


def softmax(moments: Moments) -> tuple[Moments, SoftmaxContext]:
    r"""Find the moments of the class probabilities of independent normal logits z.

    .. math:: E_k = \mathbb{E} \frac{e^{z_k}}{\sum_j e^{z_j}}

    Parameters
    ----------
    moments : Moments, shape (N, K)
        Of the logits of K classes.

    Returns
    -------
    moments : Moments
        Of the probabilities; shape and dtype of the logits'. The means of a row have the sum 1.
    context : SoftmaxContext
        For `softmax_backward`.

    Raises
    ------
    TypeError, ValueError
        `moments` is of the wrong type, dtype or shape.

    Notes
    -----
    By quadrature in one variable for any number of classes, without sampling. Means and variances have an absolute
    error of at most 1e-5. Where a logit has a standard deviation of more than 64, those of its row are scaled down to
    that, so that the time has a bound.

    References
    ----------
    .. [1] S. Wang and C. Manning, "Fast dropout training", ICML 2013, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments, context = fast.softmax(fast.Moments(np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]])))
    >>> moments.mean.round(3).tolist()  # softmax of the means: 0.881, 0.119
    [[0.775, 0.225]]
    """
    x = _logits(moments)
    expected, second = np.empty_like(x.mean), np.empty_like(x.mean)
    for logits in pieces(x.mean, x.spread):
        values = tilted(logits.mean, logits.var, 2, x.dtype)
        first, known = values.power(1), logits.scale * 0.0
        expected[logits.rows] = first / first.sum(axis=1, keepdims=True) + known
        second[logits.rows] = values.power(2) + known
    if x.var is None:
        second = expected * expected
    context = SoftmaxContext(x.mean, x.spread, expected, x.dtype)
    return rounded(expected.copy(), second - expected * expected, x.dtype), context


def softmax_backward(d_mean: Array | None, d_var: Array | None, context: SoftmaxContext) -> Gradients:
    r"""Find the gradients of `softmax`.

    With :math:`p_k` the probabilities for given logits, for example

    .. math:: \frac{\partial E_k}{\partial m_j} = \mathbb{E}[p_k (\delta_{kj} - p_j)], \qquad
       \frac{\partial E_k}{\partial v_j} = \tfrac12 \mathbb{E}[p_k (\delta_{kj} - p_j)^2 - p_k p_j (1 - p_j)]

    Parameters
    ----------
    d_mean, d_var : ndarray, shape (N, K), or None
        Gradient with respect to the means and variances of the probabilities; ``None`` is 0.
    context : SoftmaxContext
        What `softmax` returned.

    Returns
    -------
    Gradients
        With respect to the means and the variances of the logits, in their dtype.

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
    >>> _, context = fast.softmax(fast.Moments(np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]])))
    >>> fast.softmax_backward(np.array([[1.0, 0.0]]), None, context).mean.round(3).tolist()
    [[0.112, -0.112]]
    """
    context_of(context, SoftmaxContext, "softmax")
    dm, dv = gradients(d_mean, d_var, context.mean.shape)
    d_input, d_input_var = np.empty_like(context.mean), np.empty_like(context.mean)
    for logits in pieces(context.mean, context.var):
        rows = logits.rows
        by_mean, by_var = _gradients_of(
            tilted(logits.mean, logits.var, 4, context.dtype), context.expected[rows], dm[rows], dv[rows]
        )
        d_input[rows], d_input_var[rows] = by_mean / logits.scale, by_var / logits.scale**2
    return Gradients(d_input.astype(context.dtype, copy=False), d_input_var.astype(context.dtype, copy=False))


def _gradients_of(values: Tilted, expected: Vector, dm: Vector, dv: Vector) -> tuple[Vector, Vector]:
    first, second, third = (values.power(r) for r in (1, 2, 3))
    pair = values.pair(1, 1)
    # Each is the sum over k of a matrix (k, j): its diagonal, and the rest.
    square = dm - 2.0 * expected * dv  # of the expectations, those within the variances too

    def total(d: Vector, matrix: Vector) -> Vector:
        return (d[:, np.newaxis] @ matrix)[:, 0]

    by_mean = square * first - total(square, pair) + 2.0 * (dv * second - total(dv, values.pair(2, 1)))
    by_var = 0.5 * (square * (first - 2.0 * second) - total(square, pair)) + total(square, values.pair(1, 2))
    by_var += dv * (2.0 * second - 4.0 * third) + total(dv, 3.0 * values.pair(2, 2) - values.pair(2, 1))
    return by_mean, by_var


def cross_entropy(moments: Moments, labels: Array) -> tuple[float, Gradients]:
    r"""Find the expected cross-entropy of independent normal logits z, and its gradients.

    .. math:: L = \frac1N \sum_n \mathbb{E} \log \sum_k e^{z_{nk}} - m_{n y_n}, \qquad
       \frac{\partial L}{\partial m_k} = \frac{\mathbb{E} p_k - \delta_{k y}}{N}, \qquad
       \frac{\partial L}{\partial v_k} = \frac{\mathbb{E} p_k (1 - p_k)}{2 N}

    It is the mean over all dropout masks of the loss that ordinary dropout training draws one of at a time.

    Parameters
    ----------
    moments : Moments, shape (N, K)
        Of the logits of K classes.
    labels : ndarray of int, shape (N,)
        The right class of each row, from 0 to K - 1.

    Returns
    -------
    loss : float
        The mean over the rows.
    gradients : Gradients
        Of the loss with respect to the means and the variances of the logits, in their dtype.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype or shape.

    Notes
    -----
    By the quadrature of `softmax`, with absolute errors of at most 1e-5 up to standard deviations of 64.

    References
    ----------
    .. [1] S. Wang and C. Manning, "Fast dropout training", ICML 2013, sections 2 and 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> logits = fast.Moments(np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]]))
    >>> loss, gradients = fast.cross_entropy(logits, np.array([0]))
    >>> round(loss, 3), gradients.mean.round(3).tolist()
    (0.356, [[-0.225, 0.225]])
    """
    x = _logits(moments)
    _check_labels(labels, x.mean.shape)
    d_input, d_input_var, losses = np.empty_like(x.mean), np.empty_like(x.mean), np.empty(len(x.mean))
    for logits in pieces(x.mean, x.spread):
        values, rows, scale = tilted(logits.mean, logits.var, 2, x.dtype), logits.rows, logits.scale
        first = values.power(1)
        total = first.sum(axis=1, keepdims=True)
        d_input[rows] = first / total + scale * 0.0
        d_input_var[rows] = 0.5 * (d_input[rows] - values.power(2)) / scale
        # log S is less than the -log t of P(T > t) = E exp(-t S) by Euler's constant, in the mean.
        density = values.product * values.ratios[0].sum(axis=1)
        losses[rows] = scale[:, 0] * (-np.euler_gamma - (density * values.u).sum(axis=1) / total[:, 0])
    each = np.arange(len(labels))
    losses -= x.mean[each, labels]
    d_input[each, labels] -= 1.0
    n = max(1, len(labels))
    gradient = Gradients((d_input / n).astype(x.dtype), (d_input_var / n).astype(x.dtype))
    return float(losses.sum()) / n, gradient


def _check_labels(labels: object, shape: tuple[int, ...]) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        got = labels.dtype if isinstance(labels, np.ndarray) else _advice.kind(labels)
        raise TypeError(f"labels must be a NumPy array of integers; got {got}. Use np.asarray(labels, int).")
    if labels.shape != shape[:1]:
        raise ValueError(f"labels must have shape {shape[:1]}, one class per row of moments; got {labels.shape}")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < shape[1]:
        raise ValueError(f"labels must be from 0 to {shape[1] - 1}; got {labels.min()} to {labels.max()}")
