"""Statistics of parts merge to those of the whole."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

import normdrop
from normdrop import ChannelStatistics

from ..exact import exact_channels, relative_error

pytestmark = pytest.mark.same


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(dtype)


def in_parts(x, cuts):
    return [ChannelStatistics.of(part) for part in np.split(x, cuts)]


def exact_variance(values):
    """Of multiples of 2**-30, by integers."""
    units = np.round(values.astype(np.float64) * 2.0**30).astype(np.int64)
    assert np.array_equal(units / 2.0**30, values.astype(np.float64))
    units -= units[0]
    n, total = units.size, int(units.sum())
    return float(Fraction(n * sum(u * u for u in units.tolist()) - total**2, n * n * 2**60))


@pytest.mark.jit
@pytest.mark.once
@pytest.mark.parametrize("ordered", [False, True])
def test_a_million_rows_in_chunks_of_any_size_have_the_variance_of_the_whole(ordered):
    x = np.random.default_rng(0).normal(300, 0.1, (1_000_000, 1)).astype(np.float32)
    x = np.sort(x, axis=0) if ordered else x
    expected = exact_variance(x[:, 0])
    for size in (1_000_000, 500_000, 65_537, 1000, 97):
        whole = ChannelStatistics(1)
        for start in range(0, len(x), size):
            whole += ChannelStatistics.of(x[start : start + size])
        assert whole.n.tolist() == [1e6]
        assert relative_error(whole.var(), [expected]) < 1e-12, size
        assert abs(whole.mean[0] - math.fsum(x[:, 0]) / 1e6) < 1e-13


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3), 1), ((4, 3, 5), 1), ((2, 5, 4, 3), -1), ((3, 8), 0)])
def test_statistics_of_a_batch_are_its_mean_and_variance(backend, shape, axis, dtype):
    x = random(*shape, dtype=dtype)
    statistics = ChannelStatistics.of(x, axis)
    mean, var = exact_channels(x, axis)
    assert statistics.n.tolist() == [x.size // 3] * 3
    assert relative_error(statistics.mean, mean) < 1e-12
    assert relative_error(statistics.var(), var) < 1e-12
    assert relative_error(statistics.var(ddof=1), var * statistics.n / (statistics.n - 1)) < 1e-12
    assert np.array_equal(statistics.std(1), np.sqrt(statistics.var(1)))
    assert np.array_equal(statistics.inv_std(1e-3), 1 / np.sqrt(statistics.var() + 1e-3))


@pytest.mark.parametrize(
    "sizes", [[0, 5], [5, 0], [1, 6], [6, 1], [1, 1], [0, 1], [1, 0], [0, 0, 1, 0, 1, 1, 0], [2, 0, 3]]
)
def test_parts_with_no_value_and_with_one_count_in_every_position(sizes):
    x = random(sum(sizes), 3)
    parts = in_parts(x, np.cumsum(sizes)[:-1])
    mean, var = exact_channels(x, 1)
    for order in (parts, parts[::-1]):
        whole = sum(order)
        assert whole.n.tolist() == [len(x)] * 3
        assert relative_error(whole.mean, mean) < 1e-14
        assert relative_error(whole.var(), var) < 1e-14


def test_empty_statistics_are_neutral_to_the_bit():
    x, empty = random(6, 2), ChannelStatistics(2)
    statistics = ChannelStatistics.of(x)
    assert ChannelStatistics.of(x[:0]) == empty == empty + empty
    assert empty + statistics == statistics == statistics + empty == sum([empty, statistics, empty])
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.var()).all()
    bad = ChannelStatistics.from_array(np.array([[0.0, 0.0], [np.nan, np.inf], [0.0, 0.0], [np.nan, 1.0]]))
    assert np.isfinite((bad + statistics).to_array()).all()


def test_the_same_parts_in_the_same_order_have_the_same_bits():
    parts = in_parts(random(50, 4), [3, 20, 21])
    one = ((parts[0] + parts[1]) + parts[2]) + parts[3]
    other = ChannelStatistics(4)
    for part in parts:
        other += ChannelStatistics.from_array(pickle.loads(pickle.dumps(part)).to_array())
    assert other == one == sum(parts)
    assert other.to_array().tobytes() == one.to_array().tobytes()


def test_merging_changes_neither_part_and_adding_in_place_only_the_first():
    a, b = ChannelStatistics.of(random(5, 2)), ChannelStatistics.of(random(4, 2, seed=1))
    before, other = a.copy(), b.copy()
    whole = a.merge(b)
    assert (a, b) == (before, other)
    assert whole != a
    twin = copy.copy(a)
    a += b
    assert a == whole
    assert (twin, b) == (before, other)


@pytest.mark.parametrize("shape", [(40, 3, 7), (40, 1, 7), (1, 3, 1)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_masked_values_do_not_count_not_even_as_a_nan(shape, order):
    x = np.asarray(random(40, 3, 7), order=order)
    mask = np.random.default_rng(1).random(shape) < 0.6
    mask[0] = True
    kept = np.broadcast_to(mask, x.shape)
    statistics = ChannelStatistics.of(np.where(kept, x, np.nan), mask=mask)
    for c in range(3):
        values = x[:, c][kept[:, c]]
        mean, var = exact_channels(values[:, None], 1)
        assert statistics.n[c] == values.size
        assert relative_error(statistics.mean[c : c + 1], mean) < 1e-13
        assert relative_error(statistics.var()[c : c + 1], var) < 1e-13


def test_whole_weights_count_as_copies_and_zero_ones_not_at_all():
    x = random(30, 2, dtype=np.float32) + np.float32(1000)
    weights = np.random.default_rng(1).integers(0, 4, (30, 1)).astype(np.float32)
    weighted = ChannelStatistics.of(np.where(weights > 0, x, np.inf).astype(np.float32), weights=weights)
    repeated = ChannelStatistics.of(np.repeat(x, weights[:, 0].astype(int), axis=0))
    assert np.array_equal(weighted.n, repeated.n)
    assert relative_error(weighted.mean, repeated.mean) < 1e-15
    assert relative_error(weighted.var(ddof=1), repeated.var(ddof=1)) < 1e-10
    masked = ChannelStatistics.of(x, weights=weights, mask=x > 1000)
    assert masked == ChannelStatistics.of(x, weights=weights * (x > 1000))


def test_blocks_of_masked_values_make_no_difference():
    x = np.random.default_rng(0).normal(300, 0.1, (3, 2, 70_001)).astype(np.float32)
    statistics = ChannelStatistics.of(x, mask=np.ones((1, 1, 1), np.bool_))
    mean, var = exact_channels(x, 1)
    assert relative_error(statistics.mean, mean) < 1e-15
    assert relative_error(statistics.var(), var) < 1e-11
    assert relative_error(statistics.var(), ChannelStatistics.of(x).var()) < 1e-12


def test_a_value_that_is_not_finite_stays_within_its_channel():
    x = random(9, 3)
    x[2, 0], x[7, 1] = np.nan, np.inf
    for parts in (in_parts(x, [5]), in_parts(x, [3, 6])):
        whole = sum(parts)
        assert np.isfinite(whole.mean).tolist() == np.isfinite(whole.var()).tolist() == [False, False, True]
        assert relative_error(whole.var()[2:], exact_channels(x[:, 2:], 1)[1]) < 1e-14


def test_an_array_a_pickle_a_copy_and_a_state_hold_everything():
    statistics = sum(in_parts(random(9, 3), [4]))
    twins = [
        ChannelStatistics.from_array(statistics.to_array()),
        pickle.loads(pickle.dumps(statistics)),
        copy.deepcopy(statistics),
        statistics.copy(),
    ]
    loaded = ChannelStatistics(3)
    loaded.load_state_dict(statistics.state_dict())
    assert all(twin == statistics for twin in [*twins, loaded])
    block = statistics.to_array()
    assert (block.dtype, block.shape, block.flags.c_contiguous) == (np.float64, (4, 3), True)
    block[:] = 7
    statistics.state_dict()["statistics"][:] = 7
    statistics.n[:] = 7
    assert statistics == twins[0]


def test_a_person_can_read_what_it_is():
    x = np.array([[1.0, 10.0], [3.0, 30.0]])
    assert repr(ChannelStatistics.of(x)) == "ChannelStatistics of 2 channels, n = 2: mean 2 to 20, sd 1 to 10"
    assert repr(ChannelStatistics(1)) == "ChannelStatistics of 1 channel, no values"
    assert "1 not finite" in repr(ChannelStatistics.of(np.array([[np.nan, 1.0], [1.0, 2.0]])))
    assert "mean not finite" in repr(ChannelStatistics.of(np.array([[np.nan], [1.0]])))


X = np.ones((4, 3))
REFUSED = [
    (lambda: ChannelStatistics(0), ValueError, "num_channels must be at least 1; got 0"),
    (lambda: ChannelStatistics.of(X.astype(int)), TypeError, "x must have dtype"),
    (lambda: ChannelStatistics.of(X[0]), ValueError, "at least two axes"),
    (lambda: ChannelStatistics.of(np.ones((4, 0))), ValueError, "x has no channels"),
    (lambda: ChannelStatistics.of(X, mask=np.ones((4, 3))), TypeError, "mask must be a boolean"),
    (lambda: ChannelStatistics.of(X, mask=np.ones((2, 3), bool)), ValueError, "broadcasts to it; got (2, 3)"),
    (lambda: ChannelStatistics.of(X, weights=-X), ValueError, "weights must be finite and not negative"),
    (lambda: ChannelStatistics.of(X, weights=X * np.inf), ValueError, "weights must be finite and not negative"),
    (lambda: ChannelStatistics.of(X, weights=np.ones(4)), ValueError, "broadcasts to it; got (4,)"),
    (lambda: ChannelStatistics(3).merge(X), TypeError, "ChannelStatistics.of()"),
    (lambda: ChannelStatistics(3).merge(ChannelStatistics(2)), ValueError, "3 channels as this one; got 2"),
    (lambda: ChannelStatistics(3) + 1, TypeError, "unsupported operand"),
    (lambda: ChannelStatistics(3).inv_std(0.0), ValueError, "eps must be positive"),
    (lambda: ChannelStatistics(3).var("1"), TypeError, "ddof must be a real number"),
    (lambda: ChannelStatistics.from_array([1.0]), TypeError, "got list [1.0]"),
    (lambda: ChannelStatistics.from_array(np.ones((4, 3), np.float32)), TypeError, "got float32"),
    (lambda: ChannelStatistics.from_array(np.ones((3, 4))), ValueError, "shape (4, C)"),
    (lambda: ChannelStatistics.from_array(np.full((4, 2), -1.0)), ValueError, "numbers of values"),
    (lambda: ChannelStatistics.from_array(np.array([[1.0], [0.0], [0.0], [-1.0]])), ValueError, "not be negative"),
    (lambda: hash(ChannelStatistics(3)), TypeError, "unhashable"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_is_wrong_is_refused_by_name(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_a_state_that_is_refused_changes_nothing():
    statistics = ChannelStatistics.of(X)
    before = statistics.copy()
    narrow = ChannelStatistics.of(X[:, :2]).to_array()
    for change in ({"statistics": -statistics.to_array()}, {"statistics": narrow}, {"extra": np.ones(3)}):
        with pytest.raises(ValueError, match="must"):
            statistics.load_state_dict(statistics.state_dict() | change)
    with pytest.raises(ValueError, match="channels"):
        statistics += ChannelStatistics(2)
    assert statistics == before
    assert (statistics == 3) is False


def test_it_is_public():
    assert normdrop.ChannelStatistics is ChannelStatistics
