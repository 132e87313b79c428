"""Default keys: `normdrop.seed`, independent layers, forked processes (law 2.4)."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _seeding, _streams, functional

X = np.ones((4, 8, 5, 5), np.float32)
LAYERS = (normdrop.Dropout, normdrop.Dropout2d)


@pytest.fixture(autouse=True)
def _fresh_keys_afterwards():
    yield
    normdrop.seed(None)


def keys_after_seed(n):
    normdrop.seed(n)
    return [
        normdrop.Dropout().stream.key,
        normdrop.Dropout2d().stream.key,
        MaskStream().key,
        functional.dropout(X, 0.5)[1].key,
        normdrop.BatchNorm(3, gamma_init="uniform").gamma.tobytes(),
    ]


def test_seed_makes_all_later_keys_reproducible():
    first = keys_after_seed(7)
    assert keys_after_seed(7) == first
    assert len(set(first)) == len(first)
    assert not set(keys_after_seed(8)) & set(first)


def test_seed_gives_the_same_keys_in_another_process(in_subprocess):
    code = "import normdrop; normdrop.seed(7); print([normdrop.MaskStream().key for _ in range(3)])"
    normdrop.seed(7)
    assert in_subprocess(code).strip() == str([MaskStream().key for _ in range(3)])


def test_without_seed_keys_differ_from_process_to_process(in_subprocess):
    code = "import numpy as np; np.random.seed(1); import normdrop; print(normdrop.Dropout().stream.key)"
    assert in_subprocess(code) != in_subprocess(code)


def test_seed_none_returns_to_fresh_keys():
    normdrop.seed(7)
    first = MaskStream().key
    normdrop.seed(None)
    assert MaskStream().key != first


def test_seed_does_not_change_explicit_keys():
    normdrop.seed(1)
    first = MaskStream(5)
    normdrop.seed(2)
    assert MaskStream(5) == first


def test_seed_neither_reads_nor_changes_numpys_global_state():
    def state():
        name, words, *rest = np.random.get_state()  # noqa: NPY002
        return name, words.tobytes(), rest

    np.random.seed(3)  # noqa: NPY002
    before = state()
    keys = keys_after_seed(7)
    normdrop.seed(None)
    fresh = MaskStream().key
    normdrop.Dropout()(X)
    assert state() == before
    np.random.seed(3)  # noqa: NPY002
    assert MaskStream().key != fresh
    np.random.seed(4)  # noqa: NPY002
    assert keys_after_seed(7) == keys


def test_layers_never_share_a_key_by_chance():
    generator, sequence = np.random.default_rng(0), np.random.SeedSequence(0)
    keys = [layer(rng=rng).stream.key for layer in LAYERS for rng in [None] * 20 + [generator] * 20 + [sequence] * 20]
    assert len(set(keys)) == len(keys)


def test_layers_made_by_several_threads_never_share_a_key():
    normdrop.seed(0)
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: normdrop.Dropout().stream.key, range(400)))
    assert len(set(keys)) == 400


def test_layers_with_the_same_int_draw_the_same_masks():
    first, second = normdrop.Dropout(rng=4), normdrop.Dropout(rng=4)
    assert first.stream is not second.stream
    assert np.array_equal(first(X), second(X))


def test_layers_with_the_same_stream_take_turns():
    stream = MaskStream(4)
    first, second = normdrop.Dropout(rng=stream), normdrop.Dropout2d(rng=stream)
    assert first.stream is stream
    assert second.stream is stream
    y = first(X)
    second(X)
    assert stream.call == 2
    assert not np.array_equal(first(X), y)
    assert stream.call == 3


def test_two_layers_in_a_model_draw_different_masks():
    first, second = normdrop.Dropout(), normdrop.Dropout()
    assert not np.array_equal(first(X), second(X))


# One thread for BLAS: Python warns about forks of processes with several threads.
ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

FORK = """
    import os
    import normdrop

    def keys():
        return [normdrop.Dropout().stream.key, normdrop.MaskStream().key]

    seen = keys()
    {seed}
    readers = []
    for _ in range(2):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, repr(keys()).encode())
            os._exit(0)
        os.wait()
        readers.append(reader)
    groups = [seen, keys()] + [eval(os.read(reader, 1000)) for reader in readers]
    print(groups)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_does_not_repeat_its_parents_default_keys(in_subprocess):
    groups = eval(in_subprocess(FORK.format(seed=""), **ALONE))
    keys = [key for group in groups for key in group]
    assert len(keys) == 8
    assert len(set(keys)) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_of_a_seeded_process_is_reproducible(in_subprocess):
    code = FORK.format(seed="normdrop.seed(3)")
    groups = [eval(in_subprocess(code, **ALONE)) for _ in range(2)]
    assert groups[0][1:] == groups[1][1:]


def test_a_thread_that_holds_a_lock_can_make_and_ask_streams():
    """As a signal handler or a finalizer does that runs in the midst of a pass."""
    stream, given = MaskStream(1), []

    def run():
        with _streams._stream_lock, _seeding._default_source._lock:
            given.append((MaskStream().key, stream.take()))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert [call for _, call in given] == [0]
