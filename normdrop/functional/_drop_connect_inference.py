"""DropConnect in inference: a dense layer with the mean of its dropped connections."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from normdrop import _checks
from normdrop._connections import Connections
from normdrop.functional._dense_layer import arguments
from normdrop.functional._drop_connect import DropConnectContext, forward
from normdrop.functional._masking import ALL_DROPPED, SCALINGS, Scaling, keep_prob_of, threshold_of

Array: TypeAlias = npt.NDArray[Any]


def drop_connect_inference(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    p: float,
    scaling: Scaling = "inverted",
    out: Array | None = None,
) -> tuple[Array, DropConnectContext]:
    r"""Apply the dense layer with all connections: the mean of `drop_connect` over all masks.

    :math:`y = x W^T + b` with ``scaling="inverted"``, :math:`y = (1 - p) x W^T + b` with ``scaling="original"``.

    Parameters
    ----------
    x : ndarray of floats, shape (N, in)
        Input.
    weight : ndarray, shape (out, in), dtype of `x`
        Weights.
    bias : ndarray, shape (out,), dtype of `x`, optional
        Added.
    p : float
        Probability of dropping a connection in training.
    scaling : {"inverted", "original"}, default "inverted"
        As in training.
    out : ndarray, shape (N, out), dtype of `x`, optional
        As in training.

    Returns
    -------
    y : ndarray, shape (N, out), dtype of `x`
        In C order, or `out`.
    context : DropConnectContext
        For `drop_connect_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    See Also
    --------
    normdrop.fast.linear : the variance over all masks, too.

    Notes
    -----
    The paper does not stop at the mean: it takes each sum for normally distributed, with the mean above and, for
    inverted scaling, the variance :math:`\frac{p}{1 - p} \sum_i w_{oi}^2 x_{ni}^2`, and averages the activation over
    samples of that. ``fast.linear(fast.Moments(x), weight.T, bias, p=p)`` gives both, and `normdrop.fast.activation`
    the average without sampling. For dropped connections give each sum the mean and variance that dropped inputs give
    it; besides, for a given x, the sums are then independent of each other, as `normdrop.fast` takes them to be.

    References
    ----------
    .. [1] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of neural networks using DropConnect",
       ICML 2013, section 3.2 (inference).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast, functional
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])
    >>> functional.drop_connect_inference(x, weight, p=0.5)[0].tolist()
    [[5.0]]
    >>> moments, _ = fast.linear(fast.Moments(x), weight.T, p=0.5)
    >>> moments.mean.tolist(), moments.var.tolist()  # of 0, 4, 6 and 10
    ([[5.0]], [[13.0]])
    """
    made = arguments(x, weight, bias, out)
    keep_prob = keep_prob_of(threshold_of(_checks.probability(p)))
    original = _checks.choice(scaling, "scaling", SCALINGS) == "original"
    threshold = ALL_DROPPED if original and keep_prob == 0.0 else 0
    return forward(made, Connections((0, 0), 0, threshold, keep_prob if original else 1.0, True))
