"""Sums of channels: over parts of a channel, each by one block, and from those the channel's.

Parts follow from the shape. Each is summed in float64 of values shifted by the part's first: every thread in the order
of its elements, the threads in a fixed tree, the parts in another. Nothing depends on how many blocks run at once. The
mean of a part stays in two numbers, its first value and what it is above that: one would lose digits far from zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normdrop import _formulas
from normdrop._cuda.launch import SHUFFLED, SIMULATED, THREADS, cuda, helper, kernel, types
from normdrop._cuda.memory import as_value, load, load_quad
from normdrop._cuda.tiles import column_shift, least, plane_shift

BUFFER = 2 * THREADS  # float64 that `sum_threads` needs
PART = 1 << 13  # values of a channel summed by one block
_MOST_PARTS = 1 << 10  # per column of a rows layout; more rows make longer parts

centered = helper(_formulas.centered)


def _shuffled(s: Any, t: Any, half: Any, width: Any) -> Any:
    """Go on with the tree of `sum_threads` within warps."""
    while half >= width:
        s += cuda.shfl_down_sync(0xFFFFFFFF, s, half)
        t += cuda.shfl_down_sync(0xFFFFFFFF, t, half)
        half //= 2
    return s, t


def _unshuffled(s: Any, t: Any, half: Any, width: Any) -> Any:
    return s, t


in_warp = _unshuffled if SIMULATED else helper(_shuffled)


def sum_threads_code(s: Any, t: Any, buffer: Any, width: Any) -> Any:
    """Sum s and t over the threads with the same number modulo `width`, a power of two; every thread gets its sums.

    Halves are added to halves: through `buffer` down to warps, then from thread to thread, in one tree.
    """
    thread = cuda.threadIdx.x
    buffer[thread], buffer[THREADS + thread] = s, t
    cuda.syncthreads()
    half = THREADS // 2
    while half >= width and half >= SHUFFLED:
        if thread < half:
            buffer[thread] += buffer[thread + half]
            buffer[THREADS + thread] += buffer[THREADS + thread + half]
        cuda.syncthreads()
        half //= 2
    if SHUFFLED > 1:
        s, t = in_warp(buffer[thread], buffer[THREADS + thread], half, width)
        cuda.syncthreads()
        if thread < width:
            buffer[thread], buffer[THREADS + thread] = s, t
        cuda.syncthreads()
    place = thread & (width - 1)
    s, t = buffer[place], buffer[THREADS + place]
    cuda.syncthreads()
    return s, t


sum_threads = sum_threads_code if SIMULATED else helper(sum_threads_code)


class Parts(NamedTuple):
    """How the parts of channels lie in a workspace: part j of channel c at j // run * stride + c * run + j % run."""

    n_parts: int
    """Per channel."""
    run: int
    """Parts of a channel that lie side by side."""
    stride: int
    """From one run to the next."""
    n_rows: int
    """Planes, or rows, of a part; the last ones may have fewer."""
    length: int
    """Elements of a part in each plane; the last ones may have fewer."""
    shift: int
    """Threads side by side, as a power of two."""
    blocks: int
    """Blocks that sum them."""


def plane_parts(outer: int, n_channels: int, inner: int) -> Parts:
    """Cut channels into whole planes, or long planes into pieces."""
    length = min(inner, PART)
    n_rows = min(outer, max(1, PART // inner))
    n_parts = -(-outer // n_rows) * -(-inner // length)
    return Parts(n_parts, n_parts, n_parts * n_channels, n_rows, length, plane_shift(length), n_parts * n_channels)


def row_parts(outer: int, n_channels: int, inner: int) -> Parts:
    """Cut the columns of rows."""
    columns = n_channels * inner
    shift = column_shift(columns)
    side = THREADS >> shift
    n_rows = max(16, -(-outer // _MOST_PARTS // side)) * side
    n_runs = -(-outer // n_rows)
    return Parts(n_runs * inner, inner, columns, n_rows, 1, shift, n_runs * -(-columns // (4 << shift)))


@helper
def _quad_sums(a: Any, b: Any, p: Any, q: Any) -> Any:
    """Return the sums of a - p and of (a - p) * (b - q) over four."""
    a0, a1, a2, a3 = a[0] - p, a[1] - p, a[2] - p, a[3] - p
    products = (a0 * (b[0] - q) + a1 * (b[1] - q)) + (a2 * (b[2] - q) + a3 * (b[3] - q))
    return (a0 + a1) + (a2 + a3), products


@helper
def _plane_part(b: Any, shape: Any, n_rows: Any, length: Any) -> Any:
    """Part b of a channel of (outer, C, inner): first plane, end of planes, first element, end of elements."""
    outer, _, inner = shape
    n_runs = (inner + length - 1) // length
    plane, begin = b // n_runs * n_rows, b % n_runs * length
    return plane, least(plane + n_rows, outer), begin, least(begin + length, inner)


@kernel("dxnnnnnnn")
def plane_moments(
    work: Any, x: Any, n_channels: Any, inner: Any, n_rows: Any, length: Any, n_parts: Any, shift: Any, aligned: Any
) -> None:
    """work[4 * part] = values of a part, the first, their mean less it, squares about the mean. A block per part."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    shape = (x.size // (n_channels * inner), n_channels, inner)
    lane = (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
    for part in range(cuda.blockIdx.x, n_channels * n_parts, cuda.gridDim.x):
        channel = part // n_parts
        plane, planes_end, begin, end = _plane_part(part % n_parts, shape, n_rows, length)
        first = load(x, (plane * n_channels + channel) * inner + begin)
        k = np.float64(first)
        s, t = 0.0, 0.0
        for o in range(plane + (cuda.threadIdx.x >> shift), planes_end, THREADS >> shift):
            base = (o * n_channels + channel) * inner
            for i in range(base + begin + lane, base + end, 4 << shift):
                v = load_quad(x, i, base + end, first, aligned)
                ds, dt = _quad_sums(v, v, k, k)
                s += ds
                t += dt
        s, t = sum_threads(s, t, buffer, 1)
        moments = _moments(s, t, np.float64((planes_end - plane) * (end - begin)), k)
        if cuda.threadIdx.x == 0:
            _put_moments(work, part, 1, 0, moments)


@kernel("dxxdnnnnnnn")
def plane_gradients(
    work: Any, dy: Any, x: Any, mean: Any, n_channels: Any, inner: Any, n_rows: Any, length: Any, n_parts: Any,
    shift: Any, aligned: Any,
) -> None:  # fmt: skip
    """work[2 * part] = sum of dy of a part, sum of dy * (x - mean). A block per part."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    shape = (x.size // (n_channels * inner), n_channels, inner)
    lane = (cuda.threadIdx.x & ((1 << shift) - 1)) * 4
    zero = as_value(x, 0.0)
    for part in range(cuda.blockIdx.x, n_channels * n_parts, cuda.gridDim.x):
        channel = part // n_parts
        plane, planes_end, begin, end = _plane_part(part % n_parts, shape, n_rows, length)
        first = load(x, (plane * n_channels + channel) * inner + begin)
        s, t = 0.0, 0.0
        for o in range(plane + (cuda.threadIdx.x >> shift), planes_end, THREADS >> shift):
            base = (o * n_channels + channel) * inner
            for i in range(base + begin + lane, base + end, 4 << shift):
                u = load_quad(dy, i, base + end, zero, aligned)
                v = load_quad(x, i, base + end, first, aligned)
                ds, dt = _quad_sums(u, v, np.float64(0.0), mean[channel])
                s += ds
                t += dt
        s, t = sum_threads(s, t, buffer, 1)
        if cuda.threadIdx.x == 0:
            work[2 * part], work[2 * part + 1] = s, t


@helper
def per_column(vector: Any, offset: Any, column: Any, n_columns: Any, inner: Any) -> Any:
    """Return vector[offset + channel] for four columns, each column being one of `inner` of its channel."""
    last = n_columns - 1
    return (
        vector[offset + column // inner],
        vector[offset + least(column + 1, last) // inner],
        vector[offset + least(column + 2, last) // inner],
        vector[offset + least(column + 3, last) // inner],
    )


@helper
def _added(s: Any, d: Any) -> Any:
    return s[0] + d[0], s[1] + d[1], s[2] + d[2], s[3] + d[3]


@helper
def _shifted(v: Any, k: Any) -> Any:
    return v[0] - k[0], v[1] - k[1], v[2] - k[2], v[3] - k[3]


@helper
def _products(a: Any, b: Any) -> Any:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]


@helper
def _wide(v: Any) -> Any:
    return np.float64(v[0]), np.float64(v[1]), np.float64(v[2]), np.float64(v[3])


@kernel("dxnnnnn")
def row_moments(work: Any, x: Any, n_columns: Any, outer: Any, n_rows: Any, shift: Any, aligned: Any) -> None:
    """work[4 * (r * columns + column)] = as of `plane_moments`, over n_rows rows of a column. Blocks of columns."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    width = 1 << shift
    strips = (n_columns + 4 * width - 1) // (4 * width)
    zero = as_value(x, 0.0)
    for tile in range(cuda.blockIdx.x, (outer + n_rows - 1) // n_rows * strips, cuda.gridDim.x):
        row, column = tile // strips * n_rows, tile % strips * 4 * width + (cuda.threadIdx.x & (width - 1)) * 4
        stop = least(row + n_rows, outer)
        k = (0.0, 0.0, 0.0, 0.0)
        s, t = k, k
        if column < n_columns:
            k = _wide(load_quad(x, row * n_columns + column, (row + 1) * n_columns, zero, aligned))
            for r in range(row + (cuda.threadIdx.x >> shift), stop, THREADS >> shift):
                d = _shifted(load_quad(x, r * n_columns + column, (r + 1) * n_columns, zero, aligned), k)
                s, t = _added(s, d), _added(t, _products(d, d))
        s0, t0 = sum_threads(s[0], t[0], buffer, width)
        s1, t1 = sum_threads(s[1], t[1], buffer, width)
        s2, t2 = sum_threads(s[2], t[2], buffer, width)
        s3, t3 = sum_threads(s[3], t[3], buffer, width)
        if cuda.threadIdx.x < width:
            n = np.float64(stop - row)
            at = tile // strips * n_columns + column
            _put_moments(work, at, n_columns - column, 0, _moments(s0, t0, n, k[0]))
            _put_moments(work, at, n_columns - column, 1, _moments(s1, t1, n, k[1]))
            _put_moments(work, at, n_columns - column, 2, _moments(s2, t2, n, k[2]))
            _put_moments(work, at, n_columns - column, 3, _moments(s3, t3, n, k[3]))


@helper
def _moments(s: Any, t: Any, n: Any, k: Any) -> Any:
    offset, m2 = centered(s, t, n)
    return n, k, offset, m2


@helper
def _put_moments(work: Any, at: Any, n_left: Any, lane: Any, moments: Any) -> None:
    if lane < n_left:
        at = 4 * (at + lane)
        work[at], work[at + 1], work[at + 2], work[at + 3] = moments


@kernel("dxxdnnnnnn")
def row_gradients(
    work: Any, dy: Any, x: Any, mean: Any, n_columns: Any, inner: Any, outer: Any, n_rows: Any, shift: Any,
    aligned: Any,
) -> None:  # fmt: skip
    """work[2 * (r * columns + column)] = as of `plane_gradients`, over n_rows rows of a column. Blocks of columns."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    width = 1 << shift
    strips = (n_columns + 4 * width - 1) // (4 * width)
    zero = as_value(x, 0.0)
    for tile in range(cuda.blockIdx.x, (outer + n_rows - 1) // n_rows * strips, cuda.gridDim.x):
        row, column = tile // strips * n_rows, tile % strips * 4 * width + (cuda.threadIdx.x & (width - 1)) * 4
        s = (0.0, 0.0, 0.0, 0.0)
        t = s
        if column < n_columns:
            k = per_column(mean, 0, column, n_columns, inner)
            for r in range(row + (cuda.threadIdx.x >> shift), least(row + n_rows, outer), THREADS >> shift):
                i, end = r * n_columns + column, (r + 1) * n_columns
                u = _wide(load_quad(dy, i, end, zero, aligned))
                s = _added(s, u)
                t = _added(t, _products(u, _shifted(load_quad(x, i, end, zero, aligned), k)))
        s0, t0 = sum_threads(s[0], t[0], buffer, width)
        s1, t1 = sum_threads(s[1], t[1], buffer, width)
        s2, t2 = sum_threads(s[2], t[2], buffer, width)
        s3, t3 = sum_threads(s[3], t[3], buffer, width)
        if cuda.threadIdx.x < width:
            at = tile // strips * n_columns + column
            _put_sums(work, at, n_columns - column, 0, (s0, t0))
            _put_sums(work, at, n_columns - column, 1, (s1, t1))
            _put_sums(work, at, n_columns - column, 2, (s2, t2))
            _put_sums(work, at, n_columns - column, 3, (s3, t3))


@helper
def _put_sums(work: Any, at: Any, n_left: Any, lane: Any, sums: Any) -> None:
    if lane < n_left:
        at = 2 * (at + lane)
        work[at], work[at + 1] = sums
