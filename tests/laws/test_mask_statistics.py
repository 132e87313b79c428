"""Masks are random: exact rates, independent neighbors. Keys are fixed, so nothing here is left to chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import normdrop
from normdrop import MaskStream, _backend, functional

pytestmark = pytest.mark.jit  # many elements

N = 1 << 18
KEYS = [MaskStream(n).key for n in range(8)]
RATES = [2.0**-12, 0.01, 0.1, 0.25 + 2.0**-20, 0.5, 0.9, 1 - 2.0**-12]
SURE = 1e-4  # a wrong law fails by far more; whether a right one passes was settled when the keys were chosen


def mask_of(key, call, threshold, n=N):
    mask = np.empty(n, np.bool_)
    _backend.select(mask).keep_mask(mask, key, call, threshold)
    return mask


def assert_chi_square(observed, expected):
    """Neither farther from the expectation than chance allows nor closer."""
    p_value = stats.chisquare(np.ravel(observed), np.ravel(expected)).pvalue
    assert SURE < p_value < 1 - SURE


def assert_pairs_are_independent(first, second, p):
    """2 x 2 table of kept and dropped against the product of the exact rates."""
    observed = np.bincount(2 * first.astype(np.int64) + second, minlength=4)
    rates = np.array([p, 1 - p])
    assert_chi_square(observed, np.outer(rates, rates) * first.size)


@pytest.mark.parametrize("p", RATES)
def test_the_rate_of_dropped_elements_is_p(p):
    for key in KEYS:
        kept = sum(np.count_nonzero(mask_of(key, call, round(p * 2**32))) for call in range(4))
        n = 4 * N
        assert_chi_square([n - kept, kept], [n * p, n * (1 - p)])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_every_place_of_a_group_has_the_rate_p(p):
    groups = np.concatenate([mask_of(key, 1, round(p * 2**32)).reshape(-1, 128) for key in KEYS])
    observed = np.count_nonzero(groups, axis=0)
    variance = len(groups) * p * (1 - p)
    statistic = np.sum((observed - len(groups) * (1 - p)) ** 2) / variance
    assert SURE < stats.chi2.sf(statistic, 128) < 1 - SURE


def test_ties_of_the_first_16_bits_are_decided_at_the_exact_rate():
    """Among elements whose upper 16 bits are T_hi, the quarter of T_lo that drops them is uniform."""
    high, n, observed = 0x9000, 1 << 22, np.zeros(4)
    for key in KEYS:
        kept = [np.count_nonzero(mask_of(key, 2, (high << 16) + (quarter << 14), n)) for quarter in range(5)]
        observed -= np.diff(kept)
    assert_chi_square(
        [observed.sum(), len(KEYS) * n - observed.sum()], len(KEYS) * n * np.array([1, 2**16 - 1]) / 2**16
    )
    assert_chi_square(observed, np.full(4, observed.sum() / 4))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("lag", [1, 2, 15, 16, 17, 31, 32, 64, 127, 128, 256])
def test_serial_pairs_of_elements_are_independent(p, lag):
    mask = mask_of(KEYS[0], 3, round(p * 2**32), 1 << 20)
    pairs = mask[: mask.size // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
    assert_pairs_are_independent(pairs[:, 0].ravel(), pairs[:, 1].ravel(), p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_same_element_is_independent_in_other_calls_and_keys(p):
    threshold = round(p * 2**32)
    first = mask_of(KEYS[0], 0, threshold)
    for key, call in (
        (KEYS[0], 1),
        (KEYS[0], 2**32),
        (KEYS[0], 2**62),
        (KEYS[1], 0),
        ((KEYS[0][0] ^ 1, KEYS[0][1]), 0),
    ):
        assert_pairs_are_independent(first, mask_of(key, call, threshold), p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_neighboring_groups_and_words_hold_no_common_pattern(p):
    """Rows of 128 elements are uncorrelated in all pairs of columns."""
    groups = mask_of(KEYS[2], 5, round(p * 2**32), 1 << 21).reshape(-1, 128) - (1 - p)
    correlation = groups.T @ groups / (p * (1 - p)) / np.sqrt(len(groups))
    off_diagonal = correlation[np.triu_indices(128, 1)]
    assert SURE < stats.chi2.sf(np.sum(off_diagonal**2), off_diagonal.size) < 1 - SURE


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shared_axes", [(), (1,)])
def test_the_expectation_of_y_is_x(p, shared_axes):
    n_calls, stream = 400, MaskStream(77)
    x = np.random.default_rng(0).normal(size=(256, 4))
    total = np.zeros_like(x)
    for _ in range(n_calls):
        total += functional.dropout(x, p, shared_axes=shared_axes, rng=stream)[0]
    z = (total / n_calls / x - 1) * np.sqrt(n_calls * (1 - p) / p)
    z = z[:, :1] if shared_axes else z
    assert SURE < stats.chi2.sf(np.sum(z**2), z.size) < 1 - SURE
    assert abs(z.mean()) * np.sqrt(z.size) < stats.norm.isf(SURE)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("value", [False, True])
def test_runs_have_the_lengths_of_independent_elements(p, value):
    """Given their number, the lengths of runs are independent and geometric."""
    mask = mask_of(KEYS[3], 7, round(p * 2**32), 1 << 21)
    rate = 1 - p if value else p
    edges = np.flatnonzero(np.diff(mask))[1:-1]  # without the first and the last run, which the ends cut off
    lengths = np.diff(edges)[(0 if mask[edges[0] + 1] == value else 1) :: 2]
    longest = max(1, int(np.log(50 / lengths.size) / np.log(rate)))  # 50 runs or so are longer
    observed = np.bincount(np.minimum(lengths, longest + 1), minlength=longest + 2)[1:]
    expected = np.append((1 - rate) * rate ** np.arange(longest), rate**longest) * lengths.size
    assert_chi_square(observed, expected)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(4, 32, 56, 56), (4, 56, 56, 32), (64, 3, 32, 32)])
def test_neighbors_in_space_in_channels_and_in_samples_are_independent(shape, p):
    mask = mask_of(KEYS[4], 6, round(p * 2**32), int(np.prod(shape))).reshape(shape)
    for axes in ((0,), (1,), (2,), (3,), (2, 3), (1, 2), (1, 2, 3)):  # along one axis, or on a diagonal of several
        pairs = [
            mask[tuple(slice(k, n // 2 * 2, 2) if a in axes else slice(None) for a, n in enumerate(shape))]
            for k in (0, 1)
        ]
        assert_pairs_are_independent(pairs[0].ravel(), pairs[1].ravel(), p)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_layers_beside_each_other_draw_independent_masks(p):
    root = np.random.SeedSequence(5)
    normdrop.seed(3)
    layers = [normdrop.Dropout(p) for _ in range(3)]
    layers += [normdrop.Dropout(p, rng=n) for n in range(3)]
    layers += [normdrop.Dropout(p, rng=root) for _ in range(3)]
    normdrop.seed(None)
    masks = [layer(np.ones(1 << 16, np.float32)) != 0 for layer in layers]
    for k, first in enumerate(masks):
        for second in masks[:k]:
            assert_pairs_are_independent(first, second, round(p * 2**32) / 2**32)
