"""Fused passes by planes; those by rows are in `normdrop._cpu.kernels.fused_rows`.

The kernels are written for any fusion: `normdrop._cpu.fused` puts in the names below, and compiles each for its own.
Inputs are (dy, x, residual); where there is no dy or residual, x stands for it and is not read. Workers have a buffer
for the mask each, and neighboring tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise import Run, write_run
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kernels.operations import copied, gradient
from normdrop._cpu.kernels.plane_sums import (
    block_gradients_of_slab,
    block_moments,
    grid_of,
    merged_gradients,
    merged_moments,
    n_blocks,
)
from normdrop._cpu.kernels.planes import (
    channels_at_once,
    finish_gradients,
    finish_statistics,
    four,
    prefetched,
    spans_of,
    three,
    three_of,
    write_chunk,
)
from normdrop._cpu.kinds import Flag, Index, Memory, Table, Workspace
from normdrop._cpu.lanes.memory import address, item_size, pointer
from normdrop._cpu.lanes.streaming import exceeds_last_level_cache, fence, prefetch_pays, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import MASK_BUFFER, READ_AGAIN, READ_ONCE

operation: Any = None  # what is computed
end_of_piece: Any = None  # `cut` or `whole` of `mask_pieces`
fill: Any = None  # `fill` or `no_mask`
loop_ahead: Any = None  # `while_drawn` or `in_loop`


@helper
def _worker_masks(masks: Memory, worker: Index) -> Any:
    return masks[worker * MASK_BUFFER : worker * MASK_BUFFER + MASK_BUFFER]


@kernel("OIIIpdqmM")
def transform(
    y: Memory, dy: Memory, x: Memory, r: Memory, vectors: Table, constants: Memory, law: Memory, given: Memory,
    masks: Memory,
) -> None:  # fmt: skip
    """y = operation(...) with vectors = [mean, scale, shift] of each channel. Parallel over workers."""
    in_place = address(y) == address(dy) or address(y) == address(r)
    large = should_stream(y, x, READ_ONCE) and not in_place
    spans, size = spans_of(x, large)
    n_workers = masks.size // MASK_BUFFER
    for worker in prange(n_workers):
        mask = _worker_masks(masks, worker)
        numbers = three_of(vectors, (constants[0], constants[1], pointer(y, 0)))
        task, end = share(worker, n_workers, (x.size + size - 1) // size)
        start, stop = task * size, min(end * size, x.size)
        while start < stop:
            piece = end_of_piece(start, min(start + size, stop))
            near = pointer(dy, start), pointer(x, start), pointer(r, start)
            at = fill(mask, start, piece, law, given, (near, _once(dy, x, r, prefetch_pays(x), 0)))
            inputs = *near, pointer(mask, at)
            write_chunk(pointer(y, start), inputs, x.shape, (start, piece, large, spans, None), operation, numbers)
            start = piece
        fence()


@helper
def _once(dy: Memory, x: Memory, r: Memory, far: Flag, distance: Index) -> Any:
    """How far ahead to prefetch dy, x and r: each array once, and nothing if they are not `far`.

    No distance is one element, for 0 stands for nothing.
    """
    at = distance if distance > 0 else 1
    if not far:
        at = 0
    return at if address(dy) != address(x) else 0, at, at if address(r) != address(x) else 0


@kernel("OIIPwwPdqmM")
def batch_norm(
    y: Memory, x: Memory, r: Memory, statistics: Table, gamma: Memory, beta: Memory, work: Workspace, constants: Memory,
    law: Memory, given: Memory, masks: Memory,
) -> None:  # fmt: skip
    """Statistics and y of each channel, while they are in the cache. Parallel over workers with groups of channels."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    in_place = address(y) == address(x) or address(y) == address(r)
    large = should_stream(y, x, READ_AGAIN) and not in_place
    size = item_size(x)
    at_once, spans = channels_at_once(x, size, in_place)
    n_workers = masks.size // MASK_BUFFER
    for worker in prange(n_workers):
        mask = _worker_masks(masks, worker)
        numbers = three(work, (constants[0], constants[1], pointer(y, 0)))
        task, last = share(worker, n_workers, (n_channels + at_once - 1) // at_once)
        for first in range(task * at_once, min(last * at_once, n_channels), at_once):
            end = min(first + at_once, n_channels)
            with_sums, with_results, _ = prefetched(x, size, end - first)
            for c in range(first, end):
                for b in range(n_blocks(grid)):
                    block_moments(work, pointer(x, 0), (grid, c, b), with_sums)
                merged = merged_moments(work, pointer(x, 0), grid, c)
                finish_statistics(statistics, c, merged, (gamma, beta), constants[2], work)
            with_residual = max(with_sums, with_results) if address(r) != address(x) else 0
            for o in range(outer):
                start, stop = (o * n_channels + first) * inner, (o * n_channels + end) * inner
                while start < stop:
                    piece = end_of_piece(start, stop)
                    ahead = (pointer(x, start), pointer(r, start)), (with_results, with_residual)
                    at = fill(mask, start, piece, law, given, ahead)
                    inputs = pointer(x, start), pointer(x, start), pointer(r, start), pointer(mask, at)
                    chunk = start, piece, large, spans, loop_ahead(ahead)
                    write_chunk(pointer(y, start), inputs, x.shape, chunk, operation, numbers)
                    start = piece
        fence()


@kernel("OOOIIIPppwPdqmM")
def backward(
    dx: Memory, du: Memory, slabs: Memory, dy: Memory, x: Memory, r: Memory, sums: Table, statistics: Table,
    vectors: Table, gamma: Memory, work: Workspace, constants: Memory, law: Memory, given: Memory, masks: Memory,
) -> None:  # fmt: skip
    """The gradient of what the activation takes, the sums of it, and dx, while a channel is in the cache.

    Workers have that gradient in a slab; it is written to du unless du is dx, where nobody wants it.
    """
    outer, n_channels, inner = x.shape
    grid, image = grid_of(x.shape), n_channels * inner
    in_place, wanted = address(dx) == address(x) or address(dx) == address(dy), address(du) != address(dx)
    large = should_stream(dx, x, READ_AGAIN)
    size = item_size(dy) + item_size(x)
    at_once, spans = channels_at_once(x, size, in_place)
    far = exceeds_last_level_cache(x.size * (size + item_size(x)))
    n_workers = masks.size // MASK_BUFFER
    for worker in prange(n_workers):
        mask = _worker_masks(masks, worker)
        numbers = three_of(vectors, (constants[0], constants[1], pointer(dx, 0)))
        slab = pointer(slabs, worker * slabs.shape[2])
        task, last = share(worker, n_workers, (n_channels + at_once - 1) // at_once)
        for first in range(task * at_once, min(last * at_once, n_channels), at_once):
            end = min(first + at_once, n_channels)
            width = (end - first) * inner
            distances = _once(dy, x, r, far, width)
            for o in range(outer):
                start, stop = o * image + first * inner, o * image + end * inner
                place = o * width - start
                while start < stop:
                    piece = end_of_piece(start, stop)
                    near = pointer(dy, start), pointer(x, start), pointer(r, start)
                    at = fill(mask, start, piece, law, given, (near, distances))
                    chunk = start, piece, False, False, loop_ahead((near, distances))
                    inputs = *near, pointer(mask, at)
                    write_chunk(pointer(slab, place + start), inputs, x.shape, chunk, operation, numbers)
                    start = piece
            for c in range(first, end):
                for b in range(n_blocks(grid)):
                    inputs_ = slab, pointer(x, 0)
                    block_gradients_of_slab(work, inputs_, (grid, c, b), statistics[0, c], (first, width))
                merged = merged_gradients(work, grid, c)
                finish_gradients(sums, c, merged, (statistics, gamma), np.float64(outer * inner), work)
            for o in range(outer):
                start = o * image + first * inner
                from_slab = pointer(slab, o * width)
                chunk = start, start + width, large and not in_place, spans, None
                inputs__ = from_slab, pointer(x, start)
                write_chunk(pointer(dx, start), inputs__, x.shape, chunk, gradient, four(work))
                if wanted:
                    write_run(pointer(du, start), (from_slab,), Run(0, width, large), copied, (), None)
        fence()
