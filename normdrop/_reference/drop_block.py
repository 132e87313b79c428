"""The reference of masks that drop blocks."""

from __future__ import annotations

import numpy as np

from normdrop._reference.masks import apply_mask, keep_mask
from normdrop._reference.rounding import Array, Integers, Mask


def keep_blocks(
    mask: Mask, n_kept: Integers, blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int
) -> None:
    """Set mask[a, i, j, k, b] = whether no seed's block covers it, and n_kept[0] = how many are; T < 2**32.

    A seed is an element that the mask law drops of a mask with n - block + 1 elements along axes 1 to 3; the first
    element of its block has its index.
    """
    sides = tuple(n - block + 1 for n, block in zip(mask.shape[1:4], blocks, strict=True))
    kept = np.empty((mask.shape[0], *sides, mask.shape[4]), np.bool_)
    keep_mask(kept.reshape(-1), key, call, threshold)
    mask.fill(True)
    for shift in np.ndindex(*blocks):
        mask[(slice(None), *(slice(s, s + m) for s, m in zip(shift, sides, strict=True)))] &= kept
    n_kept[0] = np.count_nonzero(mask)


def drop_blocks(
    y: Array,
    x: Array,
    n_kept: Integers,
    blocks: tuple[int, int, int],
    key: tuple[int, int],
    call: int,
    threshold: int,
    scale: float | None,
) -> None:
    """Set y = scale * x where that mask keeps, else +0, and n_kept[0]; without a scale it is x.size / n_kept[0]."""
    mask = np.empty(x.shape, np.bool_)
    keep_blocks(mask, n_kept, blocks, key, call, threshold)
    n = int(n_kept[0])
    if scale is None:
        scale = x.size / n if n else 0.0
    whole = (1, 1, x.size)
    apply_mask(y.reshape(whole), x.reshape(whole), mask.reshape((1, -1)), scale)
