"""Kernels by columns: of few and wide rows, a thread takes columns of its own from their sums to their result.

The columns of a task are still in a cache when they are read again, and threads do not wait for each other in between.
Each column is a channel, as in (M, C, 1). Sums and workspace are those of `normdrop._cpu.kernels.row_sums`, and so the
bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise_rows import Columns, Rows, loops_of
from normdrop._cpu.kernels.operations import gradient, normalize
from normdrop._cpu.kernels.row_sums import grid_of, merge_gradients, merge_moments, tile_gradients, tile_moments
from normdrop._cpu.kernels.row_vectors import channel_rows, fill_means, finish_gradients, finish_statistics
from normdrop._cpu.kinds import Index, Memory, Real, Table, Workspace
from normdrop._cpu.lanes.memory import address, pointer
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import READ_AGAIN, TILE

AT_ONCE = TILE  # columns per task

_write_normalized, _ = loops_of(normalize)
_write_gradient, _ = loops_of(gradient)


@helper
def _columns(task: Index, width: Index) -> Any:
    """Columns of a task: (first, end)."""
    return task * AT_ONCE, min(task * AT_ONCE + AT_ONCE, width)


@kernel("OIPwwPf")
def batch_norm(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, work: Workspace, eps: Real
) -> None:
    """Statistics and y of each channel. Parallel over columns."""
    grid = grid_of(x.shape)
    width, n_blocks = grid[1], grid[4]
    rows = channel_rows(work, grid)
    large = should_stream(y, x, READ_AGAIN)
    for task in prange((width + AT_ONCE - 1) // AT_ONCE):
        columns = _columns(task, width)
        first, end = columns
        for b in range(n_blocks):
            tile_moments(pointer(work, 0), pointer(x, 0), grid, (b, first, end))
        merge_moments(statistics, pointer(x, 0), pointer(work, 0), (x.shape, grid), columns)
        finish_statistics(statistics, (gamma, beta), eps, rows, columns)
        tall = Rows(0, x.shape[0], width, large)
        _write_normalized(pointer(y, 0), (pointer(x, 0),), tall, columns, Columns(rows[:3], ()))
        fence()


@kernel("OIIPpwP")
def backward(dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] and dx of each channel. Parallel over columns."""
    grid = grid_of(x.shape)
    width, n_blocks = grid[1], grid[4]
    rows = channel_rows(work, grid)
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for task in prange((width + AT_ONCE - 1) // AT_ONCE):
        columns = _columns(task, width)
        first, end = columns
        fill_means(rows, statistics, columns)
        for b in range(n_blocks):
            tile_gradients(pointer(work, 0), (pointer(dy, 0), pointer(x, 0)), grid, (b, first, end), rows[0])
        merge_gradients(sums, pointer(work, 0), (x.shape, grid), statistics, columns)
        finish_gradients(sums, (statistics, gamma), np.float64(x.shape[0]), rows, columns)
        tall, inputs = Rows(0, x.shape[0], width, large), (pointer(dy, 0), pointer(x, 0))
        _write_gradient(pointer(dx, 0), inputs, tall, columns, Columns(rows, ()))
        fence()
