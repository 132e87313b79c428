"""Contracts of the launchers of dropout with an affine map of what is kept."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import BOOL, Affine, Array, Mask, batch, input_, law, result


def affine_dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine) -> None:
    """y = scale * x + shift where the mask law keeps, else the constant, flat."""
    input_("x", x, (x.size,), x.dtype, x)
    result("y", y, x.shape, x.dtype, x)
    law(key, call, threshold)
    contracts.select(x).affine_dropout(y, x, key, call, threshold, affine)


def affine_dropout_transposed(
    y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine
) -> None:
    """The same with elements counted in another order of axes."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    law(key, call, threshold)
    contracts.select(x).affine_dropout_transposed(y, x, key, call, threshold, affine)


def apply_affine_mask(y: Array, x: Array, mask: Mask, affine: Affine) -> None:
    """y = scale * x + shift where a given mask keeps, else the constant."""
    batch(x)
    result("y", y, x.shape, x.dtype, x)
    input_("mask", mask, (x.shape[0], x.shape[2]), BOOL, x)
    contracts.select(x).apply_affine_mask(y, x, mask, affine)
