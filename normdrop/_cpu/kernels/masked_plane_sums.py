"""Sums of channels in planes over the positions that count: those of `normdrop._cpu.kernels.plane_sums` otherwise.

Positions are the places (outer, inner) that all channels share: a mask says which of them count, and weights how often,
or nothing if that is once. Blocks in which nothing counts are passed over. The workspace has the rows of that module
and one more for the blocks: the weights' sum and the first position that counts of each, and then the first of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.kernels.arithmetic import centered, squares_about
from normdrop._cpu.kernels.masked_operations import once, weight
from normdrop._cpu.kernels.plane_sums import geometry
from normdrop._cpu.kinds import Grid, Index, Memory, Operation, Real, Shape, Workspace
from normdrop._cpu.lanes.bits import keep, load_bits
from normdrop._cpu.lanes.memory import element, load, load_part
from normdrop._cpu.lanes.simd import LANES, splat, sum_lanes, widen
from normdrop._cpu.lanes.streaming import prefetch_range
from normdrop._cpu.toolchain.launch import helper

NUMBERS = 5  # per channel, of element-wise loops


def workspace_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    return shape[1] + 1, max(NUMBERS, 2 * geometry(shape)[6] + 1)


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
def measure(work: Workspace, mask: Memory, weights: Memory, grid: Grid) -> None:
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
def _sums(arrays: Any, positions: Any, places: Any, shifts: Any, weigh: Operation, ahead: Index) -> Any:
    """sum(a - p), sum((a - p) * (b - q)) over what counts in a block; arrays = (a, b), shifts = (p, q).

    If `ahead` is positive, b is prefetched so many elements ahead.
    """
    (a, b), (mask, weights), (grid, channel, block) = arrays, positions, places
    _, n_channels, inner, _, _, _, _ = grid
    first_image, i, n_images, length = _block(grid, block)
    ps, qs = splat(shifts[0]), splat(shifts[1])
    s0, s1, t0, t1 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for image in range(first_image, first_image + n_images):
        at, k = (image * n_channels + channel) * inner + i, image * inner + i
        stop = at + length
        while at + 2 * LANES <= stop:
            if ahead > 0:
                prefetch_range(b, at + ahead, 2 * LANES)
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
            if ahead > 0:
                prefetch_range(b, at + ahead, LANES)
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
def _block_moments(work: Workspace, x: Memory, positions: Any, places: Any, weigh: Operation, ahead: Index) -> None:
    """work[channel, 2b], [.., 2b + 1] = mean of a block, less the channel's first value, and squares about it."""
    grid, channel, b = places
    row, shape = work.shape[0] - 1, (grid[0], grid[1], grid[2])
    n, first = work[row, 2 * b], np.int64(work[row, 2 * b + 1])
    if first < 0:
        return
    shift = element(x, _place(shape, channel, first))
    s, t = _sums((x, x), positions, places, (shift, shift), weigh, ahead)
    offset, m2 = centered(s, t, n)
    base = element(x, _place(shape, channel, np.int64(work[row, 2 * grid[6]])))
    work[channel, 2 * b], work[channel, 2 * b + 1] = shift - base + offset, m2


@helper
def block_moments(work: Workspace, x: Memory, positions: Any, places: Any, ahead: Index) -> None:
    """The same with weights or without."""
    if positions[1].size > 0:
        _block_moments(work, x, positions, places, weight, ahead)
    else:
        _block_moments(work, x, positions, places, once, ahead)


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
def block_gradients(work: Workspace, arrays: Any, positions: Any, places: Any, mean: Real, ahead: Index) -> None:
    """work[channel, 2b], [.., 2b + 1] = sum(dy), sum(dy * (x - mean)) over what counts in a block."""
    _, channel, b = places
    s, t = _sums(arrays, positions, places, (0.0, mean), once, ahead)
    work[channel, 2 * b], work[channel, 2 * b + 1] = s, t
