"""Contracts of the launchers of dropout."""

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


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Fill a mask by the mask law."""
    result("mask", mask, (mask.size,), BOOL, mask)
    law(key, call, threshold)
    contracts.select(mask).keep_mask(mask, key, call, threshold, first)


def keep_samples(mask: Mask, ids: Integers, key: tuple[int, int], call: int, threshold: int) -> None:
    """Fill masks of samples by the mask law, each under the key of its id."""
    result("mask", mask, mask.shape if mask.ndim == 2 else (mask.size, 1), BOOL, mask)
    input_("sample_ids", ids, (mask.shape[0],), INT64, mask)
    law(key, call, threshold)
    contracts.select(mask).keep_samples(mask, ids, key, call, threshold)


def enumerate_masks(masks: Mask, weights: Vector, p: Vector, first: int) -> None:
    """Masks number first and so on, and their probabilities."""
    result("masks", masks, (weights.size, p.size), BOOL, masks)
    result("weights", weights, (weights.size,), FLOAT64, masks)
    input_("p", p, (p.size,), FLOAT64, masks)
    contracts.select(masks).enumerate_masks(masks, weights, p, first)


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """y = scale * x where the mask law keeps, flat."""
    input_("x", x, (x.size,), x.dtype, x)
    result("y", y, x.shape, x.dtype, x)
    law(key, call, threshold)
    contracts.select(x).dropout(y, x, key, call, threshold, scale)


def dropout_transposed(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """The same with elements counted in another order of axes."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    law(key, call, threshold)
    contracts.select(x).dropout_transposed(y, x, key, call, threshold, scale)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """y = scale * x where a given mask keeps."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("mask", mask, (x.shape[0], x.shape[2]), BOOL, x)
    contracts.select(x).apply_mask(y, x, mask, scale)
