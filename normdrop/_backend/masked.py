"""Contracts of the launchers of batch norm where not all positions count."""

from __future__ import annotations

from normdrop import _device
from normdrop._backend import contracts
from normdrop._backend.contracts import BOOL, FLOAT32, FLOAT64, Array, Vectors, batch, input_, parameter, result
from normdrop._positions import OTHERS, SPARE, Positions


def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Mean and biased variance of each channel over what counts."""
    batch(x)
    result("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    _counted(positions, x)
    contracts.select(x).masked_moments(statistics, x, positions)


def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """y = (x - mean) * scale + shift where it counts."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), FLOAT64, x)
    _counted(positions, x)
    contracts.select(x).masked_normalize(y, x, vectors, positions)


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Statistics of what counts, and y."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    result("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    input_("beta", beta, gamma.shape, gamma.dtype, x)
    _counted(positions, x)
    contracts.select(x).masked_batch_norm(y, x, statistics, gamma, beta, eps, positions)


def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """sums = [dgamma, dbeta] over what is normalized."""
    batch(x)
    input_("dy", dy, x.shape, x.dtype, x)
    result("sums", sums, (2, x.shape[1]), FLOAT64, x)
    input_("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    _counted(positions, x)
    contracts.select(x).masked_parameter_gradients(sums, dy, x, statistics, positions)


def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Sums over what is normalized, and dx."""
    batch(x)
    result("dx", dx, x.shape, x.dtype, x)
    input_("dy", dy, x.shape, x.dtype, x)
    result("sums", sums, (2, x.shape[1]), FLOAT64, x)
    input_("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    _counted(positions, x)
    contracts.select(x).masked_batch_norm_backward(dx, dy, x, sums, statistics, gamma, positions)


def _counted(positions: Positions, x: Array) -> None:
    """Check which positions count: some do, on the host at least."""
    mask, weights, _, first, total, others = positions
    places = (x.shape[0] * x.shape[2] + SPARE,)
    input_("context.positions.mask", mask, places, BOOL, x)
    input_("context.positions.weights", weights, places if weights.size else (0,), FLOAT32, x)
    if (
        not 0 <= first < mask.size - SPARE
        or others not in OTHERS
        or not total > 0.0
        or (_device.on_host(mask) and not mask[:-SPARE].any())
    ):
        raise ValueError(
            f"context.positions do not fit the pass: some must count, with a positive total, and others be one of "
            f"{', '.join(OTHERS)}; got {total} and {others!r}. Pass the context as the forward pass returned it."
        )
