"""The launchers of masks that drop blocks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu.kernels import block_bits, drop_block
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import BLOCKS_PIECE

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]
Shape: TypeAlias = tuple[int, ...]

_BOOL = np.dtype(np.bool_)
_LONG = 4  # blocks that a band is long at least: the seeds of one block more are drawn for it
_FEW = 2  # words of a row that are placed in the time of one seed alone, about


class _Plan(NamedTuple):
    numbers: Integers
    """What kernels take."""
    counts: Integers
    """For how many elements each task keeps."""
    n_work: int
    """Words of all workers."""
    n_bits: int
    """Words of bits of all tasks."""


def keep_blocks(
    mask: Mask, n_kept: Integers, blocks: tuple[int, int, int], key: tuple[int, int], call: int, threshold: int
) -> None:
    """Fill mask[a, i, j, k, b] = whether no seed's block covers it, and n_kept[0] = how many are."""
    plan = _plan(mask.shape, blocks, threshold)
    run = drop_block.keep_blocks.variant(_BOOL, mask.size)
    run(mask.reshape(-1), plan.counts, plan.numbers, *key, call, threshold, _words(plan.n_work))
    n_kept[0] = plan.counts.sum()


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
    """y = scale * x where no seed's block covers it, else +0, and n_kept[0] = how many are not; None: x.size / that."""
    plan = _plan(x.shape, blocks, threshold)
    work = _words(plan.n_work + plan.n_bits)
    work, bits = work[: plan.n_work], work[plan.n_work :]
    run = drop_block.keep_block_bits.variant(_BOOL, x.size)
    run(bits, plan.counts, plan.numbers, *key, call, threshold, work)
    n = int(plan.counts.sum())
    n_kept[0] = n
    if scale is None:
        scale = x.size / n if n else 0.0
    apply = block_bits.mask_pieces.variant(x.dtype, x.size)
    apply(stored(y).reshape(-1), stored(x).reshape(-1), bits, plan.numbers, scale)


def _words(n: int) -> Words:
    return scratch((n,)).view(np.uint64)


def _plan(shape: Shape, blocks: tuple[int, int, int], threshold: int) -> _Plan:
    outer, n_rows, row, inner = shape[0], shape[1], math.prod(shape[2:]), shape[4]
    planes, n_bands = _division(outer, n_rows, row, blocks[0])
    counts = np.empty((-(-outer // planes) * n_bands, 1), np.int64)
    n_workers = min(workers(math.prod(shape)), counts.size)
    longest = -(-n_rows // n_bands)  # rows of a band
    seen = planes * min(n_rows, longest + blocks[0] - 1) * row
    n_words = -(-seen // drop_block.WORD) + drop_block.BEYOND
    n_kept = -(-planes * longest * row // drop_block.WORD)
    run = (shape[3] - blocks[2] + 1) * inner  # seeds side by side
    few = threshold * run * _FEW < -(-run // drop_block.WORD) << 32
    numbers = np.array([*shape, *blocks, planes, n_bands, n_workers, n_words, few, n_kept])
    return _Plan(numbers, counts, 3 * n_workers * n_words, counts.size * n_kept + 1)


def _division(n_outer: int, n_rows: int, row: int, block: int) -> tuple[int, int]:
    """Planes of a task, or bands of rows in which each of them is divided, where planes are large."""
    n_bands = max(1, min(n_rows * row // BLOCKS_PIECE, n_rows // (_LONG * block)))
    return max(1, min(n_outer, BLOCKS_PIECE // (n_rows * row))), n_bands
