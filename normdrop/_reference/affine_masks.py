"""The reference of dropout with an affine map of what is kept, affine = (scale, shift, constant)."""

from __future__ import annotations

import numpy as np

from normdrop._reference.masks import keep_mask
from normdrop._reference.rounding import Affine, Array, Mask, rounded, wide


def _masked(x: Array, mask: Mask, affine: Affine) -> Array:
    scale, shift, constant = affine
    with np.errstate(all="ignore"):
        return rounded(np.where(mask, wide(x) * scale + shift, constant), x.dtype)


def affine_dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine) -> None:
    """Set y[i] = scale * x[i] + shift where kept, the constant where dropped, in float64 and rounded; flat."""
    mask = np.empty(x.size, np.bool_)
    keep_mask(mask, key, call, threshold)
    y[...] = _masked(x, mask, affine)


def affine_dropout_transposed(
    y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine
) -> None:
    """Set y[a, p, q] the same where element (a, q, p) of an array (A, Q, P) is kept."""
    transposed = np.empty((x.shape[0], x.shape[2], x.shape[1]), y.dtype)
    affine_dropout(transposed.reshape(-1), x.transpose(0, 2, 1).reshape(-1), key, call, threshold, affine)
    y[...] = transposed.transpose(0, 2, 1)


def apply_affine_mask(y: Array, x: Array, mask: Mask, affine: Affine) -> None:
    """Set y[a, s, b] = scale * x[a, s, b] + shift where mask[a, b], else the constant, in float64 and rounded."""
    y[...] = _masked(x, mask[:, None, :], affine)
