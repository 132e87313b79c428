"""Saved state that does not fit is refused, whole: no layer or stream takes over a part (laws 2.4 and 2.5)."""

from __future__ import annotations

import gc
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream


@pytest.fixture
def things(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    s = SimpleNamespace(stream=MaskStream.from_key((1, 2), 3), path=tmp_path / "state.npz")
    s.dropout = normdrop.Dropout(0.5, rng=MaskStream.from_key((4, 5), 6))
    s.batch_norm, s.bare = normdrop.BatchNorm(3), normdrop.BatchNorm(3, affine=False, track_running_stats=False)
    for layer in (s.dropout, s.batch_norm, s.bare):
        layer(x)
    return s


def good(layer):
    """A state that the layer takes and that differs from its own in every entry."""
    if isinstance(layer, normdrop.BatchNorm):
        state = {name: 5 + np.arange(3, dtype=np.float32) for name in layer._arrays()}
        return state | {"num_batches": np.array(7), "num_values": np.array(70)}
    return {"key": np.array([8, 9], np.uint32), "call": np.array(10)}


FLOATS = ("gamma", "beta", "running_mean", "running_var")
COUNTS = ("num_batches", "num_values")
BAD_FLOATS = [
    (np.ones(4), ValueError, "(3,)", "(4,)"),
    (np.ones((3, 1)), ValueError, "(3,)", "(3, 1)"),
    (np.float32(1), ValueError, "(3,)", "()"),
    (np.ones(3, int), TypeError, "floating", "int64"),
    (np.ones(3, bool), TypeError, "floating", "bool"),
    (np.ones(3, complex), TypeError, "floating", "complex128"),
    (np.ones(3, object), TypeError, "floating", "object"),
    (np.array(["a"] * 3), TypeError, "floating", "<U1"),
    (None, TypeError, "floating", "object"),
    ([[1.0], [2.0, 3.0], 4.0], TypeError, "must be an array", "list"),
]
BAD_COUNTS = [
    (np.array([1]), ValueError, "()", "(1,)"),
    (np.array(1.0), TypeError, "integer", "float64"),
    (np.array(True), TypeError, "integer", "bool"),
    (np.array(-1), ValueError, "at least 0", "-1"),
    ("1", TypeError, "integer", "<U1"),
]
BAD_KEYS = [
    (np.ones(3, np.uint32), ValueError, "(2,)", "(3,)"),
    (np.array(1, np.uint32), ValueError, "(2,)", "()"),
    (np.ones(2), TypeError, "integer", "float64"),
    (np.ones(2, bool), TypeError, "integer", "bool"),
    (np.array([-1, 1]), ValueError, "4294967295", "-1"),
    (np.array([1, 2**32]), ValueError, "4294967295", "4294967296"),
]
BAD_CALLS = [
    (np.array([1]), ValueError, "()", "(1,)"),
    (np.array(1.0), TypeError, "integer", "float64"),
    (np.array(-1), ValueError, "from 0", "-1"),
    (np.array(2**63, np.uint64), ValueError, "from 0", str(2**63)),
]
ENTRIES = [("batch_norm", name, *row) for name in FLOATS for row in BAD_FLOATS]
ENTRIES += [
    ("batch_norm", "running_var", np.array([1.0, -1e-9, 1.0]), ValueError, "must not be negative", "-1e-09"),
    ("batch_norm", "running_var", np.array([np.nan, -1.0, 1.0]), ValueError, "must not be negative"),
]
for layer_name in ("batch_norm", "bare"):
    ENTRIES += [(layer_name, name, *row) for name in COUNTS for row in BAD_COUNTS]
for layer_name in ("dropout", "stream"):
    ENTRIES += [(layer_name, "key", *row) for row in BAD_KEYS] + [(layer_name, "call", *row) for row in BAD_CALLS]


@pytest.mark.parametrize("row", ENTRIES, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_state_with_a_wrong_entry_is_refused_whole(things, refused, row):
    name, entry, value, error, *words = row
    state = good(getattr(things, name)) | {entry: value}
    named = "key" if entry == "key" else f"state['{entry}']"
    refused(things, lambda s: getattr(s, name).load_state_dict(state), error, named, *words)


@pytest.mark.parametrize("name", ["stream", "dropout", "batch_norm", "bare"])
def test_a_state_with_missing_or_extra_entries_is_refused(things, refused, name):
    state = good(getattr(things, name))
    for entry in state:
        less = {key: value for key, value in state.items() if key != entry}
        refused(things, lambda s, d=less: getattr(s, name).load_state_dict(d), ValueError, "missing", repr(entry))
    more = state | {"momentum": np.array(1)}
    refused(things, lambda s: getattr(s, name).load_state_dict(more), ValueError, "extra: ['momentum']", "exactly")
    refused(things, lambda s: getattr(s, name).load_state_dict({}), ValueError, "missing", *map(repr, state))
    for wrong in (None, [], "state", 1, np.ones(2)):
        words = "state must be a mapping", "state_dict()", type(wrong).__name__
        refused(things, lambda s, d=wrong: getattr(s, name).load_state_dict(d), TypeError, *words)


def test_a_state_of_another_layer_is_refused(things, refused):
    names = ("dropout", "batch_norm", "bare")
    for name in names:
        for other in set(names) - {name}:
            state = getattr(things, other).state_dict()
            refused(things, lambda s, n=name, d=state: getattr(s, n).load_state_dict(d), ValueError, "missing", "extra")
    state = normdrop.BatchNorm(4).state_dict()
    refused(things, lambda s: s.batch_norm.load_state_dict(state), ValueError, "(3,)", "(4,)")


@pytest.mark.parametrize("name", ["stream", "dropout", "batch_norm", "bare"])
def test_a_good_state_is_taken_over(things, name):
    thing = getattr(things, name)
    state = good(thing)
    thing.load_state_dict(state)
    assert {entry: value.tolist() for entry, value in thing.state_dict().items()} == {
        entry: value.tolist() for entry, value in state.items()
    }
    for value in state.values():
        value[...] = 1
    assert thing.state_dict().keys() == state.keys()
    assert all(np.any(value != 1) for value in thing.state_dict().values())


def test_a_value_beyond_float32_leaves_no_half_loaded_state(things, refused):
    state = good(things.batch_norm)
    things.wrong = state | {"gamma": np.array([1.0, 1e300, 1.0])}
    refused(things, lambda s: s.batch_norm.load_state_dict(s.wrong), ValueError, "gamma", "float32")
    things.batch_norm.load_state_dict(state | {"running_var": np.array([1.0, 1e300, 1.0])})
    assert np.array_equal(things.batch_norm.running_var, [1, 1e300, 1])
    assert things.batch_norm.num_batches == 7


@pytest.mark.parametrize("value", [-1, 2**63, 2**64, 1.0, True, None, "1"])
def test_a_call_that_is_no_number_of_a_call_is_refused(things, refused, value):
    error = ValueError if type(value) is int else TypeError
    refused(things, lambda s: setattr(s.stream, "call", value), error, "call must be", str(value))
    refused(things, lambda s: MaskStream.from_key((1, 2), value), error, "call must be", str(value))


@pytest.mark.parametrize("key", [(1,), (1, 2, 3), [1, 2], None, 5, (1.0, 2), (True, 2), (-1, 2), (1, 2**32), "12"])
def test_a_key_that_is_not_two_32_bit_words_is_refused(things, refused, key):
    error = ValueError if key in ((-1, 2), (1, 2**32)) else TypeError
    refused(things, lambda s: MaskStream.from_key(key), error, "key must be")


def saved(layer):
    file = io.BytesIO()
    np.savez(file, **good(layer))
    return file.getvalue()


def archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def npy(value, *, pickled=False):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=pickled)
    return file.getvalue()


NOT_ZIPPED = {
    "empty": b"",
    "text": b"gamma = 1\n",
    "zeros": bytes(1000),
    "one array": npy(np.ones(3)),
    "one pickled array": npy(np.array([{}]), pickled=True),
    "start of a zip": b"PK\x03\x04",
    "pickled member": archive({"key.npy": npy(np.array([{}, {}]), pickled=True), "call.npy": npy(np.array(1))}),
    "member of half an array": archive({"key.npy": npy(np.arange(2))[:-3], "call.npy": npy(np.array(1))}),
}


@pytest.mark.parametrize("content", list(NOT_ZIPPED))
@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_a_file_that_save_did_not_write_is_refused(things, refused, content, name):
    things.path.write_bytes(NOT_ZIPPED[content])
    refused(things, lambda s: getattr(s, name).load(s.path), ValueError, "path must be", "save()", "state.npz")


ARCHIVES = [
    ({}, ValueError, "missing: ['key', 'call']"),
    ({"a.txt": b"a"}, ValueError, "'a.txt' is no array"),
    ({"key": b"12", "call": b"1"}, ValueError, "'key' is no array"),
    ({"key.npy": b"text", "call.npy": b"text"}, ValueError, "'key.npy' has not the header"),
    ({"key.npy": npy(np.ones(2)), "call.npy": npy(np.array(1))}, ValueError, "state['key']", "integer", "float64"),
    ({"key.npy": npy(np.ones(2, int)), "call.npy": npy(np.array([1]))}, ValueError, "state['call']", "(1,)"),
]


@pytest.mark.parametrize("row", ARCHIVES)
def test_an_archive_of_other_things_is_refused(things, refused, row):
    members, *error_and_words = row
    things.path.write_bytes(archive(members))
    refused(things, lambda s: s.dropout.load(s.path), *error_and_words, "path must", "state.npz")


def test_a_file_that_is_not_there_is_an_os_error(things, refused, tmp_path):
    refused(things, lambda s: s.dropout.load(tmp_path / "none.npz"), FileNotFoundError, "none.npz")
    refused(things, lambda s: s.dropout.load(tmp_path), IsADirectoryError)
    refused(things, lambda s: s.dropout.save(tmp_path / "no" / "folder.npz"), FileNotFoundError)


@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_a_file_cut_anywhere_is_refused(things, refused, name):
    content = saved(getattr(things, name))
    for length in {*range(0, len(content), 29), len(content) - 1}:
        things.path.write_bytes(content[:length])
        refused(things, lambda s: getattr(s, name).load(s.path), ValueError, "path must be", "save()")
    gc.collect()  # a file left open would warn here


@pytest.mark.parametrize(
    ("name", "flip", "step"), [("dropout", 0xFF, 1), ("dropout", 0x01, 1), ("batch_norm", 0xFF, 7)]
)
def test_a_file_with_a_wrong_byte_anywhere_is_loaded_whole_or_refused_whole(things, name, flip, step):
    layer = getattr(things, name)
    before = layer.state_dict()
    content = saved(layer)
    for place in range(0, len(content), step):
        damaged = bytearray(content)
        damaged[place] ^= flip
        things.path.write_bytes(damaged)
        try:
            layer.load(things.path)
        except ValueError:
            expected = before
        else:
            expected = good(layer)
        assert all(np.array_equal(value, expected[entry]) for entry, value in layer.state_dict().items()), place
        layer.load_state_dict(before)
    gc.collect()


def test_a_saved_file_holds_no_pickle_and_exactly_the_path_named(things, tmp_path):
    path = tmp_path / "layer.state"
    things.batch_norm.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["layer.state"]
    with np.load(path, allow_pickle=False) as loaded:
        assert set(loaded.files) == {*FLOATS, *COUNTS}
    things.batch_norm.load(str(path))
