"""Kernels by planes in which not all positions count; `normdrop._cpu.kernels.planes` has those in which all do.

Positions are the places (outer, inner) that all channels share: a mask says which of them count, and weights how often,
or nothing if that is once. Sums are taken over the blocks of `normdrop._cpu.kernels.plane_sums`, of what counts in
them; blocks in which nothing does are passed over. The workspace has the rows of that module and one more for the
blocks: the weights' sum and the first position that counts of each, and then the first of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.arithmetic import centered, squares_about
from normdrop._cpu.kernels.elementwise import Numbers, Run, numbers_of, write_run
from normdrop._cpu.kernels.masked_operations import masked, masked_gradient, once, weight, weighted_gradient
from normdrop._cpu.kernels.plane_sums import geometry, grid_of, merged_gradients
from normdrop._cpu.kernels.planes import finish_gradients, finish_statistics
from normdrop._cpu.kinds import Flag, Grid, Index, Memory, Operation, Real, Shape, Table, Workspace
from normdrop._cpu.lanes.bits import keep, load_bits
from normdrop._cpu.lanes.memory import address, element, load, load_part, pointer
from normdrop._cpu.lanes.simd import LANES, splat, sum_lanes, widen
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

_NUMBERS = 5  # per channel, of element-wise loops


def workspace_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    return shape[1] + 1, max(_NUMBERS, 2 * geometry(shape)[6] + 1)


@helper
def _block(grid: Grid, b: Index) -> Any:
    """Block b of every channel: (first image, first place in it, images, places in each)."""
    outer, _, inner, planes, length, runs, _ = grid
    o, i = (b // runs) * planes, (b % runs) * length
    return o, i, min(planes, outer - o), min(length, inner - i)


@helper
def _place(shape: Shape, channel: Index, position: Index) -> Any:
    """Where a channel has its value at a position."""
    _, n_channels, inner = shape
    return (position // inner * n_channels + channel) * inner + position % inner


@helper
def _first(n: Index) -> Any:
    """The bits of the first n of 16."""
    return np.uint16((1 << min(n, LANES)) - 1)


@helper
def _measured(work: Workspace, positions: Any, grid: Grid, b: Index, weigh: Operation) -> None:
    """The last row of the workspace: the sum of a block's weights, and the first position that counts."""
    mask, weights = positions
    first_image, i, n_images, length = _block(grid, b)
    total, first = splat(0.0), -1
    for image in range(first_image, first_image + n_images):
        k = image * grid[2] + i
        stop = k + length
        while k < stop:
            counted = np.uint16(load_bits(mask, k) & _first(stop - k))
            total += keep(counted, weigh(weights, k))
            if first < 0 and counted > 0:
                first = k
                while (counted >> np.uint16(first - k)) & 1 == 0:
                    first += 1
            k += LANES
    row = work.shape[0] - 1
    work[row, 2 * b], work[row, 2 * b + 1] = sum_lanes(total), np.float64(first)


@helper
def _measure(work: Workspace, mask: Memory, weights: Memory, grid: Grid) -> None:
    """The last row of the workspace, of all blocks."""
    row, blocks = work.shape[0] - 1, grid[6]
    for b in range(blocks):
        if weights.size > 0:
            _measured(work, (mask, weights), grid, b, weight)
        else:
            _measured(work, (mask, weights), grid, b, once)
    work[row, 2 * blocks] = -1.0
    for b in range(blocks - 1, -1, -1):
        if work[row, 2 * b + 1] >= 0.0:
            work[row, 2 * blocks] = work[row, 2 * b + 1]


@helper
def _sums(arrays: Any, positions: Any, places: Any, shifts: Any, weigh: Operation) -> Any:
    """sum(a - p), sum((a - p) * (b - q)) over what counts in a block; arrays = (a, b), shifts = (p, q)."""
    (a, b), (mask, weights), (grid, channel, block) = arrays, positions, places
    _, n_channels, inner, _, _, _, _ = grid
    first_image, i, n_images, length = _block(grid, block)
    ps, qs = splat(shifts[0]), splat(shifts[1])
    s0, s1, t0, t1 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for image in range(first_image, first_image + n_images):
        at, k = (image * n_channels + channel) * inner + i, image * inner + i
        stop = at + length
        while at + 2 * LANES <= stop:
            c0, c1 = load_bits(mask, k), load_bits(mask, k + LANES)
            u0 = weigh(weights, k) * keep(c0, widen(load(a, at)) - ps)
            u1 = weigh(weights, k + LANES) * keep(c1, widen(load(a, at + LANES)) - ps)
            t0 += u0 * keep(c0, widen(load(b, at)) - qs)
            t1 += u1 * keep(c1, widen(load(b, at + LANES)) - qs)
            s0 += u0
            s1 += u1
            at += 2 * LANES
            k += 2 * LANES
        if at + LANES <= stop:
            counted = load_bits(mask, k)
            u = weigh(weights, k) * keep(counted, widen(load(a, at)) - ps)
            t0 += u * keep(counted, widen(load(b, at)) - qs)
            s0 += u
            at += LANES
            k += LANES
        if at < stop:
            counted = np.uint16(load_bits(mask, k) & _first(stop - at))
            u = weigh(weights, k) * keep(counted, widen(load_part(a, at, at, stop)) - ps)
            t1 += u * keep(counted, widen(load_part(b, at, at, stop)) - qs)
            s1 += u
    s, t = s0 + s1, t0 + t1
    return sum_lanes(s), sum_lanes(t)


@helper
def _block_moments(work: Workspace, x: Memory, positions: Any, places: Any, weigh: Operation) -> None:
    """work[channel, 2b], [.., 2b + 1] = mean of a block, less the channel's first value, and squares about it."""
    grid, channel, b = places
    row, shape = work.shape[0] - 1, (grid[0], grid[1], grid[2])
    n, first = work[row, 2 * b], np.int64(work[row, 2 * b + 1])
    if first < 0:
        return
    shift = element(x, _place(shape, channel, first))
    s, t = _sums((x, x), positions, places, (shift, shift), weigh)
    offset, m2 = centered(s, t, n)
    base = element(x, _place(shape, channel, np.int64(work[row, 2 * grid[6]])))
    work[channel, 2 * b], work[channel, 2 * b + 1] = shift - base + offset, m2


@helper
def block_moments(work: Workspace, x: Memory, positions: Any, places: Any) -> None:
    """The same with weights or without."""
    if positions[1].size > 0:
        _block_moments(work, x, positions, places, weight)
    else:
        _block_moments(work, x, positions, places, once)


@helper
def merged_moments(work: Workspace, x: Memory, grid: Grid, channel: Index) -> Any:
    """Mean and biased variance of a channel from those of its blocks; only non-negative terms are added."""
    row, blocks = work.shape[0] - 1, grid[6]
    base = element(x, _place((grid[0], grid[1], grid[2]), channel, np.int64(work[row, 2 * blocks])))
    first, n, offset, m2 = 0.0, 0.0, 0.0, 0.0
    for b in range(blocks):
        if work[row, 2 * b + 1] >= 0.0:
            if n == 0.0:
                first = work[channel, 2 * b]
            offset += (work[channel, 2 * b] - first) * work[row, 2 * b]
            n += work[row, 2 * b]
    mean = first + offset / n
    for b in range(blocks):
        if work[row, 2 * b + 1] >= 0.0:
            m2 += squares_about(work[channel, 2 * b + 1], work[channel, 2 * b] - mean, work[row, 2 * b])
    return base + mean, m2 / n


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
def _write_plane(y: Memory, x: Memory, mask: Memory, shape: Shape, plane: Any, streaming: Flag, numbers: Any) -> None:
    """y of plane = (image, channel)."""
    _, n_channels, inner = shape
    start = (plane[0] * n_channels + plane[1]) * inner
    inputs = pointer(x, start), pointer(mask, plane[0] * inner)
    write_run(pointer(y, start), inputs, Run(0, inner, streaming), masked, numbers_of(numbers, plane[1]), None)


@helper
def _write_gradient(
    dx: Memory, inputs: Any, positions: Any, shape: Shape, plane: Any, streaming: Flag, numbers: Any
) -> None:
    """dx of plane = (image, channel)."""
    _, n_channels, inner = shape
    start, k = (plane[0] * n_channels + plane[1]) * inner, plane[0] * inner
    (dy, x), (mask, weights) = inputs, positions
    run, last = Run(0, inner, streaming), numbers_of(numbers, plane[1])
    if weights.size > 0:
        four = pointer(dy, start), pointer(x, start), pointer(mask, k), pointer(weights, k)
        write_run(pointer(dx, start), four, run, weighted_gradient, last, None)
    else:
        three = pointer(dy, start), pointer(x, start), pointer(mask, k)
        write_run(pointer(dx, start), three, run, masked_gradient, last, None)


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
    _measure(work, mask, weights, grid)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (mask, weights), (grid, task // blocks, task % blocks))
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
            _write_plane(pointer(y, 0), pointer(x, 0), mask, x.shape, at, large, numbers)
        fence()


@kernel("OIPwwmsPfn")
def batch_norm(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, mask: Memory, weights: Memory,
    work: Workspace, eps: Real, rest: Index,
) -> None:  # fmt: skip
    """Statistics and y of each channel, while it is in the cache. Parallel over channels."""
    grid = grid_of(x.shape)
    large = should_stream(y, x, READ_AGAIN)
    _measure(work, mask, weights, grid)
    for c in prange(x.shape[1]):
        for b in range(grid[6]):
            block_moments(work, pointer(x, 0), (mask, weights), (grid, c, b))
        finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), (gamma, beta), eps, work)
        numbers = _numbers(work, np.uint16(rest))
        for o in range(x.shape[0]):
            _write_plane(pointer(y, 0), pointer(x, 0), mask, x.shape, (o, c), large, numbers)
        fence()


@helper
def _gradient_sums(work: Workspace, arrays: Any, positions: Any, places: Any, mean: Real) -> None:
    """work[channel, 2b], [.., 2b + 1] = sum(dy), sum(dy * (x - mean)) over what counts in a block."""
    _, channel, b = places
    s, t = _sums(arrays, positions, places, (0.0, mean), once)
    work[channel, 2 * b], work[channel, 2 * b + 1] = s, t


@kernel("PIIpmP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, mask: Memory, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel, over what counts. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = grid[6]
    for task in prange(x.shape[1] * blocks):
        c = task // blocks
        inputs = pointer(dy, 0), pointer(x, 0)
        _gradient_sums(work, inputs, (mask, mask), (grid, c, task % blocks), statistics[0, c])
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
        for k in range(_NUMBERS):
            work[c, k] = vectors[k, c]
    for task in prange(_planes_of_task(x.shape, 0)[2]):
        numbers = _gradient_numbers(work, np.uint16(rest))
        first, end, _ = _planes_of_task(x.shape, task)
        for plane in range(first, end):
            at = plane // x.shape[1], plane % x.shape[1]
            inputs = pointer(dy, 0), pointer(x, 0)
            _write_gradient(pointer(dx, 0), inputs, (mask, weights), x.shape, at, large, numbers)
        fence()


@kernel("OIIPpwmsPfn")
def backward(
    dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, mask: Memory, weights: Memory,
    work: Workspace, n: Real, rest: Index,
) -> None:  # fmt: skip
    """sums of `gradients`, and dx of each channel, while it is in the cache; n = sum of all weights.

    Parallel over channels.
    """
    grid = grid_of(x.shape)
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for c in prange(x.shape[1]):
        inputs = pointer(dy, 0), pointer(x, 0)
        for b in range(grid[6]):
            _gradient_sums(work, inputs, (mask, mask), (grid, c, b), statistics[0, c])
        finish_gradients(sums, c, merged_gradients(work, grid, c), (statistics, gamma), n, work)
        work[c, 4] = 1.0
        numbers = _gradient_numbers(work, np.uint16(rest))
        for o in range(x.shape[0]):
            _write_gradient(pointer(dx, 0), inputs, (mask, weights), x.shape, (o, c), large, numbers)
        fence()
