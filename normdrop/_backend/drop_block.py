"""Contracts of the launchers of masks that drop blocks."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import BOOL, INT64, Integers, Mask, law, result


def keep_blocks(
    mask: Mask, n_kept: Integers, blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int
) -> None:
    """Fill a mask that drops blocks, and say how many elements it keeps."""
    result("mask", mask, mask.shape if mask.ndim == 5 else (mask.size, 1, 1, 1, 1), BOOL, mask)
    result("n_kept", n_kept, (1,), INT64, mask)
    law(key, call, threshold)
    first, second, third = blocks
    _, n1, n2, n3, _ = mask.shape
    if not (1 <= first <= n1 and 1 <= second <= n2 and 1 <= third <= n3):
        raise ValueError(
            f"blocks must be from 1 to the sides of the map, {mask.shape[1:4]}; got {blocks}. Pass the context as the "
            "forward pass returned it."
        )
    contracts.select(mask).keep_blocks(mask, n_kept, blocks, key, call, threshold)
