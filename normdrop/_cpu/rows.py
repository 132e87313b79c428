"""Loops by rows: all channels lie side by side, as in channels-last arrays (M, C, 1) and in (N, C).

The same sums as by planes, sum(a - p) and sum((a - p) * (b - q)), for all columns of a block of rows at once; the
columns of a channel and the blocks are then merged in order. The moments' p and q are the block's first row.
Per-channel vectors come spread to the width of a row.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import prange

from normdrop._cpu.arithmetic import centered, input_gradient, normalized
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.simd import LANES, load, store, widen

Vector: TypeAlias = npt.NDArray[np.float64]

_BLOCK = 1 << 15  # elements per block of rows
_MAX_ROWS = 1 << 13  # per block; bounds the error of a block's variance
_MIN_WIDTH = 64  # rows narrower than this are joined
_AT_ONCE = 8  # rows read side by side, so that the sums of a column are loaded and stored once for all of them
_TILE = 1024  # columns whose sums stay in the first-level cache


class Rows:
    """A flat array as rows of one width, several of the array's own rows joined if they are narrow.

    Column v of a row belongs to channel (v // inner) % C. A last, shorter row may be left over.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        outer, n_channels, inner = shape
        joined = min(outer, -(-_MIN_WIDTH // (n_channels * inner)))
        self.width = joined * n_channels * inner
        self.per_block = min(_MAX_ROWS, max(LANES, _BLOCK // self.width))
        self.n_blocks = max(1, -(-(outer // joined) // self.per_block))
        self._joined, self._inner = joined, inner

    def spread(self, vector: Vector) -> Vector:
        """Return a per-channel vector as a row."""
        if self._inner > 1:
            vector = np.repeat(vector, self._inner)
        return np.tile(vector, self._joined) if self._joined > 1 else vector


@helper
def _row_sums(sums: Any, a: Any, b: Any, block: Any, shifts: Any) -> None:
    """Add sum(a - p), sum((a - p) * (b - q)) of each column to sums = (s, t).

    `a`, `b` flat; block = (start, rows, stride); s, t and shifts = (p, q) are rows of the same width.
    """
    s, t = sums
    p, q = shifts
    start, n_rows, stride = block
    whole = s.size - s.size % LANES
    for first in range(0, n_rows, _AT_ONCE):
        stop = min(first + _AT_ONCE, n_rows)
        for v in range(0, whole, LANES):
            ps, qs = widen(load(p, v)), widen(load(q, v))
            ss, ts = load(s, v), load(t, v)
            for r in range(first, stop):
                i = start + r * stride + v
                u = widen(load(a, i)) - ps
                ts += u * (widen(load(b, i)) - qs)
                ss += u
            store(s, v, ss)
            store(t, v, ts)
        for v in range(whole, s.size):
            for r in range(first, stop):
                i = start + r * stride + v
                u = np.float64(a[i]) - p[v]
                t[v] += u * (np.float64(b[i]) - q[v])
                s[v] += u


@helper
def _row_tile(task: Any, size: Any, width: Any, per_block: Any) -> Any:
    """Task -> (block, first column, columns, first row, rows, columns that the left-over row adds)."""
    n_tiles = (width + _TILE - 1) // _TILE
    b, v = task // n_tiles, (task % n_tiles) * _TILE
    n = min(_TILE, width - v)
    all_rows = size // width
    first = b * per_block
    rows = min(per_block, all_rows - first)
    left = min(n, size - all_rows * width - v) if first + rows == all_rows else 0
    return b, v, n, first, rows, max(0, left)


@helper
def _n_row_tiles(partial: Any) -> Any:
    return (partial.shape[0] // 2) * ((partial.shape[1] + _TILE - 1) // _TILE)


@helper
def _tile_sums(sums: Any, a: Any, b: Any, tile: Any, shifts: Any) -> None:
    """_row_sums over the rows of a tile and the left-over row; tile = (first column, first row, rows, left, width)."""
    v, first, n_rows, left, width = tile
    s, t = sums
    p, q = shifts
    s[:] = 0.0
    t[:] = 0.0
    _row_sums(sums, a, b, (first * width + v, n_rows, width), shifts)
    if left > 0:
        _row_sums((s[:left], t[:left]), a, b, ((first + n_rows) * width + v, 1, width), (p[:left], q[:left]))


@kernel("Pin")
def moments(partial: Any, x: Any, per_block: Any) -> None:
    """partial[2b], [2b + 1] = mean of each column in row block b and sum of squares about it. Parallel over tiles."""
    width = partial.shape[1]
    for task in prange(_n_row_tiles(partial)):
        b, v, n, first, rows, left = _row_tile(task, x.size, width, per_block)
        s, t = partial[2 * b, v : v + n], partial[2 * b + 1, v : v + n]
        shift = x[first * width + v : first * width + v + n]
        _tile_sums((s, t), x, x, (v, first, rows, left, width), (shift, shift))
        for k in range(n):
            offset, t[k] = centered(s[k], t[k], np.float64(rows + (1 if k < left else 0)))
            s[k] = shift[k] + offset


@helper
def _n_rows(places: Any, b: Any, v: Any) -> Any:
    """Rows of column v in block b; places = (size, width, rows per block)."""
    size, width, per_block = places
    all_rows = size // width
    rows = min(per_block, all_rows - b * per_block)
    return np.float64(rows + (1 if b * per_block + rows == all_rows and v < size - all_rows * width else 0))


@kernel("VVPnnn")
def merge_moments(mean: Any, var: Any, partial: Any, size: Any, inner: Any, per_block: Any) -> None:
    """Mean and biased variance of each channel from those of its columns and blocks. Parallel over channels."""
    n_blocks, width, n_channels = partial.shape[0] // 2, partial.shape[1], mean.size
    n = np.float64(size // n_channels)
    places = (size, width, per_block)
    for channel in prange(n_channels):
        first = partial[0, channel * inner]
        offset, m2 = 0.0, 0.0
        for b in range(n_blocks):
            for start in range(channel * inner, width, n_channels * inner):
                for v in range(start, start + inner):
                    offset += (partial[2 * b, v] - first) * _n_rows(places, b, v)
        center = first + offset / n
        for b in range(n_blocks):
            for start in range(channel * inner, width, n_channels * inner):
                for v in range(start, start + inner):
                    delta = partial[2 * b, v] - center
                    m2 += partial[2 * b + 1, v] + delta * delta * _n_rows(places, b, v)
        mean[channel], var[channel] = center, m2 / n


@kernel("Piivvn")
def gradients(partial: Any, dy: Any, x: Any, zeros: Any, mean: Any, per_block: Any) -> None:
    """partial[2b], [2b + 1] = sum(dy), sum(dy * (x - mean)) of each column in row block b. Parallel over tiles."""
    width = partial.shape[1]
    for task in prange(_n_row_tiles(partial)):
        b, v, n, first, rows, left = _row_tile(task, x.size, width, per_block)
        sums = partial[2 * b, v : v + n], partial[2 * b + 1, v : v + n]
        _tile_sums(sums, dy, x, (v, first, rows, left, width), (zeros[v : v + n], mean[v : v + n]))


@kernel("VVPn")
def merge_gradients(sum_dy: Any, sum_product: Any, partial: Any, inner: Any) -> None:
    """Sums of each channel from those of its columns and blocks. Parallel over channels."""
    n_blocks, width, n_channels = partial.shape[0] // 2, partial.shape[1], sum_dy.size
    for channel in prange(n_channels):
        s, t = 0.0, 0.0
        for b in range(n_blocks):
            for start in range(channel * inner, width, n_channels * inner):
                for v in range(start, start + inner):
                    s += partial[2 * b, v]
                    t += partial[2 * b + 1, v]
        sum_dy[channel], sum_product[channel] = s, t


@kernel("oivvvn")
def normalize(y: Any, x: Any, mean: Any, scale: Any, shift: Any, per_block: Any) -> None:
    """y = (x - mean) * scale + shift per column. Parallel over blocks of rows."""
    width = mean.size
    n_rows = (x.size + width - 1) // width
    for b in prange((n_rows + per_block - 1) // per_block):
        for first in range(b * per_block, min(b * per_block + per_block, n_rows), _AT_ONCE):
            begin, end = first * width, min(min(first + _AT_ONCE, b * per_block + per_block) * width, x.size)
            whole = width - width % LANES
            for v in range(0, whole, LANES):
                means, scales, shifts = load(mean, v), load(scale, v), load(shift, v)
                for i in range(begin + v, end - (LANES - 1), width):
                    store(y, i, normalized(widen(load(x, i)), means, scales, shifts))
            for v in range(whole, width):
                for i in range(begin + v, end, width):
                    y[i] = normalized(np.float64(x[i]), mean[v], scale[v], shift[v])
            if (end - begin) % width:  # the left-over row may end inside a vector
                rest = end - (end - begin) % width
                for v in range((end - rest) - (end - rest) % LANES, min(end - rest, whole)):
                    y[rest + v] = normalized(np.float64(x[rest + v]), mean[v], scale[v], shift[v])


@kernel("oiivvvvn")
def input_gradients(dx: Any, dy: Any, x: Any, mean: Any, mean_dy: Any, slope: Any, scale: Any, per_block: Any) -> None:
    """dx = (dy - mean_dy - (x - mean) * slope) * scale per column. Parallel over blocks of rows."""
    width = mean.size
    n_rows = (x.size + width - 1) // width
    for b in prange((n_rows + per_block - 1) // per_block):
        for first in range(b * per_block, min(b * per_block + per_block, n_rows), _AT_ONCE):
            begin, end = first * width, min(min(first + _AT_ONCE, b * per_block + per_block) * width, x.size)
            whole = width - width % LANES
            for v in range(0, whole, LANES):
                means, means_dy, slopes, scales = load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v)
                for i in range(begin + v, end - (LANES - 1), width):
                    value = input_gradient(widen(load(dy, i)), widen(load(x, i)), means, means_dy, slopes, scales)
                    store(dx, i, value)
            for v in range(whole, width):
                for i in range(begin + v, end, width):
                    dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean[v], mean_dy[v], slope[v], scale[v])
            if (end - begin) % width:
                rest = end - (end - begin) % width
                for v in range((end - rest) - (end - rest) % LANES, min(end - rest, whole)):
                    i = rest + v
                    dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean[v], mean_dy[v], slope[v], scale[v])
