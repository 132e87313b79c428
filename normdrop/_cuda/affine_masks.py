"""Dropout with an affine map of what is kept on a GPU: as plain dropout, affine = (scale, shift, constant)."""

from __future__ import annotations

from normdrop._cuda import masks, transposed
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.dropping import with_affine
from normdrop._cuda.launch import THREADS, n_blocks
from normdrop._cuda.launchers import key_word
from normdrop._cuda.mask_law import RUNS
from normdrop._cuda.tiles import tiles

Affine = tuple[float, float, float]

dropout = with_affine(masks.dropout)
mask_planes = with_affine(masks.mask_planes)
mask_elements = with_affine(masks.mask_elements)
dropout_transposed = with_affine(transposed.dropout_transposed)


def affine_dropout(
    y: DeviceArray, x: DeviceArray, key: tuple[int, int], call: int, threshold: int, affine: Affine
) -> None:
    """y = scale * x + shift where the mask law keeps, else the constant."""
    aligned = x.is_aligned and y.is_aligned
    dropout(x.dtype, n_blocks(x.size, THREADS * 4 * RUNS), y, x, key_word(key), call, threshold, affine, aligned)


def affine_dropout_transposed(
    y: DeviceArray, x: DeviceArray, key: tuple[int, int], call: int, threshold: int, affine: Affine
) -> None:
    """The same for elements that the law counts in another order of axes."""
    n_outer, n_p, n_q = x.shape
    blocks = n_outer * n_blocks(n_p, transposed.DEPTH) * n_blocks(n_q, transposed.SIDE)
    dropout_transposed(x.dtype, blocks, y, x, n_p, n_q, key_word(key), call, threshold, affine)


def apply_affine_mask(y: DeviceArray, x: DeviceArray, mask: DeviceArray, affine: Affine) -> None:
    """y = scale * x + shift where a given mask keeps, else the constant: by planes or elements as plain dropout."""
    n_outer, n_shared, length = x.shape
    if length == 1 and n_shared > 1:
        shift, blocks, aligned = tiles(n_outer, n_shared, y, x)
        mask_planes(x.dtype, blocks, y, x, mask, n_shared, shift, affine, aligned)
    else:
        if n_shared == 1:
            n_outer, length = 1, x.size
        shift, blocks, aligned = tiles(n_outer * n_shared, length, y, x)
        mask_elements(x.dtype, blocks, y, x, mask, n_shared, length, shift, affine, aligned)
