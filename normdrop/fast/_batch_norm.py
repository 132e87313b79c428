"""Moments through batch normalization in inference: a linear map of each channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normdrop import _checks
from normdrop.fast._moments import Array, Moments, Vector, array, context_of, gradients, rounded, widened


class BatchNormInferenceContext(NamedTuple):
    """What `batch_norm_inference_backward` needs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments = fast.Moments(np.array([[1.0], [3.0]]))
    >>> _, context = fast.batch_norm_inference(moments, np.array([1.0]), np.array([4.0]))
    >>> context.centered.ravel(), context.has_var
    (array([0., 2.]), False)
    """

    centered: Vector
    """Means of the input less those of the channels, in float64."""
    var: Vector
    """Variances of the input."""
    scale: Vector
    """gamma / sqrt(var + eps), to be multiplied with them."""
    inv_std: Vector
    """1 / sqrt(var + eps), to be multiplied with them."""
    others: tuple[int, ...]
    """Axes that are not that of the channels."""
    has_var: bool
    """Whether the input had variances."""
    dtype: np.dtype[Any]
    """Dtype of the input."""
    parameter_dtype: np.dtype[Any]
    """Dtype of the gradients of gamma and beta."""


class BatchNormGradients(NamedTuple):
    """Gradients of batch normalization by given statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments = fast.Moments(np.array([[1.0], [3.0]]))
    >>> _, context = fast.batch_norm_inference(moments, np.array([1.0]), np.array([4.0]))
    >>> gradients = fast.batch_norm_inference_backward(np.ones((2, 1)), None, context)
    >>> gradients.beta, gradients.var is None
    (array([2.]), True)
    """

    mean: Array
    """With respect to the means of the input."""
    var: Array | None
    """With respect to its variances; None where it had none."""
    gamma: Array
    """With respect to the scales, shape (C,)."""
    beta: Array
    """With respect to the shifts, shape (C,)."""


def batch_norm_inference(
    moments: Moments,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-5,
    channel_axis: int = 1,
) -> tuple[Moments, BatchNormInferenceContext]:
    r"""Find the moments of what each channel is after normalization by given statistics, such as running ones.

    .. math:: E = s_c \, (m - \mathrm{mean}_c) + \beta_c, \qquad \mathrm{Var} = s_c^2 \, v, \qquad
       s_c = \frac{\gamma_c}{\sqrt{\mathrm{var}_c + \epsilon}}

    Parameters
    ----------
    moments : Moments, shape (N, C, ...) for ``channel_axis=1``
        Of the input.
    mean, var : ndarray of float32 or float64, shape (C,)
        Statistics of the channels, as of a layer's `running_mean` and `running_var`.
    gamma, beta : ndarray of float32 or float64, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels.

    Returns
    -------
    moments : Moments
        Of the result; shape and dtype of the input's.
    context : BatchNormInferenceContext
        For `batch_norm_inference_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments = fast.Moments(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    >>> result, context = fast.batch_norm_inference(moments, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> np.round(result.mean, 6).ravel(), np.round(result.var, 6).ravel()
    (array([0., 1.]), array([0.25, 0.5 ]))
    """
    x = widened(moments)
    axis = _checks.channel_axis(x.mean, channel_axis)
    shape = tuple(n if i == axis else 1 for i, n in enumerate(x.mean.shape))
    given = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
    vectors = {}
    for name, values in given.items():
        if values is not None or name in ("mean", "var"):
            checked = array(_checks.channels(values, name, x.mean.shape[axis], x.mean), name)
            vectors[name] = checked.astype(np.float64).reshape(shape)
    _checks.not_negative(vectors["var"], "var")
    inv_std = 1.0 / np.sqrt(vectors["var"] + _checks.eps(eps))
    scale = inv_std * vectors.get("gamma", 1.0)
    centered = x.mean - vectors["mean"]
    result = rounded(centered * scale + vectors.get("beta", 0.0), x.spread * (scale * scale), x.dtype)
    others = tuple(i for i in range(x.mean.ndim) if i != axis)
    dtype = x.dtype if gamma is None else gamma.dtype
    return result, BatchNormInferenceContext(
        centered, x.spread, scale, inv_std, others, x.var is not None, x.dtype, dtype
    )


def batch_norm_inference_backward(
    d_mean: Array | None, d_var: Array | None, context: BatchNormInferenceContext
) -> BatchNormGradients:
    r"""Find the gradients of `batch_norm_inference`.

    .. math:: dm = s_c \, d_E, \quad dv = s_c^2 \, d_{Var}, \quad
       d\gamma_c = \frac{1}{\sqrt{\mathrm{var}_c + \epsilon}} \sum (m - \mathrm{mean}_c) d_E + 2 s_c v \, d_{Var}, \quad
       d\beta_c = \sum d_E

    Parameters
    ----------
    d_mean, d_var : ndarray, shape of the result, or None
        Gradient with respect to its means and variances; ``None`` is 0.
    context : BatchNormInferenceContext
        What `batch_norm_inference` returned.

    Returns
    -------
    BatchNormGradients
        With respect to the moments of the input, gamma and beta.

    Raises
    ------
    TypeError, ValueError
        `d_mean` or `d_var` does not match the forward pass.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.1 (inference is a fixed linear map).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> moments = fast.Moments(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    >>> _, context = fast.batch_norm_inference(moments, np.array([1.0]), np.array([4.0]), eps=1e-12)
    >>> gradients = fast.batch_norm_inference_backward(np.ones((2, 1)), np.ones((2, 1)), context)
    >>> np.round(gradients.mean, 6).ravel(), np.round(gradients.var, 6).ravel(), np.round(gradients.gamma, 6)
    (array([0.5, 0.5]), array([0.25, 0.25]), array([2.5]))
    """
    context_of(context, BatchNormInferenceContext, "batch_norm_inference")
    centered, var, scale, inv_std, others, has_var, dtype, parameter_dtype = context
    dm, dv = gradients(d_mean, d_var, centered.shape)
    dx_var = (dv * (scale * scale)).astype(dtype, copy=False) if has_var else None
    dgamma = (inv_std * (centered * dm + 2.0 * scale * var * dv)).sum(axis=others)
    dbeta = dm.sum(axis=others)
    return BatchNormGradients(
        (dm * scale).astype(dtype, copy=False),
        dx_var,
        dgamma.astype(parameter_dtype, copy=False),
        dbeta.astype(parameter_dtype, copy=False),
    )
