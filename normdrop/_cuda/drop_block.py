"""Masks that drop blocks on a GPU: seeds by the mask law, widened to blocks along one axis after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normdrop._cuda import launchers
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, cuda, kernel, n_blocks, types
from normdrop._cuda.tiles import least

_BOOL, _INT64 = np.dtype(np.bool_), np.dtype(np.int64)
_PER_THREAD = 16  # elements that a thread counts, about


@kernel("bbnnn")
def widen(mask: Any, kept: Any, n: Any, block: Any, inner: Any) -> None:
    """mask[a, i, b] = whether kept[a, j, b] for all j from i - block + 1 to i that kept has; (A, n, inner), flat."""
    n_seeds = n - block + 1
    for at in range(cuda.grid(1), mask.size, cuda.gridsize(1)):
        i = at // inner % n
        first, last = 0, least(i + 1, n_seeds)
        if i >= block:
            first = i - block + 1
        place = at // inner // n * n_seeds * inner + at % inner
        keeps = 1
        for j in range(first, last):
            if kept[place + j * inner] == 0:
                keeps = 0
        mask[at] = keeps


@kernel("qb")
def count(n_kept: Any, mask: Any) -> None:
    """n_kept[0] += elements that are kept: each block adds what its threads have counted."""
    total = cuda.shared.array(1, types.int64)
    if cuda.threadIdx.x == 0:
        total[0] = 0
    cuda.syncthreads()
    own = 0
    for at in range(cuda.grid(1), mask.size, cuda.gridsize(1)):
        if mask[at] != 0:
            own += 1
    cuda.atomic.add(total, 0, own)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(n_kept, 0, total[0])


def keep_blocks(
    mask: DeviceArray,
    n_kept: DeviceArray,
    blocks: tuple[int, int, int],
    key: tuple[int, int],
    call: int,
    threshold: int,
) -> None:
    """Fill mask[a, i, j, k, b] = whether no seed's block covers it, and n_kept[0] = how many are."""
    sides = list(mask.shape)
    wide = [axis for axis in (3, 2, 1) if blocks[axis - 1] > 1]
    for axis in wide:
        sides[axis] -= blocks[axis - 1] - 1
    kept = mask if not wide else mask.empty(tuple(sides), _BOOL)
    launchers.keep_mask(kept.reshape(-1), key, call, threshold)
    for axis in wide:
        n, block = mask.shape[axis], blocks[axis - 1]
        sides[axis] = n
        wider = mask if axis == wide[-1] else mask.empty(tuple(sides), _BOOL)
        inner = math.prod(sides[axis + 1 :])
        widen(_BOOL, n_blocks(wider.size, THREADS), wider, kept, n, block, inner)
        kept = wider
    n_kept.assign(np.zeros(1, np.int64))
    count(_INT64, n_blocks(mask.size, THREADS * _PER_THREAD), n_kept, mask)


def drop_blocks(
    y: DeviceArray,
    x: DeviceArray,
    n_kept: DeviceArray,
    blocks: tuple[int, int, int],
    key: tuple[int, int],
    call: int,
    threshold: int,
    scale: float | None,
) -> None:
    """y = scale * x where no seed's block covers it, else +0, and n_kept[0] = how many are not; None: x.size / that."""
    mask = x.empty(x.shape, _BOOL)
    keep_blocks(mask, n_kept, blocks, key, call, threshold)
    if scale is None:
        n = int(n_kept.to_host()[0])
        scale = x.size / n if n else 0.0
    whole = (1, 1, x.size)
    launchers.apply_mask(y.reshape(whole), x.reshape(whole), mask.reshape((1, x.size)), scale)
