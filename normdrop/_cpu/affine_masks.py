"""Launchers of dropout with an affine map of what is kept; affine = (scale, shift, constant)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu.kernels import affine_masks, transposed
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Affine: TypeAlias = tuple[float, float, float]


def affine_dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine) -> None:
    """y = scale * x + shift where the mask law keeps, else the constant."""
    run = affine_masks.affine_dropout.variant(x.dtype, x.size)
    run(stored(y), stored(x), *key, call, threshold, affine)


def affine_dropout_transposed(
    y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, affine: Affine
) -> None:
    """The same for elements that the law counts in another order of axes."""
    n_workers = workers(x.size)
    work = scratch((n_workers, (transposed.WORDS + 3) // 4)).view(np.uint16).reshape(-1)
    run = affine_masks.affine_dropout_transposed.variant(x.dtype, x.size)
    run(stored(y), stored(x), *key, call, threshold, affine, work)


def apply_affine_mask(y: Array, x: Array, mask: Mask, affine: Affine) -> None:
    """y = scale * x + shift where a given mask keeps, else the constant: by planes or elements as plain dropout."""
    _, n_shared, length = x.shape
    flat_y, flat_x, flat_mask = stored(y).reshape(-1), stored(x).reshape(-1), mask.reshape(-1)
    if length == 1 and n_shared > 1:
        affine_masks.mask_planes.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, affine)
    else:
        length = x.size if n_shared == 1 else length
        affine_masks.mask_elements.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, length, affine)
