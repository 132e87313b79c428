"""The reference of batch norm."""

from __future__ import annotations

import numpy as np

from normdrop import _exact
from normdrop._reference.rounding import Array, Integers, Vectors, column, rounded, wide


def moments(statistics: Vectors, x: Array) -> None:
    """Mean and biased variance of each channel, from float64 sums of values shifted by the channel's first."""
    shift = wide(x[:1, :, :1])
    shifted = wide(x) - shift
    offset = shifted.mean(axis=(0, 2), keepdims=True)
    statistics[0] = (shift + offset)[0, :, 0]
    statistics[1] = np.square(shifted - offset).mean(axis=(0, 2))


def exact_sums(sums: Integers, x: Array) -> None:
    """Set sums[c] = limbs of sum(x), those of sum(x * x), counts of NaN, +inf, -inf, as `normdrop._exact` lays out."""
    unit, n, n_squares = _exact.grid_of(x.dtype)
    for c, values in enumerate(wide(x).swapaxes(0, 1)):
        finite = [value.as_integer_ratio() for value in values[np.isfinite(values)].tolist()]
        s = sum((a << unit) // b for a, b in finite)  # b is a power of two, and divides
        t = sum((a * a << 2 * unit) // (b * b) for a, b in finite)
        sums[c, :-3] = _exact.limbs(s, n) + _exact.limbs(t, n_squares)
        sums[c, -3:] = [np.count_nonzero(kind) for kind in (np.isnan(values), values == np.inf, values == -np.inf)]


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """Set y = (x - mean) * scale + shift per channel in float64, rounded; vectors = [mean, scale, shift]."""
    mean, scale, shift = vectors[:3]
    y[...] = rounded((wide(x) - column(mean)) * column(scale) + column(shift), y.dtype)


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Fill the statistics from the batch, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    moments(statistics, x)
    statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
    normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]))


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """Fill in vectors = [mean, gamma / sqrt(var + eps), beta, 1 / sqrt(var + eps)]."""
    inv_std = 1.0 / np.sqrt(var + eps)
    vectors[...] = mean, gamma * inv_std, beta, inv_std


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """Set dgamma = sum dy * (x - mean) * inv_std and dbeta = sum dy per channel."""
    sums[0] = (wide(dy) * (wide(x) - column(statistics[0]))).sum(axis=(0, 2)) * statistics[2]
    sums[1] = wide(dy).sum(axis=(0, 2))


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """Fill dgamma and dbeta, and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values per channel."""
    parameter_gradients(sums, dy, x, statistics)
    mean, _, inv_std = statistics
    n = x.shape[0] * x.shape[2]
    residual = wide(dy) - column(sums[1] / n) - (wide(x) - column(mean)) * column(inv_std * sums[0] / n)
    dx[...] = rounded(residual * column(gamma * inv_std), dx.dtype)


def input_gradient(dx: Array, dy: Array, x: Array, vectors: Vectors) -> None:
    """Set dx = (dy - mean_dy - (x - mean) * slope) * scale per channel; vectors = [mean, mean_dy, slope, scale]."""
    mean, mean_dy, slope, scale = map(column, vectors)
    dx[...] = rounded((wide(dy) - mean_dy - (wide(x) - mean) * slope) * scale, dx.dtype)


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """Set running = momentum * running + (1 - momentum) * batch, the variance times `correction`.

    What has no weight counts not even as a NaN.
    """
    new = 1.0 - momentum
    for running, batch in ((mean, new * statistics[0]), (var, new * correction * statistics[1])):
        if momentum < 1.0:
            running[...] = batch + momentum * running if momentum > 0.0 else batch
