"""Exact statistics: rounded once, and the same bits for any division into parts and any order of merging."""

from __future__ import annotations

import importlib
import pickle
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop import ChannelStatistics, _exact

from ..conftest import WITHOUT_JIT

EXPONENTS = {"float16": (-24, 14), "bfloat16": (-133, 126), "float32": (-149, 126), "float64": (-1074, 1022)}
DTYPES = list(EXPONENTS)
N = 300 if WITHOUT_JIT else 5000


def dtype_of(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def wild(shape, dtype, seed=0):
    """Values of every size that the dtype has, denormal ones and zeros too."""
    rng = np.random.default_rng(seed)
    low, high = EXPONENTS[dtype.name]
    x = np.ldexp(rng.uniform(1.0, 2.0, shape), rng.integers(low, high, shape, endpoint=True))
    return np.where(rng.random(shape) < 0.05, 0.0, x * rng.choice([-1.0, 1.0], shape)).astype(dtype)


def ordinary(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(300.0, 0.1, shape).astype(dtype)


def rounded(fraction):
    try:
        return fraction.numerator / fraction.denominator
    except OverflowError:
        return np.inf


def nearest(values, ddof=0):
    """Mean and variance in rational numbers, each rounded once."""
    exact = [Fraction(float(value)) for value in values.reshape(-1)]
    mean = sum(exact) / len(exact)
    return rounded(mean), rounded(sum((value - mean) ** 2 for value in exact) / (len(exact) - ddof))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [wild, ordinary])
@pytest.mark.parametrize(("shape", "axis"), [((60, 2), 1), ((3, 2, 20), 1), ((2, 65), 0)])
def test_mean_and_variance_are_the_float64_nearest_to_those_of_the_data(backend, shape, axis, make, dtype):
    x = make(shape, dtype_of(dtype))
    statistics = ChannelStatistics.of(x, axis, exact=True)
    for c, values in enumerate(np.moveaxis(x, axis, 0)):
        assert (statistics.mean[c], statistics.var()[c]) == nearest(values)
        assert statistics.var(ddof=1)[c] == nearest(values, 1)[1]
    assert statistics.n.tolist() == [x.size // 2] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [wild, ordinary])
def test_any_division_into_parts_and_any_order_of_merging_give_the_same_bits(make, dtype):
    x = make((N, 3), dtype_of(dtype))
    whole = ChannelStatistics.of(x, exact=True)
    rng, shuffler = np.random.default_rng(1), random.Random(2)
    for _ in range(5):
        permuted = x[rng.permutation(N)]
        cuts = np.sort(rng.integers(0, N + 1, rng.integers(1, 40)))
        parts = [ChannelStatistics.of(part, exact=True) for part in np.split(permuted, cuts)]
        while len(parts) > 1:  # any tree
            shuffler.shuffle(parts)
            parts.append(parts.pop() + parts.pop())
        assert parts[0] == whole
        assert parts[0].to_array().tobytes() == whole.to_array().tobytes()
        assert parts[0].mean.tobytes() == whole.mean.tobytes()
        assert parts[0].var(1).tobytes() == whole.var(1).tobytes()


def test_division_along_any_axis_and_any_layout_give_the_same_bits():
    x = ordinary((6, 3, 50), np.float32)
    whole = ChannelStatistics.of(x, exact=True)
    assert sum(ChannelStatistics.of(part, exact=True) for part in np.split(x, [1, 20, 49], axis=2)) == whole
    for other in (np.asfortranarray(x), x[::-1], np.repeat(x, 2, axis=2)[:, :, ::2]):
        assert ChannelStatistics.of(other, exact=True) == whole
    assert ChannelStatistics.of(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, exact=True) == whole
    assert ChannelStatistics.of(x.astype(np.float64), exact=True) == whole


@given(st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=1, max_size=6), st.data())
def test_sums_of_any_float64_are_exact(values, data):
    x = np.array(values)[:, None]
    cut = data.draw(st.integers(0, len(values)))
    merged = ChannelStatistics.of(x[cut:], exact=True) + ChannelStatistics.of(x[:cut], exact=True)
    assert (merged.mean[0], merged.var()[0]) == nearest(x)


def test_parts_of_float32_and_of_float64_merge():
    x = ordinary((40, 2), np.float32)
    x[:5] *= -1
    narrow, wide = (ChannelStatistics.of(x[:20].astype(dtype), exact=True) for dtype in (np.float32, np.float64))
    assert narrow == wide
    assert narrow.to_array().nbytes * 4 < wide.to_array().nbytes
    rest = ChannelStatistics.of(x[20:], exact=True)
    assert narrow + rest == rest + wide == ChannelStatistics.of(x, exact=True)
    assert (wide + ChannelStatistics(2, exact=True)) == narrow


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("carry_after", [1, 2, 3, 16, 10**6])
def test_when_carries_go_on_makes_no_difference(carry_after, dtype, monkeypatch):
    kernel = importlib.import_module("normdrop._cpu.kernels.exact_sums")
    x = wild((2, 3, 47), dtype_of(dtype))
    expected = ChannelStatistics.of(x, exact=True).to_array()
    monkeypatch.setattr(kernel, "CARRY_AFTER", carry_after)
    assert ChannelStatistics.of(x, exact=True).to_array().tobytes() == expected.tobytes()


def test_no_limb_overflows_before_carries_go_on():
    kernel = importlib.import_module("normdrop._cpu.kernels.exact_sums")
    assert 2**32 + kernel.CARRY_AFTER * 3 * 2**33 < 2**63  # three products, of each less than 2**33 for a limb
    for name in DTYPES:
        grid = _exact.grid_of(dtype_of(name))
        low, high = (1074, 1024) if name == "float64" else (149 + 52, 128)
        squares = (2 * 1074, 2048) if name == "float64" else (2 * 149 + 52, 256)
        assert low <= grid.unit
        assert high + 63 + grid.unit < 32 * grid.n_limbs + 31
        assert squares[0] <= 2 * grid.unit
        assert squares[1] + 63 + 2 * grid.unit < 32 * grid.n_square_limbs + 31


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal])
def test_the_largest_and_the_smallest_values_are_summed(value):
    x = np.full((1000, 1), value)
    x[0] = -value
    statistics = ChannelStatistics.of(x, exact=True)
    assert (statistics.mean[0], statistics.var()[0]) == nearest(x)


def test_nan_and_infinity_stay_within_their_channel_in_any_order():
    x = ordinary((9, 5), np.float32)
    x[2, 0], x[7, 1], x[3, 2], x[1, 3], x[8, 3] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    for parts in (np.split(x, [5]), np.split(x, [3, 6])[::-1], [x]):
        whole = sum(ChannelStatistics.of(part, exact=True) for part in parts)
        assert np.array_equal(whole.mean[:4], [np.nan, np.inf, -np.inf, np.nan], equal_nan=True)
        assert np.isnan(whole.var()[:4]).all()
        assert (whole.mean[4], whole.var()[4]) == nearest(x[:, 4])


@pytest.mark.parametrize("shape", [(40, 3, 7), (1, 3, 7)])
def test_masked_values_do_not_count(shape):
    x = ordinary((40, 3, 7), np.float32)
    mask = np.random.default_rng(1).random(shape) < 0.6
    kept = np.broadcast_to(mask, x.shape)
    statistics = ChannelStatistics.of(np.where(kept, x, np.float32(np.nan)), mask=mask, exact=True)
    for c in range(3):
        values = x[:, c][kept[:, c]]
        assert statistics.n[c] == values.size
        assert (statistics.mean[c], statistics.var()[c]) == nearest(values)


def test_the_sum_of_arrays_is_the_array_of_the_sum():
    parts = [ChannelStatistics.of(part, exact=True) for part in np.split(ordinary((50, 2), np.float32) - 300, 10)]
    added = sum(part.to_array() for part in parts)
    assert ChannelStatistics.from_array(added) == sum(parts)


def test_an_array_a_pickle_a_copy_and_a_state_hold_everything():
    statistics, loaded = (
        ChannelStatistics.of(ordinary((9, 3), np.float64), exact=True),
        ChannelStatistics(3, exact=True),
    )
    loaded.load_state_dict(statistics.state_dict())
    assert statistics == loaded == pickle.loads(pickle.dumps(statistics)) == statistics.copy()
    assert loaded.exact
    assert repr(loaded).startswith("exact ChannelStatistics of 3 channels, n = 9: mean 300")


def test_no_values_are_neutral_and_one_has_no_unbiased_variance():
    empty, one = ChannelStatistics(2, exact=True), ChannelStatistics.of(ordinary((1, 2), np.float32), exact=True)
    assert empty + one == one == one + empty
    assert ChannelStatistics.of(ordinary((0, 2), np.float32), exact=True) == empty
    assert np.isnan([*empty.mean, *empty.var(), *one.var(1)]).all()
    assert one.var().tolist() == [0.0, 0.0]


X = np.ones((4, 3))
EXACT = ChannelStatistics.of(X, exact=True)
REFUSED = [
    (lambda: EXACT.merge(ChannelStatistics(3)), ValueError, "exact=True as this one; got False"),
    (lambda: ChannelStatistics(3) + EXACT, ValueError, "exact=False as this one; got True"),
    (lambda: ChannelStatistics.of(X, weights=X, exact=True), ValueError, "weights must be None with exact=True"),
    (lambda: ChannelStatistics.of(X, exact=1), TypeError, "exact must be True or False"),
    (lambda: ChannelStatistics.from_array(np.zeros((3, 5), np.int64)), ValueError, "got (3, 5)"),
    (lambda: ChannelStatistics.from_array(np.full((3, 41), -1)), ValueError, "numbers of values"),
    (lambda: ChannelStatistics(3).load_state_dict(EXACT.state_dict()), ValueError, "exact=False; got one of 3"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_is_wrong_is_refused_by_name(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_exact_and_rounded_statistics_are_not_equal():
    assert ChannelStatistics.of(X) != EXACT
