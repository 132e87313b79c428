"""The bench: ratios are those of the same round, and nothing but calls is timed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from normdrop.bench import protocol

from ..bench_clock import FEW, stopped_clock


@pytest.fixture
def clock(monkeypatch):
    """Time by a clock that only moves when it is told to."""
    return stopped_clock(monkeypatch)


def measure(calls, *, always=0, seed=0, **changes):
    return protocol.measure(calls, dataclasses.replace(FEW, **changes), np.random.default_rng(seed), always)


def test_a_side_that_takes_twice_as_long_has_ratio_two(clock):
    seconds = measure({"one": clock.taking(0.001), "two": clock.taking(0.002)})
    measured = protocol.Times(seconds)
    assert measured.ratio("two", "one") == pytest.approx((2, 2, 2))
    assert measured.microseconds("two") == pytest.approx(2000)


def test_drift_from_round_to_round_leaves_ratios_alone(clock):
    def side(cost):
        def call():
            clock.now += cost * 3.0 ** ((len(clock.slept) - 1) // 2)  # two sides sleep in each round

        return call

    seconds = measure({"one": side(0.001), "two": side(0.002)})
    assert seconds["one"][-1] > 20 * seconds["one"][0]
    assert protocol.Times(seconds).ratio("two", "one") == pytest.approx((2, 2, 2))


def test_quartiles_are_of_the_ratios_within_rounds():
    seconds = {"a": np.array([1.0, 2, 3, 4, np.nan]), "b": np.array([1.0, 1, 1, 2, 7])}
    measured = protocol.Times(seconds)
    assert measured.ratio("a", "b") == pytest.approx((1.75, 2, 2.25))  # of 1, 2, 3, 2
    assert measured.microseconds("a") == pytest.approx(2.5e6)


def test_neither_the_first_call_nor_the_sleep_nor_the_warm_up_is_timed(clock):
    # Compiling, the calls that show how long one takes, and waking threads.
    costs = iter([5.0, 0.004, 0.001, 0.002, *[0.001] * 9, 0.012, 0.013, 0.001])
    n_calls = 0

    def call():
        nonlocal n_calls
        n_calls += 1
        clock.now += next(costs, 0.001)

    seconds = measure({"it": call}, seconds=0.0105, rounds=2)
    np.testing.assert_allclose(seconds["it"], 0.001)
    assert n_calls == 16 + 10 + 1 + 10  # as many in a round as fit into its time by the fastest of the first calls
    assert set(clock.slept) == {protocol.SLEEP}


def test_warming_up_comes_to_an_end_where_calls_stay_slow(clock):
    costs = iter([0.001] * 13)

    def call():
        clock.now += next(costs, 0.01)

    assert measure({"it": call}, rounds=1)["it"] == pytest.approx(0.01)


def test_slow_sides_take_part_in_fewer_rounds_but_not_in_fewer_than_asked(clock):
    calls = {"copy": clock.taking(9.0), "quick": clock.taking(0.001), "slow": clock.taking(1.0)}
    calls["crawling"] = clock.taking(50.0)
    seconds = measure(calls, always=1, rounds=12, longest=6.0, fewest=3)
    counts = {name: int(np.isfinite(values).sum()) for name, values in seconds.items()}
    assert counts == {"copy": 12, "quick": 12, "slow": 6, "crawling": 3}
    assert np.flatnonzero(np.isfinite(seconds["crawling"])).tolist() == [0, 4, 8]  # spread evenly


def test_sides_take_turns_in_a_random_order_that_the_seed_fixes(clock):
    def order(seed):
        names = []
        calls = {name: lambda name=name: names.append(name) or clock.taking(1.0)() for name in "abc"}
        measure(calls, seed=seed, rounds=6)
        return ["".join(names[i : i + 3]) for i in range(6, len(names), 3)]

    rounds = order(1)
    assert len(rounds) == 6
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    assert order(1) == rounds
