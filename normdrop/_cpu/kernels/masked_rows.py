"""Kernels by rows of which not all count: arrays (M, C, 1); `normdrop._cpu.kernels.rows` has those in which all do.

`normdrop._cpu.kernels.masked_row_sums` says how sums are taken and what is in the workspace; the element-wise loops are
in `normdrop._cpu.kernels.masked_row_loops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise_rows import Columns
from normdrop._cpu.kernels.masked_operations import masked, masked_gradient, weight_of, weighted_gradient
from normdrop._cpu.kernels.masked_row_loops import Stack, loop_of
from normdrop._cpu.kernels.masked_row_sums import (
    gradients_of_task,
    grid_of,
    measure,
    merge_gradients,
    merge_moments,
    moments_of_task,
    n_tiles,
    vectors_of,
    workspace_shape,
)
from normdrop._cpu.kernels.row_vectors import row_part, spread, spread_means
from normdrop._cpu.kinds import Grid, Index, Memory, Shape, Table, Workspace
from normdrop._cpu.lanes.memory import address, pointer, store
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN

__all__ = ["gradients", "input_gradient", "moments", "normalize", "workspace_shape"]

_write = loop_of(masked)
_write_gradient = loop_of(masked_gradient)
_write_weighted = loop_of(weighted_gradient, weighted=True)


@helper
def _rows_of_task(shape: Shape, task: Index) -> Any:
    """Rows [first, end) of a task, and how many tasks there are."""
    size = max(1, CHUNK // shape[1])
    return task * size, min(task * size + size, shape[0]), (shape[0] + size - 1) // size


@helper
def _stack(shape: Shape, task: Index, how: Any) -> Any:
    """(the first row of a task, all of them); how = (whether streamed, whether the others are read, width)."""
    first, end, _ = _rows_of_task(shape, task)
    return first, Stack(end - first, shape[1], how[0], how[1], first * shape[1] % how[2], how[2])


@helper
def _fill(work: Workspace, vectors: Table, shape: Shape, grid: Grid, n: Any) -> Any:
    """The first n vectors over the columns = those over channels."""
    rows = vectors_of(work, grid)
    for k in range(n):
        for c in range(0, shape[1], LANES):
            store(rows[k], c, row_part(vectors, k, c))
    spread(work, shape, grid, (0, n))
    return rows


@kernel("PIqsP")
def moments(statistics: Table, x: Memory, counted: Memory, weights: Memory, work: Workspace) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over tiles."""
    grid = grid_of(x.shape, counted.size)
    measure(work, (counted, weights), grid, weight_of)
    for task in prange(n_tiles(grid, x.shape[1])):
        moments_of_task(work, pointer(x, 0), (counted, weights), (grid, x.shape[1], task))
    merge_moments(statistics, pointer(x, 0), work, grid, counted[0])


@kernel("OIpmnP")
def normalize(y: Memory, x: Memory, vectors: Table, mask: Memory, rest: Index, work: Workspace) -> None:
    """y = (x - mean) * scale + shift where it counts, else 0, or x if `rest`. Parallel over rows."""
    grid = grid_of(x.shape, 0)
    mean, scale, shift, _, _ = _fill(work, vectors, x.shape, grid, 3)
    large = should_stream(y, x, READ_AGAIN)
    for task in prange(_rows_of_task(x.shape, 0)[2]):
        row, stack = _stack(x.shape, task, (large, rest > 0, grid[1]))
        i, numbers = row * x.shape[1], Columns((mean, scale, shift), (np.uint16(rest),))
        _write(pointer(y, i), (pointer(x, i),), pointer(mask, row), pointer(mask, row), stack, numbers)
        fence()


@kernel("PIIpqP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, counted: Memory, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel, over what counts. Parallel over tiles."""
    grid = grid_of(x.shape, counted.size)
    mean = spread_means(work, statistics, x.shape, grid)[0]
    for task in prange(n_tiles(grid, x.shape[1])):
        inputs = pointer(dy, 0), pointer(x, 0)
        gradients_of_task(work, inputs, counted, (grid, x.shape[1], task), mean)
    merge_gradients(sums, statistics, work, grid)


@kernel("OIIpmsnP")
def input_gradient(
    dx: Memory, dy: Memory, x: Memory, vectors: Table, mask: Memory, weights: Memory, rest: Index, work: Workspace
) -> None:
    """dx by vectors = [mean, mean_dy, slope, scale, factor]. Parallel over rows."""
    grid = grid_of(x.shape, 0)
    rows = _fill(work, vectors, x.shape, grid, 5)
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for task in prange(_rows_of_task(x.shape, 0)[2]):
        row, stack = _stack(x.shape, task, (large, rest > 0, grid[1]))
        i, numbers = row * x.shape[1], Columns(rows, (np.uint16(rest),))
        inputs, decisions = (pointer(dy, i), pointer(x, i)), pointer(mask, row)
        if weights.size > 0:
            _write_weighted(pointer(dx, i), inputs, decisions, pointer(weights, row), stack, numbers)
        else:
            _write_gradient(pointer(dx, i), inputs, decisions, decisions, stack, numbers)
        fence()
