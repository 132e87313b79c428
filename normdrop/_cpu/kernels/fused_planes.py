"""Fused passes by planes; those by rows are in `normdrop._cpu.kernels.fused_rows`.

The kernels are written for any fusion: `normdrop._cpu.fused` puts in the names below, and compiles each for its own.
Inputs are (dy, x, residual); where there is no dy or residual, x stands for it and is not read. Workers have a buffer
for the mask each, and neighboring tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise import Numbers
from normdrop._cpu.kernels.operations import gradient
from normdrop._cpu.kernels.plane_sums import (
    block_gradients,
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
    write_channels,
    write_chunk,
)
from normdrop._cpu.kinds import Index, Memory, Table, Workspace
from normdrop._cpu.lanes.memory import address, item_size, pointer
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import MASK_BUFFER, READ_AGAIN, READ_ONCE

operation: Any = None  # what is computed
end_of_piece: Any = None  # `cut` or `whole` of `mask_pieces`
fill: Any = None  # `fill` or `no_mask`


@helper
def _share(worker: Index, n_workers: Index, n_tasks: Index) -> Any:
    """Tasks of a worker: (first, end)."""
    return worker * n_tasks // n_workers, (worker + 1) * n_tasks // n_workers


@kernel("OIIIpdqmM")
def transform(
    y: Memory, dy: Memory, x: Memory, r: Memory, vectors: Table, constants: Memory, law: Memory, given: Memory,
    masks: Memory,
) -> None:  # fmt: skip
    """y = operation(...) with vectors = [mean, scale, shift] of each channel. Parallel over workers."""
    n_channels = x.shape[1]
    in_place = address(y) == address(dy) or address(y) == address(r)
    large = should_stream(y, x, READ_ONCE) and not in_place
    spans, size = spans_of(x, large)
    n_workers = masks.size // MASK_BUFFER
    for worker in prange(n_workers):
        mask = masks[worker * MASK_BUFFER : worker * MASK_BUFFER + MASK_BUFFER]
        first = pointer(vectors, 0)
        rows = first, pointer(first, n_channels), pointer(first, 2 * n_channels)
        numbers = Numbers(rows, 1, (constants[0], constants[1], pointer(y, 0)))
        task, end = _share(worker, n_workers, (x.size + size - 1) // size)
        start, stop = task * size, min(end * size, x.size)
        while start < stop:
            piece = end_of_piece(start, min(start + size, stop))
            at = fill(mask, start, piece, law, given)
            inputs = pointer(dy, start), pointer(x, start), pointer(r, start), pointer(mask, at)
            write_chunk(pointer(y, start), inputs, x.shape, (start, piece, large, spans), operation, numbers)
            start = piece
        fence()


@helper
def _three(work: Workspace, constants: Any) -> Numbers:
    first = pointer(work, 0)
    return Numbers((first, pointer(first, 1), pointer(first, 2)), work.shape[1], constants)


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
        mask = masks[worker * MASK_BUFFER : worker * MASK_BUFFER + MASK_BUFFER]
        numbers = _three(work, (constants[0], constants[1], pointer(y, 0)))
        task, last = _share(worker, n_workers, (n_channels + at_once - 1) // at_once)
        for first in range(task * at_once, min(last * at_once, n_channels), at_once):
            end = min(first + at_once, n_channels)
            ahead = prefetched(x, size, end - first)
            for c in range(first, end):
                for b in range(n_blocks(grid)):
                    block_moments(work, pointer(x, 0), (grid, c, b), ahead[0])
                merged = merged_moments(work, pointer(x, 0), grid, c)
                finish_statistics(statistics, c, merged, (gamma, beta), constants[2], work)
            for o in range(outer):
                start, stop = (o * n_channels + first) * inner, (o * n_channels + end) * inner
                while start < stop:
                    piece = end_of_piece(start, stop)
                    at = fill(mask, start, piece, law, given)
                    inputs = pointer(x, start), pointer(x, start), pointer(r, start), pointer(mask, at)
                    write_chunk(pointer(y, start), inputs, x.shape, (start, piece, large, spans), operation, numbers)
                    start = piece
        fence()


@kernel("OOIIIPppwPdqmM")
def backward(
    dx: Memory, du: Memory, dy: Memory, x: Memory, r: Memory, sums: Table, statistics: Table, vectors: Table,
    gamma: Memory, work: Workspace, constants: Memory, law: Memory, given: Memory, masks: Memory,
) -> None:  # fmt: skip
    """du, the gradient of what the activation takes, the sums of it, and dx, while a channel is in the cache."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    in_place = address(dx) == address(x) or address(dx) == address(du) or address(dx) == address(dy)
    large = should_stream(dx, x, READ_AGAIN) and not in_place
    size = item_size(dy) + item_size(x)
    at_once, spans = channels_at_once(x, size, in_place)
    n_workers = masks.size // MASK_BUFFER
    for worker in prange(n_workers):
        mask = masks[worker * MASK_BUFFER : worker * MASK_BUFFER + MASK_BUFFER]
        rows = pointer(vectors, 0)
        rows_ = rows, pointer(rows, n_channels), pointer(rows, 2 * n_channels)
        numbers = Numbers(rows_, 1, (constants[0], constants[1], pointer(dx, 0)))
        task, last = _share(worker, n_workers, (n_channels + at_once - 1) // at_once)
        for first in range(task * at_once, min(last * at_once, n_channels), at_once):
            end = min(first + at_once, n_channels)
            for o in range(outer):
                start, stop = (o * n_channels + first) * inner, (o * n_channels + end) * inner
                while start < stop:
                    piece = end_of_piece(start, stop)
                    at = fill(mask, start, piece, law, given)
                    inputs = pointer(dy, start), pointer(x, start), pointer(r, start), pointer(mask, at)
                    write_chunk(pointer(du, start), inputs, x.shape, (start, piece, False, False), operation, numbers)
                    start = piece
            inputs_ = pointer(du, 0), pointer(x, 0)
            for c in range(first, end):
                for b in range(n_blocks(grid)):
                    block_gradients(work, inputs_, (grid, c, b), statistics[0, c], 0)
                merged = merged_gradients(work, grid, c)
                finish_gradients(sums, c, merged, (statistics, gamma), np.float64(outer * inner), work)
            how = spans, large, None
            write_channels(pointer(dx, 0), inputs_, x.shape, (first, end), how, gradient, four(work))
        fence()
