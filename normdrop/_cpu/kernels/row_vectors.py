"""Vectors over the columns of rows: mean, scale and their like, one value per column, made of those per channel.

They lie in the workspace of `normdrop._cpu.kernels.row_sums`, which says how far.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.kernels.arithmetic import slope
from normdrop._cpu.kernels.row_sums import BEYOND
from normdrop._cpu.kinds import Grid, Index, Real, Shape, Table, Workspace
from normdrop._cpu.lanes.memory import load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, sqrt, widen
from normdrop._cpu.toolchain.launch import helper


@helper
def channel_rows(work: Workspace, grid: Grid) -> Any:
    """Where the four vectors are that are spread over the columns."""
    _, _, stride, _, n_blocks = grid
    first = pointer(work, 2 * n_blocks * stride)
    return first, pointer(first, stride), pointer(first, 2 * stride), pointer(first, 3 * stride)


@helper
def spread(work: Workspace, shape: Shape, grid: Grid, ks: Any) -> None:
    """row[v] = row[(v // inner) % C] of the C values that a row begins with; of `channel_rows`, ks[0] to ks[1] - 1."""
    _, n_channels, inner = shape
    _, width, _, _, n_blocks = grid
    for k in range(ks[0], ks[1]):
        row = work[2 * n_blocks + k]
        if inner > 1:
            for c in range(n_channels - 1, -1, -1):
                value = row[c]
                for v in range(c * inner, c * inner + inner):
                    row[v] = value
        for v in range(n_channels * inner, width + BEYOND):
            row[v] = row[v - n_channels * inner]


@helper
def row_part(vectors: Any, k: Index, c: Index) -> Any:
    """16 values of row k from c on, as far as there are any."""
    n = vectors.shape[1]
    return load_part(pointer(vectors, k * n), c, 0, n)


@helper
def fill_means(rows: Any, statistics: Table, channels: Any) -> None:
    """The first of the `channel_rows` = the means of channels in [first, end)."""
    for c in range(channels[0], channels[1], LANES):
        store(rows[0], c, row_part(statistics, 0, c))


@helper
def spread_means(work: Workspace, statistics: Table, shape: Shape, grid: Grid) -> Any:
    """The rows of the workspace for channels, the first of them filled with the means."""
    rows = channel_rows(work, grid)
    fill_means(rows, statistics, (0, shape[1]))
    spread(work, shape, grid, (0, 1))
    return rows


@helper
def finish_statistics(statistics: Table, affine: Any, eps: Real, rows: Any, channels: Any) -> None:
    """statistics[2] = 1 / sqrt(variance + eps), and rows = (mean, gamma * inv_std, beta, ...) in [first, end).

    affine = (gamma, beta).
    """
    gamma, beta = affine
    n_channels = statistics.shape[1]
    for c in range(channels[0], channels[1], LANES):
        inv_std = splat(1.0) / sqrt(row_part(statistics, 1, c) + splat(eps))
        store_part(pointer(statistics, 2 * n_channels), c, inv_std, 0, n_channels)
        store(rows[0], c, row_part(statistics, 0, c))
        store(rows[1], c, widen(load_part(gamma, c, 0, n_channels)) * inv_std)
        store(rows[2], c, widen(load_part(beta, c, 0, n_channels)))


@helper
def finish_gradients(sums: Any, vectors: Any, n: Real, rows: Any, channels: Any) -> None:
    """rows = (mean, mean_dy, slope, scale) of `_formulas.input_gradient` in [first, end), the mean being there already.

    vectors = (statistics, gamma).
    """
    statistics, gamma = vectors
    n_channels = statistics.shape[1]
    for c in range(channels[0], channels[1], LANES):
        inv_std = row_part(statistics, 2, c)
        store(rows[1], c, row_part(sums, 1, c) / splat(n))
        store(rows[2], c, slope(row_part(sums, 0, c), inv_std, splat(n)))
        store(rows[3], c, widen(load_part(gamma, c, 0, n_channels)) * inv_std)
