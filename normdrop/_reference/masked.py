"""The reference of batch norm where not all positions count."""

from __future__ import annotations

import numpy as np

from normdrop._positions import SPARE, Positions
from normdrop._reference.normalization import normalize, parameter_gradients
from normdrop._reference.rounding import Array, Mask, Vectors, column, rounded, wide


def _where(x: Array, positions: Positions) -> tuple[Mask, Vectors]:
    """Where x, (outer, C, inner), counts and how often, for all channels at once."""
    shape = x.shape[0], 1, x.shape[2]
    mask = positions.mask[:-SPARE].reshape(shape)
    return mask, wide(positions.weights[:-SPARE].reshape(shape) if positions.weights.size else mask)


@np.errstate(all="ignore")
def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Mean and biased variance of each channel over what counts, by weights."""
    mask, w = _where(x, positions)
    shift = wide(x[np.nonzero(mask)[0][:1], :, np.nonzero(mask)[2][:1]])[:, :, None]
    shifted = np.where(mask, wide(x) - shift, 0)
    offset = (w * shifted).sum(axis=(0, 2), keepdims=True) / w.sum()
    statistics[0] = (shift + offset)[0, :, 0]
    statistics[1] = (w * np.square(np.where(mask, shifted - offset, 0))).sum(axis=(0, 2)) / w.sum()


@np.errstate(all="ignore")
def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """Set y as `normalize` where it counts; elsewhere y is 0, normalized or x, as `positions` say."""
    values = x.copy()
    normalize(y, values, vectors)
    if positions.others != "normalize":
        y[...] = np.where(_where(x, positions)[0], y, values if positions.others == "keep" else 0)


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Fill the statistics from what counts, and y as `masked_normalize`."""
    masked_moments(statistics, x, positions)
    statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
    masked_normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]), positions)


@np.errstate(all="ignore")
def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """Set dgamma = sum dy * (x - mean) * inv_std and dbeta = sum dy per channel, over what is normalized."""
    taken = positions.others == "normalize" or _where(x, positions)[0]
    parameter_gradients(sums, np.where(taken, dy, 0), np.where(taken, x, 0), statistics)


@np.errstate(all="ignore")
def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Fill the sums of `masked_parameter_gradients`, and dx, by the sum of all weights instead of n."""
    masked_parameter_gradients(sums, dy, x, statistics, positions)
    mask, w = _where(x, positions)
    mean, _, inv_std = statistics
    centered = np.where(mask, wide(x) - column(mean), 0)
    residual = w * (column(sums[1]) + centered * column(inv_std * sums[0])) / positions.total
    values = rounded((wide(dy) - residual) * column(gamma * inv_std), dx.dtype)
    if positions.others != "normalize":
        values = np.where(mask, values, dy if positions.others == "keep" else 0)
    dx[...] = values
