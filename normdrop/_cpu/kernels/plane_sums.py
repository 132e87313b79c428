"""Sums of channels that lie in planes: in long runs, as in channels-first arrays (outer, C, inner).

Statistics are sums over blocks of a channel, sum(a - p) and sum((a - p) * (b - q)): the moments with a = b = x and p
= q the block's first value, the gradients with a = dy, p = 0, b = x, q = mean. Blocks follow from the shape; each is
summed in 16 float64 lanes, the lanes in a fixed tree, the blocks in order: the bits do not depend on threads. Until
blocks are merged, the mean of each is kept as what it is above the channel's first value: as a number of its own it
would lose digits to a mean far from zero.

A workspace has a row for each channel: first the sums of its blocks, then the numbers of the element-wise loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.blocks import PLANE_BLOCK
from normdrop._cpu.kernels.arithmetic import centered, squares_about
from normdrop._cpu.kinds import Grid, Index, Memory, Shape, Workspace
from normdrop._cpu.lanes.memory import element, load
from normdrop._cpu.lanes.simd import LANES, splat, sum_lanes, widen
from normdrop._cpu.lanes.streaming import prefetch_range
from normdrop._cpu.toolchain.launch import helper

_NUMBERS = 4  # per channel, of element-wise loops


def geometry(shape: Shape) -> Any:
    """Return the grid (*shape, planes per block, values per plane and block, blocks per plane, blocks per channel)."""
    outer, n_channels, inner = shape
    length = min(inner, PLANE_BLOCK)
    planes = max(1, PLANE_BLOCK // inner)
    runs = (inner + length - 1) // length
    return outer, n_channels, inner, planes, length, runs, (outer + planes - 1) // planes * runs


def workspace_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    return shape[1], max(_NUMBERS, 2 * geometry(shape)[6])


grid_of = helper(geometry)


@helper
def n_blocks(grid: Grid) -> Any:
    """Blocks per channel."""
    return grid[6]


@helper
def _block(grid: Grid, channel: Index, b: Index) -> Any:
    """Block b of a channel: (offset of its first value, planes, values per plane)."""
    outer, n_channels, inner, planes, length, runs, _ = grid
    if n_blocks(grid) == 1:  # short channels, for which divisions take long
        return channel * inner, outer, inner
    o, i = (b // runs) * planes, (b % runs) * length
    return (o * n_channels + channel) * inner + i, min(planes, outer - o), min(length, inner - i)


@helper
def _block_sums(a: Memory, b: Memory, block: Any, stride: Index, shifts: Any, ahead: Any, apart: Any) -> Any:
    """sum(a - p), sum((a - p) * (b - q)) over a block of flat arrays; planes are `stride` apart, shifts = (p, q).

    If `ahead` is positive, b is prefetched so many elements ahead. apart = (d, e): in plane k of the block, a lies
    d + k * e elements before b.
    """
    start, n_planes, length = block
    p, q = shifts
    ps, qs = splat(p), splat(q)
    s0, s1, t0, t1 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    s, t = 0.0, 0.0
    for plane in range(n_planes):
        i = start + plane * stride
        stop, d = i + length, apart[0] + plane * apart[1]
        while i + 2 * LANES <= stop:
            if ahead > 0:
                prefetch_range(b, i + ahead, 2 * LANES)
            u0 = widen(load(a, i - d)) - ps
            u1 = widen(load(a, i + LANES - d)) - ps
            t0 += u0 * (widen(load(b, i)) - qs)
            t1 += u1 * (widen(load(b, i + LANES)) - qs)
            s0 += u0
            s1 += u1
            i += 2 * LANES
        if i + LANES <= stop:
            if ahead > 0:
                prefetch_range(b, i + ahead, LANES)
            u0 = widen(load(a, i - d)) - ps
            t0 += u0 * (widen(load(b, i)) - qs)
            s0 += u0
            i += LANES
        while i < stop:
            u = element(a, i - d) - p
            t += u * (element(b, i) - q)
            s += u
            i += 1
    return s + sum_lanes(s0 + s1), t + sum_lanes(t0 + t1)


@helper
def block_moments(work: Workspace, x: Memory, places: Any, ahead: Any) -> None:
    """work[channel, 2b], [.., 2b + 1] = mean of a block, less the channel's first x, and sum of squares about it.

    places = (grid, channel, b).
    """
    grid, channel, b = places
    block = _block(grid, channel, b)
    shift = element(x, block[0])
    s, t = _block_sums(x, x, block, grid[1] * grid[2], (shift, shift), ahead, (0, 0))
    offset, m2 = centered(s, t, block[1] * block[2])
    work[channel, 2 * b], work[channel, 2 * b + 1] = shift - element(x, channel * grid[2]) + offset, m2


@helper
def merged_moments(work: Workspace, x: Memory, grid: Grid, channel: Index) -> Any:
    """Mean and biased variance of a channel from those of its blocks; only non-negative terms are added."""
    base, first = element(x, channel * grid[2]), work[channel, 0]
    n = np.float64(grid[0] * grid[2])
    if n_blocks(grid) == 1:
        offset = first - first  # 0, or NaN
        return base + first + offset, (work[channel, 1] + offset) / n
    offset, m2 = 0.0, 0.0
    for b in range(n_blocks(grid)):
        block = _block(grid, channel, b)
        offset += (work[channel, 2 * b] - first) * (block[1] * block[2])
    mean = first + offset / n
    for b in range(n_blocks(grid)):
        block = _block(grid, channel, b)
        delta = work[channel, 2 * b] - mean
        m2 += squares_about(work[channel, 2 * b + 1], delta, block[1] * block[2])
    return base + mean, m2 / n


@helper
def block_gradients(work: Workspace, arrays: Any, places: Any, mean: Any, ahead: Any) -> None:
    """work[channel, 2b], [.., 2b + 1] = sum(dy), sum(dy * (x - mean)) in a block as of `block_moments`."""
    (dy, x), (grid, channel, b) = arrays, places
    s, t = _block_sums(dy, x, _block(grid, channel, b), grid[1] * grid[2], (0.0, mean), ahead, (0, 0))
    work[channel, 2 * b], work[channel, 2 * b + 1] = s, t


@helper
def block_gradients_of_slab(work: Workspace, arrays: Any, places: Any, mean: Any, slab: Any) -> None:
    """As `block_gradients`, where dy is a slab = (its first channel, elements from one image to the next)."""
    (dy, x), (grid, channel, b) = arrays, places
    block, stride = _block(grid, channel, b), grid[1] * grid[2]
    between = stride - slab[1]
    apart = slab[0] * grid[2] + block[0] // stride * between, between
    s, t = _block_sums(dy, x, block, stride, (0.0, mean), 0, apart)
    work[channel, 2 * b], work[channel, 2 * b + 1] = s, t


@helper
def merged_gradients(work: Workspace, grid: Grid, channel: Index) -> Any:
    """Sums of a channel from those of its blocks."""
    s, t = 0.0, 0.0
    for b in range(n_blocks(grid)):
        s += work[channel, 2 * b]
        t += work[channel, 2 * b + 1]
    return s, t
