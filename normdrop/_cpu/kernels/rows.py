"""Kernels by rows: all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

`normdrop._cpu.kernels.row_sums` says how the array is read as rows and what is in the workspace. The vectors of
element-wise loops, those of `normdrop._cpu.kernels.elementwise_rows`, are spread over the columns and go on beyond the
last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise import Run
from normdrop._cpu.kernels.elementwise_rows import Columns, Rows, loops_of, side_by_side
from normdrop._cpu.kernels.operations import gradient
from normdrop._cpu.kernels.operations import normalize as normalized
from normdrop._cpu.kernels.row_sums import (
    grid_of,
    merge_gradients,
    merge_moments,
    n_tiles,
    row_width,
    tile_gradients,
    tile_moments,
    tile_of,
    workspace_shape,
)
from normdrop._cpu.kernels.row_vectors import (
    channel_rows,
    finish_gradients,
    finish_statistics,
    row_part,
    spread,
    spread_means,
)
from normdrop._cpu.kinds import Flag, Index, Inputs, Memory, Real, Table, Workspace
from normdrop._cpu.lanes.memory import address, pointer, store
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN, STRIP

__all__ = ["backward", "batch_norm", "gradients", "moments", "normalize", "row_width", "workspace_shape"]


_normalize_rows, _normalize_run = loops_of(normalized)
_gradient_rows, _gradient_run = loops_of(gradient)


class _Tasks(NamedTuple):
    """Tasks of an element-wise loop over rows: how many, elements of each, and how they are done.

    strip = columns of a strip if rows go side by side, else 0; streaming: whether the result is streamed. Into a
    parallel loop goes a plain tuple: Numba does not find the name of another there.
    """

    n: Index
    elements: Any
    strip: Any
    streaming: Flag


@helper
def tasks_of(y: Memory, width: Index, n_vectors: Index, streaming: Flag) -> Any:
    """The tasks of a loop that reads so many vectors, as a plain tuple."""
    strip, elements = 0, CHUNK
    if side_by_side(y, width, n_vectors, streaming):
        strip, elements = width if streaming else STRIP, max(2, CHUNK // width // 2 * 2) * width
    return (y.size + elements - 1) // elements, elements, strip, streaming


@helper
def range_of(plan: Any, task: Index, size: Index) -> Any:
    """Elements of a task: [start, stop)."""
    return task * plan[1], min(task * plan[1] + plan[1], size)


@helper
def write_task(
    y: Memory, inputs: Inputs, elements: Any, plan: Any, width: Index, write_rows: Any, write_run: Any, numbers: Any
) -> None:
    """Write a task's elements [start, stop); y and inputs begin with the first of them; plan is that of `tasks_of`.

    The loops of the operation come one by one: a tuple of functions is to Numba an experiment of which it warns.
    """
    tasks = _Tasks(*plan)
    start, stop = elements
    n, first = stop - start, 0
    if tasks.strip > 0:
        rows = Rows(0, n // width, width, tasks.streaming)
        for column in range(0, width, tasks.strip):
            write_rows(y, inputs, rows, (column, min(column + tasks.strip, width)), numbers)
        first = rows.n * width  # a shorter row may be left
    write_run(y, inputs, Run(first, n, tasks.streaming), (start + first) % width, width, numbers)
    fence()


@kernel("PIP")
def moments(statistics: Table, x: Memory, work: Workspace) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over tiles."""
    grid = grid_of(x.shape)
    width = grid[1]
    for task in prange(n_tiles(grid)):
        tile_moments(pointer(work, 0), pointer(x, 0), grid, tile_of(grid, task))
    merge_moments(statistics, pointer(x, 0), pointer(work, 0), (x.shape, grid), (0, width))


@kernel("OIpP")
def normalize(y: Memory, x: Memory, vectors: Table, work: Workspace) -> None:
    """y = (x - mean) * scale + shift per channel; vectors = [mean, scale, shift]. Parallel over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    mean, scale, shift, _ = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(mean, c, row_part(vectors, 0, c))
        store(scale, c, row_part(vectors, 1, c))
        store(shift, c, row_part(vectors, 2, c))
    spread(work, x.shape, grid, (0, 3))
    plan = tasks_of(y, width, 3, should_stream(y, x, READ_AGAIN))
    for task in prange(plan[0]):
        start, stop = range_of(plan, task, x.size)
        to, inputs, numbers = pointer(y, start), (pointer(x, start),), Columns((mean, scale, shift), ())
        write_task(to, inputs, (start, stop), plan, width, _normalize_rows, _normalize_run, numbers)


@kernel("OIPwwPf")
def batch_norm(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, work: Workspace, eps: Real
) -> None:
    """Statistics and y of each channel. Parallel over tiles, then over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    for task in prange(n_tiles(grid)):
        tile_moments(pointer(work, 0), pointer(x, 0), grid, tile_of(grid, task))
    merge_moments(statistics, pointer(x, 0), pointer(work, 0), (x.shape, grid), (0, width))
    rows = channel_rows(work, grid)
    finish_statistics(statistics, (gamma, beta), eps, rows, (0, x.shape[1]))
    spread(work, x.shape, grid, (0, 3))
    plan = tasks_of(y, width, 3, should_stream(y, x, READ_AGAIN))
    for task in prange(plan[0]):
        start, stop = range_of(plan, task, x.size)
        to, inputs, numbers = pointer(y, start), (pointer(x, start),), Columns(rows[:3], ())
        write_task(to, inputs, (start, stop), plan, width, _normalize_rows, _normalize_run, numbers)


@kernel("PIIpP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel. Parallel over tiles."""
    grid = grid_of(x.shape)
    rows = spread_means(work, statistics, x.shape, grid)
    for task in prange(n_tiles(grid)):
        tile_gradients(pointer(work, 0), (pointer(dy, 0), pointer(x, 0)), grid, tile_of(grid, task), rows[0])
    merge_gradients(sums, pointer(work, 0), (x.shape, grid), statistics, (0, grid[1]))


@kernel("OIIPpwP")
def backward(dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, work: Workspace) -> None:
    """sums of `gradients`, and dx of each channel. Parallel over tiles, then over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    rows = spread_means(work, statistics, x.shape, grid)
    for task in prange(n_tiles(grid)):
        tile_gradients(pointer(work, 0), (pointer(dy, 0), pointer(x, 0)), grid, tile_of(grid, task), rows[0])
    merge_gradients(sums, pointer(work, 0), (x.shape, grid), statistics, (0, grid[1]))
    finish_gradients(sums, (statistics, gamma), np.float64(x.shape[0] * x.shape[2]), rows, (0, x.shape[1]))
    spread(work, x.shape, grid, (1, 4))
    plan = tasks_of(dx, width, 4, should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy))
    for task in prange(plan[0]):
        start, stop = range_of(plan, task, x.size)
        to, inputs, numbers = pointer(dx, start), (pointer(dy, start), pointer(x, start)), Columns(rows, ())
        write_task(to, inputs, (start, stop), plan, width, _gradient_rows, _gradient_run, numbers)
