"""Contracts of the launchers of fused passes."""

from __future__ import annotations

from normdrop._activations import ACTIVATIONS
from normdrop._backend import contracts
from normdrop._backend.contracts import BOOL, FLOAT64, Array, Vectors, batch, input_, law, parameter, result
from normdrop._steps import Steps


def batch_norm_act(
    y: Array,
    inputs: tuple[Array, Array | None],
    statistics: Vectors,
    affine: tuple[Array, Array],
    eps: float,
    steps: Steps,
) -> None:
    """Statistics of the batch, and y = dropout(activation(batch norm of x + residual))."""
    x, gamma, beta = inputs[0], *affine
    batch(x)
    _fused("y", y, inputs, steps)
    result("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    input_("beta", beta, gamma.shape, gamma.dtype, x)
    contracts.select(x).batch_norm_act(y, inputs, statistics, affine, eps, steps)


def normalize_act(y: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """y = dropout(activation((x - mean) * scale + shift + residual))."""
    x = inputs[0]
    batch(x)
    _fused("y", y, inputs, steps)
    input_("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), FLOAT64, x)
    contracts.select(x).normalize_act(y, inputs, vectors, steps)


def act_gradient(du: Array, dy: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Gradient of what the activation takes in `normalize_act`."""
    x = inputs[0]
    batch(x)
    _fused("du", du, inputs, steps)
    input_("dy", dy, x.shape, x.dtype, x)
    input_("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), FLOAT64, x)
    contracts.select(x).act_gradient(du, dy, inputs, vectors, steps)


def batch_norm_act_backward(
    results: tuple[Array, Array],
    inputs: tuple[Array, Array, Array | None],
    sums: Vectors,
    statistics: Vectors,
    affine: tuple[Array, Array],
    steps: Steps,
) -> None:
    """Results = (dx, du), and sums = [dgamma, dbeta]; inputs = (dy, x, residual)."""
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    batch(x)
    _fused("dx", dx, (x, residual), steps)
    result("du", du, x.shape, x.dtype, x)
    input_("dy", dy, x.shape, x.dtype, x)
    result("sums", sums, (2, x.shape[1]), FLOAT64, x)
    input_("statistics", statistics, (3, x.shape[1]), FLOAT64, x)
    parameter("gamma", gamma, x)
    input_("beta", beta, gamma.shape, gamma.dtype, x)
    contracts.select(x).batch_norm_act_backward(results, inputs, sums, statistics, affine, steps)


def act_dropout(y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """y = dropout(activation(x)) + residual, flat."""
    x = inputs[0]
    input_("x", x, (x.size,), x.dtype, x)
    _fused("y", y, inputs, steps)
    contracts.select(x).act_dropout(y, inputs, steps)


def act_dropout_backward(dx: Array, dy: Array, x: Array, steps: Steps) -> None:
    """Gradient of `act_dropout`, flat."""
    input_("x", x, (x.size,), x.dtype, x)
    _fused("dx", dx, (x, None), steps)
    input_("dy", dy, x.shape, x.dtype, x)
    contracts.select(x).act_dropout_backward(dx, dy, x, steps)


def _fused(name: str, y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """Check the result, the inputs and the steps of a fused pass."""
    x, residual = inputs
    result(name, y, x.shape, x.dtype, x)
    if residual is not None:
        input_("residual", residual, x.shape, x.dtype, x)
    if steps.activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {steps.activation!r}")
    law(steps.key, steps.call, steps.threshold)
    if steps.mask is not None:
        n_shared, length = steps.fold
        if n_shared < 1 or length < 1 or x.size % (n_shared * length):
            raise ValueError(
                f"fold must be two numbers from 1 on whose product divides the size of x, {x.size}; got {steps.fold}. "
                "Pass the context as the forward pass returned it."
            )
        input_("mask", steps.mask, (x.size // (n_shared * length), length), BOOL, x)
