"""The mask is a function of key, call, index and p, the same one forever (law 2.3)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop import MaskStream, _reference, functional

pytestmark = [pytest.mark.kinds, pytest.mark.simulated]

HERE = Path(__file__).parents[1]
LAW = runpy.run_path(str(HERE / "make_golden_masks.py"))  # plain integers, the text of the law
GOLDEN = json.loads((HERE / "data" / "golden_masks.json").read_text(encoding="utf-8"))

probabilities = st.floats(0, 1) | st.sampled_from([2.0**-32, 1 - 2.0**-32, 0.5, 2.0**-33, 3 * 2.0**-33])


def bits(row):
    kept = int(row["kept"], 16)
    return np.array([kept >> j & 1 for j in range(row["n"])], np.bool_)


def drawn(backend, row):
    mask = np.empty(row["n"], np.bool_)
    backend.keep_mask(mask, tuple(row["key"]), row["call"], row["T"], row["first"])
    return mask


def by_dropout(row, dtype=np.float32):
    stream = MaskStream.from_key(tuple(row["key"]), row["call"])
    y, context, mask = functional.dropout(np.ones(row["n"], dtype), row["p"], rng=stream, return_mask=True)
    assert context.threshold == row["T"]
    assert np.array_equal(y != 0, mask)
    return mask


def test_the_golden_vectors_follow_from_the_law_in_plain_integers():
    assert [row | {"key": tuple(row["key"])} for row in GOLDEN] == LAW["rows"]()


def test_the_golden_vectors_reach_every_part_of_the_law():
    assert {0, 1, 2**32 - 1, 2**32} <= {row["T"] for row in GOLDEN}
    assert {1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000} <= {row["n"] for row in GOLDEN}
    assert {0, 1, 2**32, 2**63 - 2} <= {row["call"] for row in GOLDEN}
    assert any(row["first"] < 2**35 < row["first"] + row["n"] for row in GOLDEN)
    ties = set()
    for row in GOLDEN[-64:]:
        for j in range(row["n"]):
            u_hi, u_lo = LAW["half_words"](row["first"] + j, tuple(row["key"]), row["call"])
            if u_hi == row["T"] >> 16:
                ties.add((j // 16 % 8, u_lo >= row["T"] & 0xFFFF))
    assert ties == {(half, kept) for half in range(8) for kept in (False, True)}


def test_every_backend_draws_the_golden_masks(backend):
    for row in GOLDEN:
        if 0 < row["T"] < 2**32:
            assert np.array_equal(drawn(backend, row), bits(row)), row


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_drops_by_the_golden_masks(backend, dtype):
    rows = [row for row in GOLDEN if row["first"] == 0]
    for row in rows[:: 1 if dtype is np.float32 else 5]:
        assert np.array_equal(by_dropout(row, dtype), bits(row)), row


@given(
    key=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    call=st.integers(0, 2**63 - 2),
    threshold=st.integers(1, 2**32 - 1),
    first=st.integers(0, 300) | st.integers(0, 2**62),
    n=st.integers(0, 300),
)
def test_any_window_of_any_mask_is_that_of_the_plain_law(backend, key, call, threshold, first, n):
    mask = np.zeros(n, np.bool_)
    backend.keep_mask(mask, key, call, threshold, first)
    places = sorted({*range(0, n, 29), *range(min(n, 3)), *range(max(0, n - 3), n)})
    assert mask[places].tolist() == [LAW["is_kept"](first + j, key, call, threshold) for j in places]


@given(key=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), i=st.integers(0, 400))
def test_the_largest_threshold_that_keeps_an_element_is_its_32_bits(backend, key, i):
    u_hi, u_lo = LAW["half_words"](i, key, 9)
    u = u_hi << 16 | u_lo
    mask = np.empty(i + 1, np.bool_)
    for threshold, kept in ((u, True), (u + 1, False)):
        if 0 < threshold < 2**32:
            backend.keep_mask(mask, key, 9, threshold)
            assert mask[i] == kept


@pytest.mark.parametrize("end", ["T_hi = 0xFFFF", "T_hi = 0"])
def test_ties_at_both_ends_of_the_thresholds_are_decided_by_the_second_word(backend, end):
    """Where T_hi is 0xFFFF no u_hi is above it, and where it is 0 none is below."""
    key, call, n = (5, 6), 1, 1 << 18

    def reference(threshold):
        mask = np.empty(n, np.bool_)
        _reference.keep_mask(mask, key, call, threshold)
        return mask

    top = end == "T_hi = 0xFFFF"
    tied = np.flatnonzero(reference(0xFFFF0000) if top else ~reference(0x10000))
    decisions = set()
    for low in (1, 0x8000, 0xFFFF):
        expected = reference(0xFFFF0000 + low if top else low)
        decisions |= set(expected[tied].tolist())
        for i in tied.tolist():
            found = np.empty(150, np.bool_)
            backend.keep_mask(found, key, call, 0xFFFF0000 + low if top else low, i - 70)
            assert np.array_equal(found, expected[i - 70 : i + 80])
    assert decisions == {True, False}


def test_keep_mask_writes_its_own_elements_only(backend):
    for first in (0, 1, 100, 128):
        for n in (0, 1, 16, 127, 128, 129, 300):
            buffer = np.full(n + 64, 7, np.uint8)
            backend.keep_mask(buffer[32 : 32 + n].view(np.bool_), (1, 2), 3, 2**31, first)
            assert np.all(buffer[:32] == 7)
            assert np.all(buffer[32 + n :] == 7)
            assert np.all(buffer[32 : 32 + n] <= 1)


@pytest.mark.parametrize("p", [0.0, 2.0**-34, 2.0**-33])
def test_a_p_that_rounds_to_0_drops_nothing(backend, p):
    _, context, mask = functional.dropout(np.ones(100), p, rng=1, return_mask=True)
    assert context.threshold == 0
    assert mask.all()


@pytest.mark.parametrize("p", [1.0, 1 - 2.0**-34])
def test_a_p_that_rounds_to_1_drops_everything(backend, p):
    y, context, mask = functional.dropout(np.ones(100), p, rng=1, return_mask=True)
    assert context.threshold == 2**32
    assert not mask.any()
    assert not y.any()


@given(p=probabilities)
def test_the_threshold_is_p_times_two_to_the_32_rounded(p):
    context = functional.dropout(np.ones(1), p, rng=1)[1]
    assert context.threshold == LAW["threshold_of"](p)


@given(p1=probabilities, p2=probabilities, call=st.integers(0, 2**40))
def test_what_is_kept_at_a_larger_p_is_kept_at_a_smaller_one(backend, p1, p2, call):
    low, high = (
        functional.dropout(np.ones(300), p, rng=MaskStream.from_key((5, 6), call), return_mask=True)[2]
        for p in sorted((p1, p2))
    )
    assert not np.any(high & ~low)


def test_the_mask_does_not_depend_on_the_dtype(backend):
    for p in (0.1, 0.5, 0.99):
        masks = [functional.dropout(np.ones(1000, d), p, rng=3, return_mask=True) for d in (np.float32, np.float64)]
        assert np.array_equal(masks[0][2], masks[1][2])
        assert np.array_equal(masks[0][0] != 0, masks[1][0] != 0)


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "sliced": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=2)[::2, :, ::3],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    "reversed Fortran": lambda x: np.asfortranarray(x[:, ::-1])[:, ::-1],
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "one value": lambda x: np.broadcast_to(x.dtype.type(1), x.shape),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shared_axes", [(), (1,), (0, 2)])
def test_the_mask_does_not_depend_on_the_memory_layout(backend, layout, shared_axes):
    shape = (7, 9, 13)
    x = LAYOUTS[layout](np.ones(shape, np.float32))
    assert x.shape == shape
    y, _, mask = functional.dropout(x, 0.3, shared_axes=shared_axes, rng=11, return_mask=True)
    expected = functional.dropout(np.ones(shape), 0.3, shared_axes=shared_axes, rng=11, return_mask=True)[2]
    assert np.array_equal(mask, expected)
    assert np.array_equal(y != 0, np.broadcast_to(mask, shape))
