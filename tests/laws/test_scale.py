"""Arrays of more than 2**32 elements: their indices are right, without such arrays (law 2.3 and law 2.5)."""

from __future__ import annotations

import runpy
from itertools import pairwise
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import njit

from normdrop import _reference
from normdrop._cpu.kernels import (
    fused_planes,
    given_masks,
    mask_pieces,
    plane_sums,
    planes,
    row_sums,
    rows,
    transposed,
)
from normdrop._cpu.lanes.streaming import should_stream
from normdrop._cpu.tuning import MASK_BUFFER, READ_AGAIN

pytestmark = pytest.mark.once

LAW = runpy.run_path(str(Path(__file__).parents[1] / "make_golden_masks.py"))  # plain integers, the text of the law

SHAPES = [(70_000, 64, 3136), (2**33, 3, 1), (1, 1, 2**34 + 5), (3, 2**20 + 1, 4099), (2**20, 2**13 + 7, 3), (5, 7, 9)]
LANES = 16


def vast(n: int, dtype: type = np.float32) -> Any:
    """An array of n elements that are all one in memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), (n,), (0,), writeable=False)


def some(n: int) -> list[int]:
    """Numbers below n: the ends, powers of two and whatever lies between."""
    found = {0, 1, 2, n // 3, n // 2, n - 2, n - 1, *(2**k + d for k in range(10, 40) for d in (-1, 0))}
    return sorted(i for i in found if 0 <= i < n)


# What kernels do with these functions: all arguments are int64, and so are products of them.


@njit
def block_of(shape, channel, b):
    return plane_sums._block(plane_sums.grid_of(shape), channel, b)


@njit
def planes_of(shape):
    grid = plane_sums.grid_of(shape)
    return grid, plane_sums.n_blocks(grid)


@njit
def chunk_of(x, shape, chunk):
    start, stop = planes._chunk(shape, chunk)
    return start, stop, planes._plane_at(shape, start), planes._plane_at(shape, stop - 1)


@njit
def rows_of(shape, b):
    grid = row_sums.grid_of(shape)
    return grid, row_sums.n_tiles(grid), row_sums._block_rows(grid, b)


@njit
def tile_of(shape, task):
    return row_sums.tile_of(row_sums.grid_of(shape), task)


@njit
def range_of(y, x, width, n_vectors, task):
    tasks = rows.tasks_of(y, width, n_vectors, should_stream(y, x, READ_AGAIN))
    return tasks, rows.range_of(tasks, task, x.size)


@njit
def piece_of(start, stop):
    return mask_pieces.cut(start, stop)


@njit
def share_of(worker, n_workers, n_tasks):
    return mask_pieces.share(worker, n_workers, n_tasks)


@njit
def mask_of(buffer, start, stop, law, given):
    return mask_pieces.fill(buffer, start, stop, law, given, None)


@njit
def draw(words, stride, places, drawn, law):
    transposed._draw(words, stride, places, drawn, law)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_of_planes_tile_each_channel_once(shape) -> None:
    outer, n_channels, inner = shape
    grid, n_blocks = planes_of(shape)
    assert grid == plane_sums.geometry(shape)
    *same, n_planes, length, runs, _ = grid
    assert tuple(same) == shape
    assert runs == -(-inner // length)
    groups = -(-outer // n_planes)
    assert n_blocks == runs * groups
    for channel in (0, n_channels // 2, n_channels - 1):
        values = 0
        every = range(n_blocks) if n_blocks <= 5000 else some(n_blocks)
        for b in every:
            start, in_planes, in_length = block_of(shape, channel, b)
            group, run = divmod(b, runs)
            assert start == (group * n_planes * n_channels + channel) * inner + run * length
            assert in_planes == min(n_planes, outer - group * n_planes) > 0
            assert in_length == min(length, inner - run * length) > 0
            assert start + ((in_planes - 1) * n_channels) * inner + in_length <= outer * n_channels * inner
            values += in_planes * in_length
        if len(every) == n_blocks:
            assert values == outer * inner
        last = block_of(shape, channel, n_blocks - 1)
        assert (
            last[0] + (last[1] - 1) * n_channels * inner + last[2] == ((outer - 1) * n_channels + channel + 1) * inner
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chunks_of_planes_tile_the_array_and_know_their_channel(shape) -> None:
    outer, n_channels, inner = shape
    size = outer * n_channels * inner
    x = vast(size)
    n_chunks = -(-size // planes.CHUNK)
    for chunk in some(n_chunks):
        start, stop, *places = chunk_of(x, shape, chunk)
        assert start == chunk * planes.CHUNK
        assert stop == min(start + planes.CHUNK, size) > start
        for i, (channel, end) in zip((start, stop - 1), places, strict=True):
            assert channel == i // inner % n_channels
            assert end == (i // inner + 1) * inner
    assert stop == size


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_of_rows_and_their_tiles_hold_every_element_once(shape) -> None:
    outer, n_channels, inner = shape
    size = outer * n_channels * inner
    grid, n_tiles, _ = rows_of(shape, 0)
    assert grid == row_sums.geometry(shape)
    same, width, stride, per_block, n_blocks = grid
    assert same == size
    assert stride >= width + row_sums.BEYOND
    assert width % (n_channels * inner) == 0
    assert (n_blocks - 1) * per_block < max(1, size // width) <= n_blocks * per_block
    for b in some(n_blocks):
        n_rows, left = rows_of(shape, b)[2]
        assert n_rows == min(per_block, size // width - b * per_block)
        assert left == (size % width if b == n_blocks - 1 else 0)
    assert ((n_blocks - 1) * per_block + n_rows) * width + left == size
    in_row = n_tiles // n_blocks
    assert in_row * n_blocks == n_tiles
    for task in some(n_tiles):
        b, start, end = tile_of(shape, task)
        assert b == task // in_row
        assert start == task % in_row * row_sums.TILE < end
        assert end == min(start + row_sums.TILE, width)
    assert (b, end) == (n_blocks - 1, width)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tasks_of_rows_tile_the_array_in_pairs_of_rows_or_chunks(shape, in_place) -> None:
    outer, n_channels, inner = shape
    size, width = outer * n_channels * inner, row_sums.geometry(shape)[1]
    x, y = vast(size), vast(size)
    for n_vectors in (3, 4):
        n_tasks, elements, strip, large = range_of(x if in_place else y, x, width, n_vectors, 0)[0]
        assert large == (not in_place and size > 1 << 22)
        assert not (strip and large and width % 16)
        assert elements % (2 * width) == 0 or not strip
        assert (n_tasks - 1) * elements < size <= n_tasks * elements
        for task in some(n_tasks):
            first, end = range_of(x if in_place else y, x, width, n_vectors, task)[1]
            assert (first, end) == (task * elements, min(task * elements + elements, size))


@pytest.mark.parametrize(
    "shape", [(1, 2**17 + 3, 2**17 + 1), (3, 2**33 + 5, 2), (2, 3, 2**33 + 1), (70_000, 513, 1025)]
)
def test_tasks_of_exchanged_axes_draw_and_write_the_elements_of_one_block(shape) -> None:
    n_outer, length, n_columns = shape
    drawn: list[tuple[int, ...]] = []
    written: list[list[tuple[int, ...]]] = []

    def sampled(*bounds: int) -> list[int]:
        every = range(*bounds)
        return [every[i] for i in some(len(every))] if len(every) > 8 else list(every)

    def record(words: Any, stride: int, places: tuple[int, ...], bits: Any, law: Any) -> None:
        assert len(bits) == 16
        assert stride >= places[3] + LANES
        assert -(-places[2] // LANES) * stride <= len(words)
        drawn.append(places)
        written.append([])

    def apply(y: Any, x: Any, run: tuple[int, int, bool], words: Any, law: tuple[int, int, float]) -> None:
        written[-1].append((*run[:2], *law[:2]))

    kernel = transposed.dropout_transposed.function
    names = {"range": sampled, "prange": range, "_draw": record, "_apply": apply, "fence": lambda: None}
    names |= {"pointer": lambda x, i: x, "should_stream": lambda y, x, limit: False, "prefetch_pays": lambda x: False}
    alone = FunctionType(kernel.__code__, kernel.__globals__ | names)
    size = n_outer * length * n_columns
    x = SimpleNamespace(shape=shape, size=size)
    alone(x, x, 1, 2, 3, 4, 2.0, np.empty(3 * transposed.WORDS, np.uint16))

    for (first, p, n, columns), runs in zip(drawn, written, strict=True):
        assert p == length
        column, position = divmod(first, length)
        a, q = divmod(column, n_columns)
        assert position + n <= length
        assert q + columns <= n_columns
        starts = {(start - q - a * length * n_columns) // n_columns - position: start for start, *_ in runs}
        assert max(starts) == n - 1
        for e, start in starts.items():
            assert start == (a * length + position + e) * n_columns + q
        for (start, run, word, lane), e in zip(runs, starts, strict=True):
            assert run == columns
            assert lane == e % LANES
            assert word == e // LANES * (columns + LANES)
            assert start + run <= size
    assert drawn[0][0] == 0
    assert written[-1][-1][0] + written[-1][-1][1] == size


@pytest.mark.parametrize("shape", [(3, 2**33 + 5, 7), (2, 3, 2**33 + 1), (2**33 + 1, 2, 3), (1, 1, 2**34 + 3)])
def test_runs_of_elements_that_share_a_mask_know_its_row_and_column(shape) -> None:
    n_outer, n_shared, length = shape
    size = n_outer * n_shared * length
    n_chunks = -(-size // given_masks.CHUNK)
    runs = []

    def record(y: Any, x: Any, mask: Any, run: tuple[Any, ...], columns: tuple[int, int, int], factors: Any) -> None:
        runs.append((*run[:3], *columns[:2]))

    kernel = given_masks.mask_elements.function
    names = {"prange": some, "_mask_run": record, "_period": lambda *row: 0, "fence": lambda: None}
    names |= {"pointer": lambda x, i: x, "should_stream": lambda y, x, limit: False, "prefetch_pays": lambda x: False}
    names |= {"numbers_of": lambda x, value: value}
    x = SimpleNamespace(size=size)
    FunctionType(kernel.__code__, kernel.__globals__ | names)(x, x, x, n_shared, length, 2.0)

    for start, stop, column, row, same in runs:
        a = start // (n_shared * length)
        assert start < stop <= (a + 1) * n_shared * length
        assert (column, row, same) == (start % length, a * length, length)
    assert sum(stop - start for start, stop, *_ in runs) == sum(
        min(given_masks.CHUNK, size - chunk * given_masks.CHUNK) for chunk in some(n_chunks)
    )
    assert runs[-1][1] == size


@pytest.mark.parametrize("size", [2**34 + 5, 2**32, 4097, 4096, 1])
def test_pieces_of_masks_end_where_groups_do_and_fit_their_buffer(size) -> None:
    for start in some(size):
        piece = piece_of(start, size)
        assert start < piece <= size
        assert piece == size or piece % 256 == 0
        assert (piece + 255) // 256 * 256 - start // 256 * 256 <= MASK_BUFFER


@pytest.mark.parametrize("n_tasks", [0, 1, 5, 2**21 + 3, 2**40 + 1])
@pytest.mark.parametrize("n_workers", [1, 3, 256])
def test_workers_share_all_tasks(n_workers, n_tasks) -> None:
    shares = [share_of(worker, n_workers, n_tasks) for worker in range(n_workers)]
    assert (shares[0][0], shares[-1][1]) == (0, n_tasks)
    assert all(end == start for (_, end), (start, _) in pairwise(shares))


@pytest.mark.parametrize("shape", [(1, 1, 2**32 + 5), (3, 2**20 + 1, 1031), (70_000, 64, 3136), (5, 7, 90)], ids=str)
@pytest.mark.parametrize("size", [planes.CHUNK, planes.CHUNK // 33 * 33])
def test_pieces_of_a_fused_pass_tile_the_array(shape, size) -> None:
    """The kernel's own loop over places alone; there is no mask, so that a piece is a task."""
    written: list[tuple[int, int]] = []

    def record(y: int, inputs: tuple[int, ...], of: Any, chunk: Any, operation: Any, numbers: Any) -> None:
        assert (y, *inputs[:3]) == (chunk[0],) * 4
        written.append(chunk[:2])

    n = int(np.prod(shape))
    x = SimpleNamespace(shape=shape, size=n)
    for first in (0, 2**31 // size - 30, 2**32 // size - 30):  # some of all tasks, which may be millions
        names = {"prange": range, "write_chunk": record, "fence": lambda: None, "pointer": lambda x, i: i}
        names |= {"share": lambda worker, n, tasks, at=first: (min(at, tasks), min(at + 60, tasks))}
        names |= {"address": id, "should_stream": lambda y, x, limit: False, "spans_of": lambda x, large: (False, size)}
        names |= {"end_of_piece": lambda start, stop: stop, "_worker_masks": lambda masks, worker: None}
        names |= {"fill": lambda *_: 0, "prefetch_pays": lambda x: False, "_once": lambda *_: None}
        names |= {"three_of": lambda *_: None}
        kernel = fused_planes.transform.function
        assert names.keys() <= kernel.__globals__.keys()
        alone = FunctionType(kernel.__code__, kernel.__globals__ | names)
        written.clear()
        alone(x, x, x, x, None, (0, 0), None, None, SimpleNamespace(size=MASK_BUFFER))
        starts = range(min(first * size, n), min((first + 60) * size, n), size)
        assert written == [(start, min(start + size, n)) for start in starts]


@pytest.mark.parametrize("start", [2**32 - 300, 2**35 - 77, 2**40 + 13, 2**55 - 257])
def test_masks_of_pieces_far_along_are_those_of_the_reference(start) -> None:
    key, call, threshold = (0xFFFFFFFF, 5), 2**63 - 1, (1 << 31) + 12345
    buffer, expected = np.zeros(1024, np.bool_), np.empty(300, np.bool_)
    at = mask_of(buffer, start, start + 300, np.array([*key, call, threshold, 1, 1]), np.zeros(0, np.bool_))
    _reference.keep_mask(expected, key, call, threshold, start)
    assert np.array_equal(buffer[at : at + 300], expected)


@pytest.mark.parametrize("fold", [(1, 2**33), (2**33, 1), (3, 2**32 + 5), (7, 50), (2**20, 3)])
def test_given_masks_of_pieces_far_along_are_read_at_their_elements(fold) -> None:
    n_shared, length = fold
    start, stop = 2**36 + 1, 2**36 + 301

    class Given:
        def __getitem__(self, at: int) -> int:
            return at

    places = np.zeros(300, np.int64)
    take = getattr(mask_pieces._take, "py_func", mask_pieces._take)
    take(places, start, stop, Given(), fold)
    assert places.tolist() == [i // (n_shared * length) * length + i % length for i in range(start, stop)]


PLACES = [2**32 - 300, 2**32 + 3, 2**35 - 300, 2**35 - 1, 2**35 + 77, 2**40 + 5, 2**40 + 2**36 - 129, 2**62 + 1]


@pytest.mark.parametrize("first", PLACES)
def test_masks_far_along_are_those_of_the_reference_and_of_the_plain_law(backend, first) -> None:
    """A group has 16 counters, so that the low counter word overflows at group 2**28, element 2**35."""
    key, call, threshold = (0x243F6A88, 0x85A308D3), 2**40 + 5, 1 << 31
    mask, expected = np.empty(700, np.bool_), np.empty(700, np.bool_)
    backend.keep_mask(mask, key, call, threshold, first)
    _reference.keep_mask(expected, key, call, threshold, first)
    assert np.array_equal(mask, expected)
    places = range(0, 700, 13)
    plain = [LAW["is_kept"](first + j, key, call, threshold) for j in places]
    assert mask[list(places)].tolist() == plain


@pytest.mark.parametrize("group", [2**28 - 1, 2**28, 2**28 + 1, 2**32 - 1, 2**32, 2**36 + 3, 2**55 - 1])
def test_every_element_of_a_group_far_along_follows_the_plain_law(backend, group) -> None:
    key, call = (0xFFFFFFFF, 1), 2**63 - 2
    mask = np.empty(128, np.bool_)
    for threshold in (1 << 30, (1 << 31) + 12345):
        backend.keep_mask(mask, key, call, threshold, 128 * group)
        assert mask.tolist() == [LAW["is_kept"](128 * group + e, key, call, threshold) for e in range(128)]


@pytest.mark.parametrize("length", [2**33 + 5, 2**28, 130, 2**20 + 1])
@pytest.mark.parametrize("first", [0, 2**35 - 40, 2**40 + 13])
def test_words_of_columns_far_apart_hold_the_bits_of_their_elements(first, length) -> None:
    key, call, threshold = (1, 2), 2**33 + 1, 1 << 30
    n, n_columns = 100, 9
    words, drawn = np.zeros((7, n_columns + LANES), np.uint16), np.zeros(16, np.uint16)
    draw(words.reshape(-1), n_columns + LANES, (first, length, n, n_columns), drawn, (*key, call, threshold))
    for q in range(n_columns):
        expected = np.empty(n, np.bool_)
        _reference.keep_mask(expected, key, call, threshold, first + q * length)
        found = [bool(words[e // LANES, q] >> (e % LANES) & 1) for e in range(n)]
        assert found == expected.tolist()


@pytest.mark.jit
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 2**32 + 1000), (2**26 + 16, 64, 1)], ids=str)
def test_statistics_of_more_than_two_to_the_32_values_see_the_last_ones(shape) -> None:
    """Pages that nothing wrote to take no memory: the array is one of zeros but for a few values at its ends."""
    from normdrop import _cpu

    n_channels, n = shape[1], shape[0] * shape[2]
    try:
        x = np.zeros(shape, np.float16)
    except MemoryError:
        pytest.skip("no room for the addresses")
    x[0, 0, 0], x[-1, -1, -1], x[-1, -1, -2 if shape[2] > 1 else -1] = 3.0, 2.0, 2.0
    values = [np.array([3.0]), np.array([2.0])] if n_channels > 1 else [np.array([3.0, 2.0, 2.0])]
    statistics, sums = np.empty((3, n_channels)), np.empty((2, n_channels))
    _cpu.moments(statistics, x)
    for channel, nonzero in zip((0, -1), values, strict=False):
        mean = nonzero.sum() / n
        var = np.square(nonzero).sum() / n - mean**2
        rounding = 2.0**-52 * float(x[0, channel, 0])  # means are merged as differences from the channel's first value
        np.testing.assert_allclose(statistics[0, channel], mean, rtol=1e-9, atol=rounding)
        np.testing.assert_allclose(statistics[1, channel], var, rtol=1e-9)
    assert not statistics[:2, 1:-1].any()
    statistics[:2], statistics[2] = 0, 1
    _cpu.parameter_gradients(sums, x, x, statistics)
    for channel, nonzero in zip((0, -1), values, strict=False):
        assert sums[:, channel].tolist() == [np.square(nonzero).sum(), nonzero.sum()]
