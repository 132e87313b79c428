"""Streams: keys, calls, saving and restoring (laws 2.3 and 2.4), and Random123's known answers."""

from __future__ import annotations

import copy
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normdrop
from normdrop import MaskStream, _philox, _reference, functional

pytestmark = pytest.mark.simulated

X = np.ones(256, np.float32)
LAST_CALL = 2**63 - 2


def known_answers():
    text = (Path(__file__).parents[1] / "data" / "random123_kat_vectors.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            words = [int(word, 16) for word in line.split()[2:]]
            yield words[:4], words[4:6], words[6:]


KNOWN = list(known_answers())


def test_there_are_three_known_answers():
    assert len(KNOWN) == 3


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_scalar_philox_gives_the_known_answers(counter, key, answer):
    words = _philox.philox4x32(*(np.uint64(word) for word in [*counter, *key]))
    assert [int(word) for word in words] == answer


def test_reference_philox_gives_the_known_answers():
    for counter, key, answer in KNOWN:
        words = _reference.philox([np.array([word], np.uint64) for word in counter], tuple(key))
        assert [int(word[0]) for word in words] == answer


def test_vectors_give_the_known_answers():
    counters, keys, answers = (np.array(column, np.uint64).T for column in zip(*KNOWN, strict=True))
    words = _philox.philox4x32(*counters, *keys)
    assert np.array_equal(np.array(words), answers)


def test_kernels_decide_by_the_known_answers():
    """The largest T that keeps an element is its 32 bits: the upper 16 are those of the known answer."""
    import numba

    from normdrop._cpu.kernels.mask_law import draw, kept

    @numba.njit
    def bits_of(law, word):
        return kept(draw(law[0], law[1], law[2], law[3], law[4])[word], law[4])

    for counter, key, answer in KNOWN:
        pair, place = divmod(counter[0] | counter[1] << 32, 32)
        group, lane = divmod(place, 16)
        call = counter[2] | counter[3] << 32
        for half in range(8):
            u_hi = (answer[half // 2] >> (16 * (half % 2))) & 0xFFFF
            for threshold, stays in ((u_hi << 16, True), ((u_hi + 1) << 16, False), ((u_hi << 16) - 1, True)):
                law = tuple(np.uint64(word) for word in (pair, call, *key, threshold))
                bits = bits_of(law, 4 * group + half // 2)[half % 2]
                assert bool((int(bits) >> lane) & 1) is stays


def test_first_known_answer_decides_the_first_mask(backend):
    """Key (0, 0), call 0: elements 0, 16, ..., 112 are the eight halves of the answer to all zeros."""
    halves = [word >> shift & 0xFFFF for word in KNOWN[0][2] for shift in (0, 16)]
    for place, half in enumerate(halves):
        for threshold, kept in ((half << 16, True), ((half + 1) << 16, False)):
            mask = np.empty(128, np.bool_)
            backend.keep_mask(mask, (0, 0), 0, threshold)
            assert mask[16 * place] == kept


def test_a_stream_starts_at_call_0_with_a_key_of_two_32_bit_words():
    stream = MaskStream()
    assert stream.call == 0
    assert isinstance(stream.key, tuple)
    assert len(stream.key) == 2
    assert all(type(word) is int and 0 <= word < 2**32 for word in stream.key)


def test_an_int_always_gives_the_same_key():
    assert MaskStream(42) == MaskStream(42)
    assert MaskStream(42) == MaskStream(np.int64(42))
    assert MaskStream(42).key != MaskStream(43).key
    assert MaskStream(2**200).key != MaskStream(0).key


def test_the_key_of_an_int_never_changes_between_versions():
    assert MaskStream(0).key == tuple(int(w) for w in np.random.SeedSequence(0).generate_state(2, np.uint32))


def test_a_seed_sequence_gives_a_new_key_each_time_and_the_same_keys_again():
    sequence = np.random.SeedSequence(5)
    keys = [MaskStream(sequence).key for _ in range(4)]
    assert len(set(keys)) == 4
    again = np.random.SeedSequence(5)
    assert [MaskStream(again).key for _ in range(4)] == keys


def test_a_generator_gives_a_new_key_each_time_and_the_same_keys_again():
    generator = np.random.default_rng(5)
    keys = [MaskStream(generator).key for _ in range(4)]
    assert len(set(keys)) == 4
    again = np.random.default_rng(5)
    assert [MaskStream(again).key for _ in range(4)] == keys


def test_a_stream_made_from_a_stream_is_an_independent_copy():
    stream = MaskStream.from_key((1, 2), call=3)
    for twin in (MaskStream(stream), stream.copy(), copy.copy(stream), copy.deepcopy(stream)):
        assert twin == stream
        assert twin is not stream
        twin.take()
        assert stream.call == 3
        assert twin != stream


def test_streams_without_rng_all_have_different_keys():
    assert len({MaskStream().key for _ in range(200)}) == 200


def test_streams_are_equal_iff_key_and_call_are():
    stream = MaskStream.from_key((1, 2), 3)
    assert stream == MaskStream.from_key((1, 2), 3)
    for other in (((1, 2), 4), ((1, 3), 3), ((0, 2), 3), ((2, 1), 3)):
        assert stream != MaskStream.from_key(*other)
    assert stream != ((1, 2), 3)
    assert (stream == None) is False  # noqa: E711  # the operator itself


def test_streams_change_and_so_cannot_be_hashed():
    with pytest.raises(TypeError):
        hash(MaskStream(0))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_stream_goes_on_where_it_was(protocol):
    stream = MaskStream.from_key((2**32 - 1, 7), LAST_CALL)
    twin = pickle.loads(pickle.dumps(stream, protocol))
    assert twin == stream
    assert type(twin.call) is int


@given(word0=st.integers(0, 2**32 - 1), word1=st.integers(0, 2**32 - 1), call=st.integers(0, LAST_CALL + 1))
def test_state_dict_restores_every_stream(word0, word1, call):
    stream = MaskStream.from_key((word0, word1), call)
    state = stream.state_dict()
    assert {name: (v.dtype, v.shape) for name, v in state.items()} == {
        "key": (np.dtype(np.uint32), (2,)),
        "call": (np.dtype(np.int64), ()),
    }
    other = MaskStream()
    other.load_state_dict(state)
    assert other == stream
    assert type(other.call) is type(other.key[0]) is int


def test_state_dict_is_a_copy_that_does_not_follow_the_stream():
    stream = MaskStream(3)
    state = stream.state_dict()
    state["key"][:] = 0
    stream.take()
    assert int(state["call"]) == 0
    assert stream.key == MaskStream(3).key


def test_a_saved_layer_draws_the_masks_that_would_have_come_next(tmp_path):
    layer = normdrop.Dropout(0.5, rng=8)
    layer(X)
    layer.save(tmp_path / "layer.npz")
    expected = [layer(X) for _ in range(3)]
    other = normdrop.Dropout(0.5)
    other.load(tmp_path / "layer.npz")
    assert all(np.array_equal(other(X), y) for y in expected)
    with np.load(tmp_path / "layer.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["call", "key"]


def test_setting_call_goes_back_to_an_earlier_mask():
    layer = normdrop.Dropout(0.5, rng=1)
    first, second = layer(X), layer(X)
    layer.stream.call = 0
    assert np.array_equal(layer(X), first)
    assert np.array_equal(layer(X), second)


def test_take_counts_up_and_never_repeats_a_call_at_the_end():
    stream = MaskStream.from_key((0, 0), LAST_CALL - 1)
    assert [stream.take(), stream.take()] == [LAST_CALL - 1, LAST_CALL]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"exhausted.*another key"):
            stream.take()
        assert stream.call == LAST_CALL + 1


def test_only_the_latest_call_can_be_given_back():
    stream = MaskStream(0)
    first, second = stream.take(), stream.take()
    stream.give_back(first)
    assert stream.call == 2
    stream.give_back(second)
    assert stream.call == 1


def test_same_key_neighboring_calls_and_neighboring_keys_give_unrelated_masks(backend):
    masks = []
    for key, call in (((0, 0), 0), ((0, 0), 1), ((1, 0), 0), ((0, 1), 0), ((0, 0), 2**32), ((0, 0), 2**62)):
        mask = np.empty(1024, np.bool_)
        backend.keep_mask(mask, key, call, 2**31)
        masks.append(mask)
    for a, b in ((a, b) for i, a in enumerate(masks) for b in masks[:i]):
        assert 400 < np.count_nonzero(a == b) < 624


def take_slowly(stream, n):
    """Take n calls and let other threads run between any two lines of `take`."""

    def pause(frame, event, argument):
        time.sleep(1e-6)
        return pause if frame.f_code is MaskStream.take.__code__ else None

    before = sys.gettrace()
    sys.settrace(pause)
    try:
        return [stream.take() for _ in range(n)]
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("take", [take_slowly, lambda stream, n: [stream.take() for _ in range(n)]])
def test_threads_never_get_the_same_call_and_none_is_lost(take):
    stream = MaskStream(0)
    with ThreadPoolExecutor(8) as pool:
        calls = list(pool.map(lambda _: take(stream, 25), range(16)))
    assert all(a < b for mine in calls for a, b in pairwise(mine))
    assert sorted(call for mine in calls for call in mine) == list(range(400))
    assert stream.call == 400


def test_threads_that_share_a_stream_draw_every_mask_once():
    stream, x = MaskStream(0), np.ones(64, np.float32)
    with ThreadPoolExecutor(4) as pool:
        contexts = list(pool.map(lambda _: functional.dropout(x, 0.5, rng=stream)[1], range(200)))
    assert sorted(context.call for context in contexts) == list(range(200))
    assert {context.key for context in contexts} == {stream.key}


CHILD_KEYS = {  # of (key, call): the keys of the first three children
    ((0, 0), 0): [(3678467582, 975380285), (1745761672, 3562034224), (4037452230, 857849944)],
    ((1, 2), 3): [(3406265670, 457234790), (1136964831, 877520876), (526796578, 402306229)],
    ((2**32 - 1, 7), LAST_CALL): [(3938677366, 3000212234), (351790752, 958927915), (2695199023, 436448867)],
}


@pytest.mark.parametrize("parent", list(CHILD_KEYS))
def test_the_keys_of_spawned_streams_never_change_between_versions(parent):
    """Golden keys, and the formula that made them."""
    key, call = parent
    children = MaskStream.from_key(key, call).spawn(3)
    assert [child.key for child in children] == CHILD_KEYS[parent]
    assert [child.call for child in children] == [0, 0, 0]
    assert all(type(word) is int for child in children for word in child.key)
    for i, child in enumerate(children):
        sequence = np.random.SeedSequence(entropy=list(key), spawn_key=(call % 2**32, call >> 32, i))
        assert child.key == tuple(sequence.generate_state(2, np.uint32).tolist())


def test_spawned_streams_draw_masks_unlike_each_others_their_parents_and_those_of_ints():
    stream = MaskStream(0)
    twin = stream.copy()
    first, second = stream.spawn(20), stream.spawn(20)
    grandchildren = first[0].spawn(20)
    streams = [twin, *first, *second, *grandchildren, *(MaskStream(n) for n in range(1, 20))]
    assert len({each.key for each in streams}) == len(streams)
    masks = [functional.dropout(np.ones(1024, np.float32), 0.5, rng=each, return_mask=True)[2] for each in streams]
    for a, b in ((a, b) for i, a in enumerate(masks) for b in masks[:i]):
        assert 400 < np.count_nonzero(a == b) < 624


def test_spawning_takes_one_call_and_the_children_do_not_depend_on_how_many_there_are():
    stream, other = MaskStream(5), MaskStream(5)
    few, many = stream.spawn(2), other.spawn(7)
    assert stream == other == MaskStream.from_key(MaskStream(5).key, 1)
    assert few == many[:2]
    assert stream.spawn(2) != few
    assert stream.spawn(0) == []
    assert stream.call == 2


def test_a_pickled_or_restored_stream_spawns_the_same_children():
    stream = MaskStream(5)
    stream.spawn(1)
    twin, restored = pickle.loads(pickle.dumps(stream)), MaskStream()
    restored.load_state_dict(stream.state_dict())
    assert stream.spawn(3) == twin.spawn(3) == restored.spawn(3)


def test_a_stream_spawns_in_a_process_that_has_not_used_numpy_random(in_subprocess):
    code = "from normdrop import MaskStream; print([s.key for s in MaskStream.from_key((1, 2), 3).spawn(3)])"
    assert in_subprocess(code).strip() == str(CHILD_KEYS[(1, 2), 3])


@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (-1, ValueError, "at least 0.*-1"),
        (2.0, TypeError, "float 2.0"),
        (True, TypeError, "bool True"),
        (None, TypeError, "NoneType"),
        ("2", TypeError, "str '2'"),
        (np.ones(2, np.int64), TypeError, "ndarray"),
    ],
)
def test_spawning_a_bad_number_is_refused_and_changes_nothing(n, error, words):
    stream = MaskStream.from_key((1, 2), 3)
    with pytest.raises(error, match=f"n must be.*{words}"):
        stream.spawn(n)
    assert stream == MaskStream.from_key((1, 2), 3)


def test_an_int_of_numpys_spawns_as_an_int():
    assert MaskStream(1).spawn(np.int64(2)) == MaskStream(1).spawn(2)


def test_an_exhausted_stream_spawns_nothing():
    stream = MaskStream.from_key((0, 0), LAST_CALL + 1)
    assert stream.spawn(0) == []
    with pytest.raises(RuntimeError, match=r"exhausted.*another key"):
        stream.spawn(1)
    assert stream.call == LAST_CALL + 1


def test_spawning_that_fails_gives_its_call_back(monkeypatch):
    stream = MaskStream(3)
    monkeypatch.setattr(MaskStream, "from_key", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(MemoryError):
        stream.spawn(2)
    assert stream.call == 0


def test_threads_that_spawn_from_one_stream_get_children_of_their_own():
    stream = MaskStream(0)
    with ThreadPoolExecutor(8) as pool:
        children = [child for mine in pool.map(lambda _: stream.spawn(3), range(100)) for child in mine]
    assert len({child.key for child in children}) == 300
    assert stream.call == 100
