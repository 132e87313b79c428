"""Contracts of the launchers of dropout whose p varies."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import (
    BOOL,
    FLOAT64,
    INT64,
    Array,
    Integers,
    Mask,
    Vector,
    batch,
    input_,
    law,
    result,
)


def dropout_varied(y: Array, x: Array, thresholds: Vector, key: tuple[int, int], call: int, inverted: bool) -> None:
    """y = x / (1 - T / 2**32) or x where the mask law keeps with T of the channel."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("thresholds", thresholds, (x.shape[1],), FLOAT64, x)
    law(key, call, 0)
    contracts.select(x).dropout_varied(y, x, thresholds, key, call, inverted)


def keep_varied(mask: Mask, thresholds: Vector, keys: Integers, call: int) -> None:
    """Fill masks by the mask law, each under a key and with T of its own."""
    result("mask", mask, mask.shape if mask.ndim == 2 else (mask.size, 1), BOOL, mask)
    input_("thresholds", thresholds, mask.shape, FLOAT64, mask)
    input_("keys", keys, (mask.shape[0], 2), INT64, mask)
    law((0, 0), call, 0)
    contracts.select(mask).keep_varied(mask, thresholds, keys, call)


def apply_factors(y: Array, x: Array, mask: Mask, factors: Vector) -> None:
    """y = factor * x where a given mask keeps and the factor is above 0."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("mask", mask, (x.shape[0], x.shape[2]), BOOL, x)
    input_("factors", factors, mask.shape, FLOAT64, x)
    contracts.select(x).apply_factors(y, x, mask, factors)
