"""Exact sums in vectors: where values are too far apart for float64, and at every edge of a block, no bit is lost."""

from __future__ import annotations

import numpy as np
import pytest

from normdrop import _cpu, _exact, _reference
from normdrop._cpu.kernels import exact_lanes

from ..conftest import WITHOUT_JIT

BIG = np.float32(2 - 2**-23)  # all digits of a float32


def sums_of(backend, x):
    sums = np.empty((x.shape[1], _exact.grid_of(x.dtype).n_columns), np.int64)
    backend.exact_sums(sums, x)
    return sums


def assert_exact(x):
    before = x.tobytes()
    assert np.array_equal(sums_of(_cpu, x), sums_of(_reference, x))
    assert x.tobytes() == before


def as_rows(lanes):
    """Give each lane a channel: (number, C, 1)."""
    return np.ascontiguousarray(np.stack(lanes, axis=1)[:, :, None], np.float32)


def as_planes(lanes):
    """Give all lanes one channel in each of 16 places of a run: (1, C, 16 * number)."""
    return np.ascontiguousarray(np.stack([np.repeat(lane, 16) for lane in lanes])[None], np.float32)


def lanes_of_gap(gap, exponent):
    """Lanes of as many values as one holds, and one more, that make the longest sums: large and small ones by turns."""
    n = exact_lanes.VALUES
    small = np.ldexp(np.float32(1 + 2**-23), exponent - gap)
    half = np.ldexp(np.float32(1.2207031 + 2**-23), exponent - gap)  # its square is 1.49 squares of the power below
    large = np.ldexp(BIG, exponent)
    for number in (n, n + 1):
        for many, one in ((large, small), (small, large), (half, large), (-large, small)):
            lane = np.full(number, many, np.float32)
            lane[3] = one
            yield lane


@pytest.mark.kinds
@pytest.mark.parametrize("exponent", [0, 100, 127, -100, -126])
@pytest.mark.parametrize("arrange", [as_rows, as_planes])
def test_values_any_number_of_orders_apart_are_summed_exactly(arrange, exponent):
    limit = exact_lanes.ORDERS
    gaps = (limit,) if WITHOUT_JIT and arrange is as_planes else (limit - 1, limit, limit + 1, limit + 2, limit + 5)
    lanes = [lane for gap in gaps for lane in lanes_of_gap(gap, exponent)]
    for number in {lane.size for lane in lanes}:
        assert_exact(arrange([lane for lane in lanes if lane.size == number]))


def test_what_the_sums_of_a_lane_hold_is_what_float64_holds():
    """A value has 24 digits, its square 48, of which the splitter leaves 44 in the upper part."""
    values, orders = exact_lanes.VALUES, exact_lanes.ORDERS
    assert values * 2 ** (24 + orders) <= 2**53
    assert values * 2**44 <= 2**53
    assert values * 2 ** (48 + 2 * orders - 44 - 1) <= 2**53


ROWS = [(5, 3, 1), (6, 1, 1), (40, 1, 15), (255, 3, 1), (256, 17, 1), (257, 16, 1), (513, 2, 7), (1281, 3, 1)]
PLANES = [(1, 2, 16), (3, 2, 17), (2, 3, 49), (90, 2, 49), (1, 2, 4095), (1, 1, 4096), (2, 1, 4097), (300, 1, 16)]


def values(kind, shape):
    rng = np.random.default_rng(sum(shape))
    x = rng.normal(3.0, 2.0, shape)
    if kind == "signs":
        x = rng.choice([-1.0, 1.0], shape)
    if kind == "zeros":
        x = np.where(rng.random(shape) < 0.5, rng.choice([0.0, -0.0], shape), x)
    if kind == "some far":
        x = np.where(rng.random(shape) < 0.02, np.ldexp(x, rng.integers(-140, 120, shape)), x)
    if kind == "denormals":
        x = np.ldexp(x, -140)
    if kind == "not finite":
        x = np.where(rng.random(shape) < 0.02, rng.choice([np.nan, np.inf, -np.inf], shape), x)
    if kind == "largest":
        x = np.full(shape, np.finfo(np.float32).max) * rng.choice([-1.0, 1.0], shape)
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "signs", "zeros", "some far", "denormals", "not finite", "largest"])
@pytest.mark.parametrize("shape", [*ROWS, *PLANES], ids=str)
def test_blocks_of_every_length_and_values_of_every_kind_are_summed_exactly(shape, kind):
    if WITHOUT_JIT and shape[0] * shape[1] * shape[2] > 50_000:
        pytest.skip("many values for plain Python")
    assert_exact(values(kind, shape))


@pytest.mark.jit
@pytest.mark.once
@pytest.mark.parametrize("shape", [(70_000, 1, 1), (5_000, 3, 5), (3, 2, 20_000), (1, 1, 90_001)], ids=str)
def test_parts_of_threads_end_anywhere(shape):
    assert_exact(values("some far", shape))


def test_one_value_far_away_takes_no_other_lane_the_slow_way(monkeypatch):
    """What is near each other is not added one by one."""
    if not WITHOUT_JIT:
        pytest.skip("counts calls of plain Python")
    added = []
    monkeypatch.setattr(exact_lanes, "add", lambda sums, row, value, grid: added.append((row, value)))
    x = np.ones((10, 16, 1), np.float32)
    x[4, 5], x[6, 5], x[1, 7] = 1e-30, np.nan, 0.0
    sums_of(_cpu, x)
    assert {row for row, _ in added} == {5}
    assert len(added) == 10


def test_merging_takes_carries_as_they_come(monkeypatch):
    from normdrop._cpu.kernels import exact_sums

    x = values("some far", (40, 3, 17))
    expected = sums_of(_reference, x)
    for carry_after in (1, 100):
        monkeypatch.setattr(exact_sums, "CARRY_AFTER", carry_after)
        assert np.array_equal(sums_of(_cpu, x), expected)
        assert np.array_equal(sums_of(_cpu, np.ascontiguousarray(x[:, :, :1])), sums_of(_reference, x[:, :, :1]))
