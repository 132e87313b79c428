"""Element-wise loops over rows: y and dx by vectors of numbers per column.

A run follows flat memory and, for each 16 elements, the columns that they are in. Of wide rows two go side by side: the
vectors of their columns, which no longer fit the first-level cache, are then read once for both. No more than two, for
lines of rows that are 4096 bytes apart take one another's place in that cache, and memory is best written in order.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.launch import helper
from normdrop._cpu.memory import CACHE_LINE, item_size, load, load_part, store_part
from normdrop._cpu.simd import LANES, widen
from normdrop._cpu.streaming import first_whole, is_long, put

# Numbers in all vectors above which rows go side by side: a part of the first-level cache; most of it for rows that are
# streamed, which is best done in the order of memory.
_CACHED, _STREAMED = 3 << 9, 3 << 10


@helper
def _wrapped(v: Any, width: Any) -> Any:
    """Column of a column that may lie beyond the last."""
    while v >= width:
        v -= width
    return v


@helper
def _normalized_at(x: Any, v: Any, vectors: Any) -> Any:
    """y of the 16 columns from v on; vectors = (mean, scale, shift)."""
    mean, scale, shift = vectors
    return normalized(widen(x), load(mean, v), load(scale, v), load(shift, v))


@helper
def normalize_run(y: Any, x: Any, run: Any, columns: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift on run = (start, stop, whether long runs are streamed); columns = (first, width).

    Four vectors are read before the first of them is written: a load waits for a store before it whose address agrees
    with its own modulo 4096, as happens all the time in a loop over two arrays.
    """
    i, stop = run[0], run[1]
    v, width = columns
    streaming = run[2] and is_long(stop - i)
    head = first_whole(y, i, stop, streaming)
    if head > i:
        store_part(y, i, _normalized_at(load_part(x, i, i, head), v, vectors), i, head)
        v = _wrapped(v + head - i, width)
        i = head
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        put(y, i, _normalized_at(x0, v, vectors), streaming)
        put(y, i + LANES, _normalized_at(x1, v + LANES, vectors), streaming)
        put(y, i + 2 * LANES, _normalized_at(x2, v + 2 * LANES, vectors), streaming)
        put(y, i + 3 * LANES, _normalized_at(x3, v + 3 * LANES, vectors), streaming)
        i += 4 * LANES
        v = _wrapped(v + 4 * LANES, width)
    while i + LANES <= stop:
        put(y, i, _normalized_at(load(x, i), v, vectors), streaming)
        i += LANES
        v = _wrapped(v + LANES, width)
    if i < stop:
        store_part(y, i, _normalized_at(load_part(x, i, i, stop), v, vectors), i, stop)


@helper
def _of_whole_lines(y: Any, width: Any) -> Any:
    """Whether all rows of this width begin at one place of a cache line, so that whole lines can be streamed."""
    return width * item_size(y) % CACHE_LINE == 0


@helper
def side_by_side(y: Any, width: Any, n_vectors: Any, large: Any) -> Any:
    """Whether rows of this width go side by side, in loops that read so many vectors; large: whether y is streamed."""
    if large:
        return n_vectors * width > _STREAMED and _of_whole_lines(y, width)
    return n_vectors * width > _CACHED


@helper
def _whole_vectors(y: Any, rows: Any, n_columns: Any) -> Any:
    """(first column, end, whether streamed) of what is written in whole vectors, in each of the rows."""
    first, _, stride, large = rows
    streaming = large and is_long(n_columns) and _of_whole_lines(y, stride)
    start = first_whole(y, first, first + n_columns, True) - first if streaming else 0
    return start, start + (n_columns - start) // LANES * LANES, streaming


@helper
def normalize_rows(y: Any, x: Any, rows: Any, n_columns: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift on rows = (first element, number, from one to the next, whether streamed)."""
    i, n_rows, stride, _ = rows
    mean, scale, shift = vectors
    start, stop, streaming = _whole_vectors(y, rows, n_columns)
    for _ in range(n_rows // 2):
        for v in range(start, stop, LANES):
            i0, i1 = i + v, i + v + stride
            x0, x1 = load(x, i0), load(x, i1)
            m, k, b = load(mean, v), load(scale, v), load(shift, v)
            put(y, i0, normalized(widen(x0), m, k, b), streaming)
            put(y, i1, normalized(widen(x1), m, k, b), streaming)
        i += 2 * stride
    if n_rows % 2 > 0:
        for v in range(start, stop, LANES):
            put(y, i + v, _normalized_at(load(x, i + v), v, vectors), streaming)
    for begin, end in ((0, start), (stop, n_columns)):
        if begin < end:
            i = rows[0]
            for _ in range(n_rows):
                j, k = i + begin, i + end
                store_part(y, j, _normalized_at(load_part(x, j, j, k), begin, vectors), j, k)
                i += stride


@helper
def _gradient_at(dy: Any, x: Any, v: Any, vectors: Any) -> Any:
    """dx of the 16 columns from v on; vectors = (mean, mean_dy, slope, scale)."""
    mean, mean_dy, slope, scale = vectors
    return input_gradient(widen(dy), widen(x), load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v))


@helper
def gradient_run(arrays: Any, run: Any, columns: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on a run as of `normalize_run`; arrays = (dx, dy, x)."""
    dx, dy, x = arrays
    i, stop = run[0], run[1]
    v, width = columns
    streaming = run[2] and is_long(stop - i)
    head = first_whole(dx, i, stop, streaming)
    if head > i:
        d0, x0 = load_part(dy, i, i, head), load_part(x, i, i, head)
        store_part(dx, i, _gradient_at(d0, x0, v, vectors), i, head)
        v = _wrapped(v + head - i, width)
        i = head
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        d0, d1, d2, d3 = load(dy, i), load(dy, i + LANES), load(dy, i + 2 * LANES), load(dy, i + 3 * LANES)
        put(dx, i, _gradient_at(d0, x0, v, vectors), streaming)
        put(dx, i + LANES, _gradient_at(d1, x1, v + LANES, vectors), streaming)
        put(dx, i + 2 * LANES, _gradient_at(d2, x2, v + 2 * LANES, vectors), streaming)
        put(dx, i + 3 * LANES, _gradient_at(d3, x3, v + 3 * LANES, vectors), streaming)
        i += 4 * LANES
        v = _wrapped(v + 4 * LANES, width)
    while i + LANES <= stop:
        put(dx, i, _gradient_at(load(dy, i), load(x, i), v, vectors), streaming)
        i += LANES
        v = _wrapped(v + LANES, width)
    if i < stop:
        d0, x0 = load_part(dy, i, i, stop), load_part(x, i, i, stop)
        store_part(dx, i, _gradient_at(d0, x0, v, vectors), i, stop)


@helper
def gradient_rows(arrays: Any, rows: Any, n_columns: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on rows as of `normalize_rows`; arrays = (dx, dy, x)."""
    dx, dy, x = arrays
    i, n_rows, stride, _ = rows
    mean, mean_dy, slope, scale = vectors
    start, stop, streaming = _whole_vectors(dx, rows, n_columns)
    for _ in range(n_rows // 2):
        for v in range(start, stop, LANES):
            i0, i1 = i + v, i + v + stride
            x0, x1, d0, d1 = load(x, i0), load(x, i1), load(dy, i0), load(dy, i1)
            m, b, a, k = load(mean, v), load(mean_dy, v), load(slope, v), load(scale, v)
            put(dx, i0, input_gradient(widen(d0), widen(x0), m, b, a, k), streaming)
            put(dx, i1, input_gradient(widen(d1), widen(x1), m, b, a, k), streaming)
        i += 2 * stride
    if n_rows % 2 > 0:
        for v in range(start, stop, LANES):
            put(dx, i + v, _gradient_at(load(dy, i + v), load(x, i + v), v, vectors), streaming)
    for begin, end in ((0, start), (stop, n_columns)):
        if begin < end:
            i = rows[0]
            for _ in range(n_rows):
                j, k = i + begin, i + end
                store_part(dx, j, _gradient_at(load_part(dy, j, j, k), load_part(x, j, j, k), begin, vectors), j, k)
                i += stride
