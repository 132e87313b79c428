"""The reference of fused passes."""

from __future__ import annotations

import numpy as np

from normdrop._activations import ACTIVATIONS
from normdrop._reference.masks import apply_mask, dropout
from normdrop._reference.normalization import batch_norm, batch_norm_backward, normalize
from normdrop._reference.rounding import Array, Vectors, rounded, wide
from normdrop._steps import Steps


def _drop(values: Array, steps: Steps) -> Array:
    """Dropout by the steps' mask."""
    y = values.copy()
    if steps.mask is not None:
        n_shared, length = steps.fold
        folded = values.reshape(-1, n_shared, length)
        apply_mask(y.reshape(folded.shape), folded, steps.mask.reshape(-1, length), steps.scale)
    elif steps.threshold > 0:
        dropout(y.reshape(-1), values.reshape(-1), steps.key, steps.call, steps.threshold, steps.scale)
    return y


def _plus(values: Array, residual: Array | None) -> Array:
    return values if residual is None else rounded(wide(values) + wide(residual), values.dtype)


def _activated(u: Array, steps: Steps) -> Array:
    with np.errstate(all="ignore"):
        return rounded(ACTIVATIONS[steps.activation].value(wide(u), np.float64(steps.parameter)), u.dtype)


def _gradient(dy: Array, u: Array, steps: Steps) -> Array:
    with np.errstate(all="ignore"):
        slope = ACTIVATIONS[steps.activation].derivative(wide(u), np.float64(steps.parameter))
        gone = (slope == 0) | (_drop(np.ones_like(dy), steps) == 0)  # selected to +0: 0 * slope may be -0 or NaN
        return rounded(np.where(gone, 0.0, wide(_drop(dy, steps)) * slope), u.dtype)


def batch_norm_act(
    y: Array,
    inputs: tuple[Array, Array | None],
    statistics: Vectors,
    affine: tuple[Array, Array],
    eps: float,
    steps: Steps,
) -> None:
    """Fill the statistics, and y = dropout(activation(batch norm of x + residual)); inputs = (x, residual)."""
    x, residual = inputs
    u = np.empty_like(x)
    batch_norm(u, x, statistics, *affine, eps)
    y[...] = _drop(_activated(_plus(u, residual), steps), steps)


def normalize_act(y: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Set y = dropout(activation((x - mean) * scale + shift + residual)); vectors = [mean, scale, shift]."""
    u = np.empty_like(y)
    normalize(u, inputs[0], vectors)
    y[...] = _drop(_activated(_plus(u, inputs[1]), steps), steps)


def act_gradient(du: Array, dy: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Set du = gradient of what the activation takes in `normalize_act`; +0 where dropped or the derivative is 0."""
    u = np.empty_like(du)
    normalize(u, inputs[0], vectors)
    du[...] = _gradient(dy, _plus(u, inputs[1]), steps)


def batch_norm_act_backward(
    results: tuple[Array, Array],
    inputs: tuple[Array, Array, Array | None],
    sums: Vectors,
    statistics: Vectors,
    affine: tuple[Array, Array],
    steps: Steps,
) -> None:
    """Fill results = (dx, du), du as of `act_gradient`, and sums = [dgamma, dbeta]; inputs = (dy, x, residual).

    du may be dx.
    """
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    vectors = np.stack([statistics[0], wide(gamma) * statistics[2], beta])
    act_gradient(du, dy, (x, residual), vectors, steps)
    batch_norm_backward(dx, du, x, sums, statistics, gamma)


def act_dropout(y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """Set y = dropout(activation(x)) + residual, flat; inputs = (x, residual)."""
    y[...] = _plus(_drop(_activated(inputs[0], steps), steps), inputs[1])


def act_dropout_backward(dx: Array, dy: Array, x: Array, steps: Steps) -> None:
    """Set dx = gradient of `act_dropout`, flat; +0 where dropped or the activation's derivative is 0."""
    dx[...] = _gradient(dy, x, steps)
