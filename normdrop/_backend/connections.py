"""Contracts of the launchers of DropConnect."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import FLOAT64, Array, Vector, input_, law, result
from normdrop._connections import Connections


def drop_connect(y: Array, x: Array, weight: Array, bias: Vector, connections: Connections) -> None:
    """y = scale * sums over kept connections + bias."""
    n_samples, n_in = _lengths(x)
    n_out, _ = _lengths(weight)
    input_("x", x, (n_samples, n_in), x.dtype, x)
    input_("weight", weight, (n_out, n_in), x.dtype, x)
    input_("bias", bias, (n_out,), FLOAT64, x)
    result("y", y, (n_samples, n_out), x.dtype, x)
    law(connections.key, connections.call, connections.threshold)
    contracts.select(x).drop_connect(y, x, weight, bias, connections)


def drop_connect_input_gradient(dx: Array, dy: Array, weight: Array, connections: Connections) -> None:
    """dx, by the weights of the kept connections."""
    n_samples, n_out = _lengths(dy)
    _, n_in = _lengths(weight)
    input_("dy", dy, (n_samples, n_out), dy.dtype, dy)
    input_("weight", weight, (n_out, n_in), dy.dtype, dy)
    result("dx", dx, (n_samples, n_in), dy.dtype, dy)
    law(connections.key, connections.call, connections.threshold)
    contracts.select(dy).drop_connect_input_gradient(dx, dy, weight, connections)


def drop_connect_weight_gradient(dweight: Array, dy: Array, x: Array, connections: Connections) -> None:
    """dweight, of the kept connections."""
    n_samples, n_in = _lengths(x)
    _, n_out = _lengths(dy)
    input_("x", x, (n_samples, n_in), x.dtype, x)
    input_("dy", dy, (n_samples, n_out), x.dtype, x)
    result("dweight", dweight, (n_out, n_in), x.dtype, x)
    law(connections.key, connections.call, connections.threshold)
    contracts.select(x).drop_connect_weight_gradient(dweight, dy, x, connections)


def drop_connect_bias_gradient(dbias: Vector, dy: Array) -> None:
    """dbias, the sums of dy."""
    input_("dy", dy, _lengths(dy), dy.dtype, dy)
    result("dbias", dbias, dy.shape[1:], FLOAT64, dy)
    contracts.select(dy).drop_connect_bias_gradient(dbias, dy)


def _lengths(values: Array) -> tuple[int, int]:
    """Both lengths of a matrix; of anything else, some that it does not have."""
    return values.shape if values.ndim == 2 else (values.size, 1)
