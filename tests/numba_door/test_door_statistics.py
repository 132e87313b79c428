"""Statistics value by value in compiled code; their bits do not depend on how the caller is compiled."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

import normdrop.numba as door
from normdrop import ChannelStatistics

pytestmark = [pytest.mark.once, pytest.mark.jit]


def series(x):
    n, mean, m2 = 0.0, 0.0, 0.0
    for value in x:
        n, mean, m2 = door.statistics_update(n, mean, m2, value)
    return n, mean, m2


def joined(a, b):
    return door.statistics_merge(a[0], a[1], a[2], b[0], b[1], b[2])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_series_has_the_bits_of_plain_python_with_any_options_of_the_caller(dtype, fast):
    x = np.random.default_rng(0).normal(1e6, 1.0, 3000).astype(dtype)
    compiled, merged = njit(fastmath=fast)(series), njit(fastmath=fast)(joined)
    found, wanted = compiled(x), series(x)
    assert np.array(found).tobytes() == np.array(wanted).tobytes()
    assert found[0] == 3000
    assert abs(found[1] - x.astype(np.float64).mean()) < 1e-6
    assert abs(found[2] / found[0] / x.astype(np.float64).var() - 1) < 1e-9
    parts = compiled(x[:1000]), compiled(x[1000:])
    assert np.array(merged(*parts)).tobytes() == np.array(joined(*parts)).tobytes()


def test_merged_parts_have_the_bits_of_the_sum_of_two_statistics():
    x = np.random.default_rng(0).normal(300.0, 0.1, (50, 1))
    parts = ChannelStatistics.of(x[:20]), ChannelStatistics.of(x[20:])
    triples = [(part.n[0], part.mean[0], part.to_array()[3, 0]) for part in parts]
    whole = (parts[0] + parts[1]).to_array()[:, 0]
    found = njit(joined)(*triples)
    assert np.array(found).tobytes() == np.array([whole[0], whole[1], whole[3]]).tobytes()


def test_a_part_of_no_values_changes_nothing_not_even_with_a_nan_as_its_mean():
    nothing, some = (0.0, np.nan, np.nan), (3.0, 3.0, 14.0)
    merged = njit(fastmath=True)(joined)
    assert merged(nothing, some) == merged(some, nothing) == joined(nothing, some) == joined(some, nothing) == some


def test_a_nan_in_a_series_stays_one_also_with_fast_math():
    x = np.array([1.0, np.nan, 2.0])
    n, mean, m2 = njit(fastmath=True)(series)(x)
    assert n == 3
    assert np.isnan(mean)
    assert np.isnan(m2)
