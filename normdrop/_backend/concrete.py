"""Contracts of the launchers of concrete dropout."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import FLOAT64, Array, Vectors, input_, law, result
from normdrop._concrete import Relaxation


def concrete_dropout(y: Array, x: Array, relaxation: Relaxation) -> None:
    """y = x * (1 - z) / (1 - p), flat."""
    input_("x", x, (x.size,), x.dtype, x)
    result("y", y, x.shape, x.dtype, x)
    law(relaxation.key, relaxation.call, 0)
    contracts.select(x).concrete_dropout(y, x, relaxation)


def concrete_dropout_backward(dx: Array, dlogit: Vectors, dy: Array, x: Array, relaxation: Relaxation) -> None:
    """dx, flat, and dlogit[0], the gradient of the logit."""
    input_("x", x, (x.size,), x.dtype, x)
    result("dx", dx, x.shape, x.dtype, x)
    input_("dy", dy, x.shape, x.dtype, x)
    result("dlogit", dlogit, (1,), FLOAT64, x)
    law(relaxation.key, relaxation.call, 0)
    contracts.select(x).concrete_dropout_backward(dx, dlogit, dy, x, relaxation)
