"""Sums of columns: an array in which all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

The array is read as rows of one width, several of its own rows joined where they are narrow; column v of a row
belongs to channel (v // inner) % C, and a last, shorter row may be left over. The sums are sum(a - p) and sum((a - p)
* (b - q)) of each column over blocks of rows: the moments with a = b = x and p = q the block's first row, the
gradients with a = dy, p = 0, b = x, q = mean. Blocks and then the columns of a channel are merged in order, so that
the bits depend on the shape alone.

A workspace has two rows for the sums of each block and four for vectors spread over the columns; the latter go on
periodically beyond the last column, so that a loop over the flat array can read them from any column on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.arithmetic import centered
from normdrop._cpu.launch import helper
from normdrop._cpu.memory import element, load, load_part, prefetch, store, store_part
from normdrop._cpu.simd import LANES, widen

_BLOCK = 1 << 16  # elements per block of rows
_MAX_ROWS = 1 << 13  # per block; bounds the error of a block's variance
_MIN_WIDTH = 64  # rows narrower than this are joined
_TILE = 512  # columns whose sums stay in the first-level cache
_SPREAD = 4  # vectors spread over the columns
BEYOND = 4 * LANES  # elements by which they go on
# Rows read side by side, so that the sums of a column are loaded and stored once for all of them. Not more: rows that
# are 4096 bytes apart share a set of the first-level cache, and eight rows of two arrays do not fit one.
_AT_ONCE = 4


def geometry(shape: Any) -> Any:
    """Return (width of a row, rows per block, blocks)."""
    outer, n_channels, inner = shape
    joined = max(1, min(outer, (_MIN_WIDTH + n_channels * inner - 1) // (n_channels * inner)))
    width = joined * n_channels * inner
    per_block = min(_MAX_ROWS, max(LANES, _BLOCK // width))
    return width, per_block, max(1, (outer // joined + per_block - 1) // per_block)


def workspace_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a kernel's workspace."""
    width, _, n_blocks = geometry(shape)
    return 2 * n_blocks + _SPREAD, (width + BEYOND + LANES - 1) // LANES * LANES


_geometry = helper(geometry)


@helper
def width_of(shape: Any) -> Any:
    """Columns of a row."""
    return _geometry(shape)[0]


@helper
def n_tiles(shape: Any) -> Any:
    """Tiles of all blocks."""
    width, _, n_blocks = _geometry(shape)
    return n_blocks * ((width + _TILE - 1) // _TILE)


@helper
def tile_of(shape: Any, task: Any) -> Any:
    """Task -> tile = (block, first column, end)."""
    width, _, _ = _geometry(shape)
    n = (width + _TILE - 1) // _TILE
    start = (task % n) * _TILE
    return task // n, start, min(start + _TILE, width)


@helper
def _block_rows(shape: Any, b: Any) -> Any:
    """(rows of block b, columns to which the left-over row adds one)."""
    width, per_block, n_blocks = _geometry(shape)
    size = shape[0] * shape[1] * shape[2]
    return min(per_block, size // width - b * per_block), size % width if b == n_blocks - 1 else 0


@helper
def _row_sums(sums: Any, a: Any, b: Any, block: Any, p: Any, q: Any) -> None:
    """Add sum(a - p), sum((a - p) * (b - q)) of each column to sums = (s, t).

    `a`, `b` flat; block = (start, rows, stride); s, t, p and q are rows of one width, and p may be None for zeros.
    """
    s, t = sums
    start, n_rows, stride = block
    rest = s.size % LANES
    whole = s.size - rest
    for first in range(0, n_rows, _AT_ONCE):
        at_once = min(_AT_ONCE, n_rows - first)
        begin = start + first * stride
        for v in range(0, whole, LANES):
            qs = widen(load(q, v))
            ss, ts = load(s, v), load(t, v)
            i = begin + v
            for _ in range(at_once):
                prefetch(b, i + _AT_ONCE * stride)
                u = widen(load(a, i))
                if p is not None:
                    u = u - widen(load(p, v))
                else:
                    prefetch(a, i + _AT_ONCE * stride)
                ts += u * (widen(load(b, i)) - qs)
                ss += u
                i += stride
            store(s, v, ss)
            store(t, v, ts)
        if rest > 0:
            qs = widen(load_part(q, whole, 0, s.size))
            ss, ts = load_part(s, whole, 0, s.size), load_part(t, whole, 0, s.size)
            i = begin + whole
            for _ in range(at_once):
                u = widen(load_part(a, i, i, i + rest))
                if p is not None:
                    u = u - widen(load_part(p, whole, 0, s.size))
                ts += u * (widen(load_part(b, i, i, i + rest)) - qs)
                ss += u
                i += stride
            store_part(s, whole, ss, 0, s.size)
            store_part(t, whole, ts, 0, s.size)


@helper
def _tile_sums(sums: Any, a: Any, b: Any, places: Any, p: Any, q: Any) -> None:
    """sums = (s, t) of `_row_sums` over a tile's rows and its part of the left-over row; places = (shape, tile)."""
    shape, (block, start, _) = places
    s, t = sums
    width, per_block, _ = _geometry(shape)
    rows, left = _block_rows(shape, block)
    first = block * per_block * width + start
    s[:] = 0.0
    t[:] = 0.0
    left = min(left - start, s.size)
    for part in range(2):  # the rows, then the left-over one; one call, so that it is compiled once
        n_columns, n_rows = (s.size, rows) if part == 0 else (left, 1)
        if n_columns > 0:
            block_rows = first + part * rows * width, n_rows, width
            _row_sums((s[:n_columns], t[:n_columns]), a, b, block_rows, p, q)


@helper
def tile_moments(work: Any, x: Any, shape: Any, tile: Any) -> None:
    """work[2b], work[2b + 1] = mean of each column of a tile in block b and sum of squares about it."""
    b, start, end = tile
    width, per_block, _ = _geometry(shape)
    rows, left = _block_rows(shape, b)
    s, t = work[2 * b, start:end], work[2 * b + 1, start:end]
    shift = x[b * per_block * width + start : b * per_block * width + end]
    _tile_sums((s, t), x, x, (shape, tile), shift, shift)
    for k in range(end - start):
        offset, t[k] = centered(s[k], t[k], np.float64(rows + (1 if start + k < left else 0)))
        s[k] = element(shift, k) + offset


@helper
def tile_gradients(work: Any, dy: Any, x: Any, shape: Any, tile: Any) -> None:
    """work[2b], work[2b + 1] = sum(dy), sum(dy * (x - mean)) of each column of a tile in block b.

    The last row but one of the workspace holds the means.
    """
    b, start, end = tile
    sums = work[2 * b, start:end], work[2 * b + 1, start:end]
    _tile_sums(sums, dy, x, (shape, tile), None, work[-2, start:end])


@helper
def _merge_blocks(work: Any, shape: Any) -> None:
    """work[0], work[1] = the moments of each column over all blocks; work[-1], work[-2] are scratch."""
    width, _, n_blocks = _geometry(shape)
    if n_blocks == 1:
        return
    size = shape[0] * shape[1] * shape[2]
    offset, mean = work[-1], work[-2]
    offset[:] = 0.0
    for b in range(1, n_blocks):
        rows, left = _block_rows(shape, b)
        for v in range(width):
            offset[v] += (work[2 * b, v] - work[0, v]) * np.float64(rows + (1 if v < left else 0))
    for v in range(width):
        mean[v] = work[0, v] + offset[v] / np.float64(size // width + (1 if v < size % width else 0))
    for b in range(n_blocks):
        rows, left = _block_rows(shape, b)
        for v in range(width):
            delta = work[2 * b, v] - mean[v]
            m2 = work[2 * b + 1, v] + delta * delta * np.float64(rows + (1 if v < left else 0))
            work[1, v] = work[1, v] + m2 if b > 0 else m2
    for v in range(width):
        work[0, v] = mean[v]


@helper
def merge_moments(statistics: Any, work: Any, shape: Any) -> None:
    """statistics[0], [1] = mean and variance: merge blocks, then columns; only non-negative terms are added."""
    outer, n_channels, inner = shape
    width, _, _ = _geometry(shape)
    size = outer * n_channels * inner
    n_rows, left, n = size // width, size % width, np.float64(outer * inner)
    mean, var = statistics[0], statistics[1]
    _merge_blocks(work, shape)
    if width == n_channels:
        for c in range(n_channels):
            mean[c], var[c] = work[0, c], work[1, c] / n
        return
    for c in range(n_channels):
        first = work[0, c * inner]
        offset, m2 = 0.0, 0.0
        for start in range(c * inner, width, n_channels * inner):
            for v in range(start, start + inner):
                offset += (work[0, v] - first) * np.float64(n_rows + (1 if v < left else 0))
        mean[c] = first + offset / n
        for start in range(c * inner, width, n_channels * inner):
            for v in range(start, start + inner):
                delta = work[0, v] - mean[c]
                m2 += work[1, v] + delta * delta * np.float64(n_rows + (1 if v < left else 0))
        var[c] = m2 / n


@helper
def merge_gradients(sums: Any, work: Any, shape: Any, inv_std: Any) -> None:
    """sums = [sum(dy * x_hat), sum(dy)]: add the sums of blocks, then those of each channel's columns."""
    _, n_channels, inner = shape
    width, _, n_blocks = _geometry(shape)
    for b in range(1, n_blocks):
        for v in range(width):
            work[0, v] += work[2 * b, v]
            work[1, v] += work[2 * b + 1, v]
    sums[:] = 0.0
    c = 0
    for start in range(0, width, inner):
        for v in range(start, start + inner):
            sums[1, c] += work[0, v]
            sums[0, c] += work[1, v]
        c = c + 1 if c + 1 < n_channels else 0
    for c in range(n_channels):
        sums[0, c] *= inv_std[c]
