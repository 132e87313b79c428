"""Kernels by planes in which not all positions count; `normdrop._cpu.kernels.planes` has those in which all do.

`normdrop._cpu.kernels.masked_plane_sums` says how sums are taken and what is in the workspace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.elementwise import Numbers, Run, numbers_of, write_run
from normdrop._cpu.kernels.masked_operations import masked, masked_gradient, weighted_gradient
from normdrop._cpu.kernels.masked_plane_sums import (
    NUMBERS,
    block_gradients,
    block_moments,
    measure,
    merged_moments,
    workspace_shape,
)
from normdrop._cpu.kernels.plane_sums import grid_of, merged_gradients
from normdrop._cpu.kernels.planes import channels_at_once, finish_gradients, finish_statistics, prefetched
from normdrop._cpu.kinds import Index, Memory, Real, Shape, Table, Workspace
from normdrop._cpu.lanes.memory import address, item_size, pointer
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN

__all__ = [
    "backward",
    "batch_norm",
    "gradients",
    "input_gradient",
    "moments",
    "normalize",
    "workspace_shape",
]


@helper
def _numbers(work: Workspace, rest: Any) -> Numbers:
    """The numbers of normalization of each channel in the workspace."""
    first = pointer(work, 0)
    return Numbers((first, pointer(first, 1), pointer(first, 2)), work.shape[1], (rest,))


@helper
def _gradient_numbers(work: Workspace, rest: Any) -> Numbers:
    """The numbers of its gradient."""
    first = pointer(work, 0)
    rows = first, pointer(first, 1), pointer(first, 2), pointer(first, 3), pointer(first, 4)
    return Numbers(rows, work.shape[1], (rest,))


@helper
def _write_plane(y: Memory, x: Memory, mask: Memory, shape: Shape, plane: Any, how: Any, numbers: Any) -> None:
    """y of plane = (image, channel); how = (whether streamed, how far ahead to prefetch x)."""
    _, n_channels, inner = shape
    start = (plane[0] * n_channels + plane[1]) * inner
    inputs, run = (pointer(x, start), pointer(mask, plane[0] * inner)), Run(0, inner, how[0])
    ahead = (pointer(x, start),), (how[1],)
    write_run(pointer(y, start), inputs, run, masked, numbers_of(numbers, plane[1]), ahead)


@helper
def _write_gradient(dx: Memory, inputs: Any, positions: Any, shape: Shape, plane: Any, how: Any, numbers: Any) -> None:
    """dx of plane = (image, channel); how = (whether streamed, how far ahead to prefetch dy, and x)."""
    _, n_channels, inner = shape
    start, k = (plane[0] * n_channels + plane[1]) * inner, plane[0] * inner
    (dy, x), (mask, weights) = inputs, positions
    run, last = Run(0, inner, how[0]), numbers_of(numbers, plane[1])
    ahead = (pointer(dy, start), pointer(x, start)), (how[1], how[2])
    if weights.size > 0:
        four = pointer(dy, start), pointer(x, start), pointer(mask, k), pointer(weights, k)
        write_run(pointer(dx, start), four, run, weighted_gradient, last, ahead)
    else:
        three = pointer(dy, start), pointer(x, start), pointer(mask, k)
        write_run(pointer(dx, start), three, run, masked_gradient, last, ahead)


@helper
def _planes_of_task(shape: Shape, task: Index) -> Any:
    """Planes [first, end) of a task, and how many tasks there are."""
    outer, n_channels, inner = shape
    size = max(1, CHUNK // inner)
    n = outer * n_channels
    return task * size, min(task * size + size, n), (n + size - 1) // size


@kernel("PImsP")
def moments(statistics: Table, x: Memory, mask: Memory, weights: Memory, work: Workspace) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = grid[6]
    measure(work, mask, weights, grid)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (mask, weights), (grid, task // blocks, task % blocks), 0)
    for c in range(x.shape[1]):
        statistics[0, c], statistics[1, c] = merged_moments(work, pointer(x, 0), grid, c)


@kernel("OIpmnP")
def normalize(y: Memory, x: Memory, vectors: Table, mask: Memory, rest: Index, work: Workspace) -> None:
    """y = (x - mean) * scale + shift where it counts, else 0, or x if `rest`. Parallel over planes."""
    large = should_stream(y, x, READ_AGAIN)
    for c in range(x.shape[1]):
        work[c, 0], work[c, 1], work[c, 2] = vectors[0, c], vectors[1, c], vectors[2, c]
    for task in prange(_planes_of_task(x.shape, 0)[2]):
        numbers = _numbers(work, np.uint16(rest))
        first, end, _ = _planes_of_task(x.shape, task)
        for plane in range(first, end):
            at = plane // x.shape[1], plane % x.shape[1]
            _write_plane(pointer(y, 0), pointer(x, 0), mask, x.shape, at, (large, 0), numbers)
        fence()


@kernel("OIPwwmsPfn")
def batch_norm(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, mask: Memory, weights: Memory,
    work: Workspace, eps: Real, rest: Index,
) -> None:  # fmt: skip
    """Statistics and y of each channel, while it is in the cache. Parallel over groups of channels."""
    grid = grid_of(x.shape)
    large = should_stream(y, x, READ_AGAIN)
    measure(work, mask, weights, grid)
    size = item_size(x)
    at_once, _ = channels_at_once(x, size, address(y) == address(x))
    for task in prange((x.shape[1] + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, x.shape[1])
        ahead = prefetched(x, size, end - first)
        for c in range(first, end):
            for b in range(grid[6]):
                block_moments(work, pointer(x, 0), (mask, weights), (grid, c, b), ahead[0])
            finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), (gamma, beta), eps, work)
        numbers, how = _numbers(work, np.uint16(rest)), (large, ahead[1])
        for o in range(x.shape[0]):
            for c in range(first, end):
                _write_plane(pointer(y, 0), pointer(x, 0), mask, x.shape, (o, c), how, numbers)
        fence()


@kernel("PIIpmP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, mask: Memory, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel, over what counts. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = grid[6]
    for task in prange(x.shape[1] * blocks):
        c = task // blocks
        inputs = pointer(dy, 0), pointer(x, 0)
        block_gradients(work, inputs, (mask, mask), (grid, c, task % blocks), statistics[0, c], 0)
    for c in range(x.shape[1]):
        s, t = merged_gradients(work, grid, c)
        sums[0, c], sums[1, c] = t * statistics[2, c], s


@kernel("OIIpmsnP")
def input_gradient(
    dx: Memory, dy: Memory, x: Memory, vectors: Table, mask: Memory, weights: Memory, rest: Index, work: Workspace
) -> None:
    """dx by vectors = [mean, mean_dy, slope, scale, factor]. Parallel over planes."""
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for c in range(x.shape[1]):
        for k in range(NUMBERS):
            work[c, k] = vectors[k, c]
    for task in prange(_planes_of_task(x.shape, 0)[2]):
        numbers = _gradient_numbers(work, np.uint16(rest))
        first, end, _ = _planes_of_task(x.shape, task)
        for plane in range(first, end):
            at = plane // x.shape[1], plane % x.shape[1]
            inputs = pointer(dy, 0), pointer(x, 0)
            _write_gradient(pointer(dx, 0), inputs, (mask, weights), x.shape, at, (large, 0, 0), numbers)
        fence()


@kernel("OIIPpwmsPfn")
def backward(
    dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, mask: Memory, weights: Memory,
    work: Workspace, n: Real, rest: Index,
) -> None:  # fmt: skip
    """sums of `gradients`, and dx of each channel, while it is in the cache; n = sum of all weights.

    Parallel over groups of channels.
    """
    grid = grid_of(x.shape)
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    size = item_size(dy) + item_size(x)
    at_once, _ = channels_at_once(x, size, address(dx) == address(x) or address(dx) == address(dy))
    for task in prange((x.shape[1] + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, x.shape[1])
        ahead, inputs = prefetched(x, size, end - first), (pointer(dy, 0), pointer(x, 0))
        for c in range(first, end):
            for b in range(grid[6]):
                block_gradients(work, inputs, (mask, mask), (grid, c, b), statistics[0, c], ahead[0])
            finish_gradients(sums, c, merged_gradients(work, grid, c), (statistics, gamma), n, work)
            work[c, 4] = 1.0
        numbers, how = _gradient_numbers(work, np.uint16(rest)), (large, ahead[2], ahead[1])
        for o in range(x.shape[0]):
            for c in range(first, end):
                _write_gradient(pointer(dx, 0), inputs, (mask, weights), x.shape, (o, c), how, numbers)
        fence()
