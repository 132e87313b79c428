"""Exact rates of the mask law, by counting all 2**32 random numbers and drawing none."""

from __future__ import annotations

import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from normdrop import _philox, functional

pytestmark = pytest.mark.same

LAW = runpy.run_path(str(Path(__file__).parents[1] / "make_golden_masks.py"))  # plain integers, the text of the law

ALL_HALVES = np.arange(1 << 16, dtype=np.uint64)
EDGES = [1, 2, 3, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2**16 - 1, 2**32 - 2, 2**32 - 1]
SOME = [*EDGES, *np.random.default_rng(0).integers(1, 2**32, 30).tolist()]


def kept_of_all(threshold: int) -> int:
    """How many of the 2**32 pairs of halves are kept: by upper halves, and one by one where the upper half is T's."""
    t = np.uint64(threshold)
    tied = np.uint64(threshold >> 16)
    others = ALL_HALVES[tied != ALL_HALVES]
    decisions = [_philox.keeps(others, np.uint64(low), t) for low in (0, 1, threshold & 0xFFFF, 0xFFFE, 0xFFFF)]
    for decision in decisions[1:]:  # the lower half has no say
        assert np.array_equal(decision, decisions[0])
    return int(decisions[0].sum()) * 2**16 + int(_philox.keeps(tied, ALL_HALVES, t).sum())


@pytest.mark.parametrize("threshold", SOME)
def test_of_all_32_bit_numbers_exactly_t_are_dropped(threshold):
    assert 2**32 - kept_of_all(threshold) == threshold


def test_the_lower_half_has_no_say_anywhere_but_in_a_tie():
    """All pairs of halves for one T, 2**24 at a time in the upper half's middle: nothing was left out above."""
    threshold = 0x8000_1234
    high = np.arange(0x7F80, 0x8080, dtype=np.uint64)[:, None]
    kept = _philox.keeps(high, ALL_HALVES[None, :], np.uint64(threshold))
    u = high << np.uint64(16) | ALL_HALVES
    assert np.array_equal(kept, u >= threshold)


@pytest.mark.parametrize("p", [2.0**-32, 2.0**-20, 0.1, 0.25 + 2.0**-20, 1 / 3, 0.5, 0.9, 1 - 2.0**-20, 1 - 2.0**-32])
def test_the_rate_of_a_p_is_p_to_the_nearest_two_to_the_minus_32(p):
    context = functional.dropout(np.ones(1), p, rng=1)[1]
    dropped = Fraction(2**32 - kept_of_all(context.threshold), 2**32)
    assert abs(dropped - Fraction(p)) <= Fraction(1, 2**33)
    # Inverted scaling makes up for exactly this rate: the expectation is x, but for the rounding of the scale.
    assert abs(Fraction(context.scale) * (1 - dropped) - 1) <= Fraction(1, 2**52)


@pytest.mark.parametrize(("small", "large"), list(zip(sorted(SOME), sorted(SOME)[1:], strict=False)))
def test_what_a_smaller_p_drops_a_larger_one_drops_too(small, large):
    """On all upper halves, with each of the lower halves at which either decision changes."""
    lows = np.array(
        sorted({low & 0xFFFF for t in (small, large) for low in (t - 1, t, t + 1)} | {0, 0xFFFF}), np.uint64
    )
    pairs = ALL_HALVES[:, None], lows[None, :]
    kept = [_philox.keeps(*pairs, np.uint64(t)) for t in (small, large)]
    assert not np.any(kept[1] & ~kept[0])


def test_the_text_of_the_law_makes_the_same_decisions(backend):
    """The T at which each element changes sides is its own 32-bit number, in every backend."""
    mask = np.empty(256, np.bool_)
    numbers = []
    for i in range(0, 256, 5):
        u_hi, u_lo = LAW["half_words"](i, (3, 4), 5)
        numbers.append((i, u_hi << 16 | u_lo))
    for i, u in numbers:
        for threshold in (u, u + 1):
            if 0 < threshold < 2**32:
                backend.keep_mask(mask, (3, 4), 5, threshold)
                assert [mask[j] for j, _ in numbers] == [v >= threshold for _, v in numbers], i


@pytest.mark.jit
def test_every_kernel_drops_what_is_below_t_and_nothing_else(backend):
    """Thresholds that are an element's own number, or differ from it in one half: comparisons have ties there."""
    n, key, call = 1 << 13, (3, 4), 23  # a call in which some numbers have an upper half of zeros, others of ones
    u = np.array([hi << 16 | lo for hi, lo in (LAW["half_words"](i, key, call) for i in range(n))], np.uint64)
    extremes = [u[u >> np.uint64(16) == half] for half in (0, 0xFFFF)]
    assert all(numbers.size for numbers in extremes)
    ties = [
        int(v) + step for v in np.concatenate([u[:: n // 24], *extremes]) for step in (0, 1, -1, 1 << 16, -(1 << 16))
    ]
    mask, x, y = np.empty(n, np.bool_), np.ones(n, np.float32), np.empty(n, np.float32)
    crossed = np.empty((1, 128, n // 128), np.float32)
    for threshold in [t for t in [*ties, *SOME] if 0 < t < 2**32]:
        expected = u >= threshold
        backend.keep_mask(mask, key, call, threshold)
        assert np.array_equal(mask, expected), threshold
        backend.dropout(y, x, key, call, threshold, 1.0)
        assert np.array_equal(y != 0, expected), threshold
        backend.dropout_transposed(crossed, np.ones_like(crossed), key, call, threshold, 1.0)
        assert np.array_equal(crossed[0].T.ravel() != 0, expected), threshold


@pytest.mark.jit
def test_the_streams_for_a_battery_are_first_groups_and_whole_masks_by_the_law():
    """What `random_words.py` pipes into a battery of tests of randomness is what layers draw."""
    streams = runpy.run_path(str(Path(__file__).parents[1] / "random_words.py"))
    half, size = 1 << 31, 64
    drawn = {name: stream(size) for name, stream in streams["STREAMS"].items()}
    found = {name: np.concatenate([next(words) for _ in range(3)]) for name, words in drawn.items()}
    bits = {name: np.unpackbits(words.view(np.uint8), bitorder="little") for name, words in found.items()}
    for name, key, call in [("calls", streams["KEY"], 41), ("keys", (41, 0), 0)]:
        row = bits[name].reshape(-1, 128)[41]
        assert row.tolist() == [LAW["is_kept"](i, key, call, half) for i in range(128)]
    whole = bits["mask"].reshape(3, 32 * size)[2]
    assert whole.tolist() == [LAW["is_kept"](i, streams["KEY"], 2, half) for i in range(32 * size)]
    words = found["elements"].reshape(-1, 4)[40]
    assert words.tolist() == list(LAW["philox"]((40, 0, 7, 0), streams["KEY"]))
