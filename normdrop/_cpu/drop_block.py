"""The launcher of masks that drop blocks."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu.kernels import drop_block
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import BLOCKS_PIECE

Mask: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]

_BOOL = np.dtype(np.bool_)
_FEW = 2  # words of a row that are placed in the time of one seed alone, about
_LONG = 4  # blocks that a band is long at least: the seeds of one block more are drawn for it


def keep_blocks(
    mask: Mask, n_kept: Integers, blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int
) -> None:
    """Fill mask[a, i, j, k, b] = whether no seed's block covers it, and n_kept[0] = how many are."""
    n_outer, n_rows, row = mask.shape[0], mask.shape[1], math.prod(mask.shape[2:])
    planes, n_bands = _division(n_outer, n_rows, row, blocks[0])
    counts = np.empty((-(-n_outer // planes) * n_bands, 1), np.int64)
    n_workers = min(workers(mask.size), counts.size)
    seen = planes * min(n_rows, -(-n_rows // n_bands) + blocks[0] - 1) * row
    n_words = -(-seen // drop_block.WORD) + drop_block.BEYOND
    work = scratch((3 * n_workers, n_words)).view(np.uint64).reshape(-1)
    run_of_seeds = (mask.shape[3] - blocks[2] + 1) * mask.shape[4]
    few = threshold * run_of_seeds * _FEW < -(-run_of_seeds // drop_block.WORD) << 32
    plan = np.array([*mask.shape, *blocks, planes, n_bands, n_workers, n_words, few])
    run = drop_block.keep_blocks.variant(_BOOL, mask.size)
    run(mask.reshape(-1), counts, plan, *key, call, threshold, work)
    n_kept[0] = counts.sum()


def _division(n_outer: int, n_rows: int, row: int, block: int) -> tuple[int, int]:
    """Planes of a task, or bands of rows in which each of them is divided, where planes are large."""
    n_bands = max(1, min(n_rows * row // BLOCKS_PIECE, n_rows // (_LONG * block)))
    return max(1, min(n_outer, BLOCKS_PIECE // (n_rows * row))), n_bands
