"""Contracts of the launchers of masks that drop blocks."""

from __future__ import annotations

from normdrop._backend import contracts
from normdrop._backend.contracts import BOOL, INT64, Array, Integers, Mask, input_, law, result


def keep_blocks(
    mask: Mask, n_kept: Integers, blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int
) -> None:
    """Fill a mask that drops blocks, and say how many elements it keeps."""
    result("mask", mask, mask.shape if mask.ndim == 5 else (mask.size, 1, 1, 1, 1), BOOL, mask)
    result("n_kept", n_kept, (1,), INT64, mask)
    _law(mask.shape, blocks, key, call, threshold)
    contracts.select(mask).keep_blocks(mask, n_kept, blocks, key, call, threshold)


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
    """y = scale * x where no block is dropped; without a scale it is that of the kept elements that are counted."""
    input_("x", x, x.shape if x.ndim == 5 else (x.size, 1, 1, 1, 1), x.dtype, x)
    result("y", y, x.shape, x.dtype, x)
    result("n_kept", n_kept, (1,), INT64, x)
    _law(x.shape, blocks, key, call, threshold)
    contracts.select(x).drop_blocks(y, x, n_kept, blocks, key, call, threshold, scale)


def _law(shape: tuple[int, ...], blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int) -> None:
    law(key, call, threshold)
    first, second, third = blocks
    _, n1, n2, n3, _ = shape
    if not (1 <= first <= n1 and 1 <= second <= n2 and 1 <= third <= n3):
        raise ValueError(
            f"blocks must be from 1 to the sides of the map, {shape[1:4]}; got {blocks}. Pass the context as the "
            "forward pass returned it."
        )
