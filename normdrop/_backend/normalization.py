"""Contracts of the launchers of batch norm."""

from __future__ import annotations

from normdrop import _exact
from normdrop._backend import contracts
from normdrop._backend.contracts import (
    FLOAT32,
    FLOAT64,
    INT64,
    Array,
    Integers,
    Vectors,
    batch,
    input_,
    parameter,
    result,
)


def moments(statistics: Vectors, x: Array) -> None:
    """Mean and biased variance of each channel."""
    batch(x)
    result("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    contracts.select(x).moments(statistics, x)


def exact_sums(sums: Integers, x: Array) -> None:
    """Sums of values and squares of each channel, without rounding."""
    batch(x)
    result("sums", sums, (x.shape[1], _exact.grid_of(x.dtype).n_columns), INT64, x)
    contracts.select(x).exact_sums(sums, x)


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """y = (x - mean) * scale + shift."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), FLOAT64, x)
    contracts.select(x).normalize(y, x, vectors)


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Statistics of the batch, and y = gamma * (x - mean) * inv_std + beta."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    result("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    input_("beta", beta, gamma.shape, gamma.dtype, x)
    contracts.select(x).batch_norm(y, x, statistics, gamma, beta, eps)


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """vectors = [mean, gamma * inv_std, beta, inv_std]."""
    n_channels = vectors.shape[-1]
    result("vectors", vectors, (4, n_channels), FLOAT64, vectors)
    input_("mean", mean, (n_channels,), FLOAT64, vectors)
    input_("var", var, (n_channels,), FLOAT64, vectors)
    input_("gamma", gamma, (n_channels,), FLOAT64 if gamma.dtype != FLOAT32 else FLOAT32, vectors)
    input_("beta", beta, (n_channels,), gamma.dtype, vectors)
    contracts.select(vectors).inference_vectors(vectors, mean, var, gamma, beta, eps)


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """sums = [dgamma, dbeta]."""
    batch(x)
    result("sums", sums, (2, x.shape[1]), FLOAT64, x)
    input_("dy", dy, x.shape, x.dtype, x)
    input_("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    contracts.select(x).parameter_gradients(sums, dy, x, statistics)


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """sums = [dgamma, dbeta], and dx."""
    batch(x)
    result("dx", dx, x.shape, x.dtype, x)
    input_("dy", dy, x.shape, x.dtype, x)
    result("sums", sums, (2, x.shape[1]), FLOAT64, x)
    input_("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    contracts.select(x).batch_norm_backward(dx, dy, x, sums, statistics, gamma)


def input_gradient(dx: Array, dy: Array, x: Array, vectors: Vectors) -> None:
    """dx by given sums."""
    batch(x)
    result("dx", dx, x.shape, x.dtype, x)
    input_("dy", dy, x.shape, x.dtype, x)
    input_("vectors", vectors, (4, x.shape[1]), FLOAT64, x)
    contracts.select(x).input_gradient(dx, dy, x, vectors)


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """running = momentum * running + (1 - momentum) * batch."""
    result("running_mean", mean, (mean.size,), FLOAT64, mean)
    result("running_var", var, mean.shape, FLOAT64, mean)
    input_("statistics", statistics, (3, mean.size), FLOAT64, mean)
    contracts.select(mean).update_running(mean, var, statistics, momentum, correction)
