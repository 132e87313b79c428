"""Files made to harm whoever loads them are refused before they take memory, and nothing in them is run."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop

pytestmark = pytest.mark.same


@pytest.fixture
def things(tmp_path):
    return SimpleNamespace(dropout=normdrop.Dropout(), batch_norm=normdrop.BatchNorm(3), path=tmp_path / "state.npz")


def archive(members):
    return packed(members.items(), zipfile.ZIP_STORED)


def npy(value, *, pickled=False):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=pickled)
    return file.getvalue()


def claiming(shape, content=b""):
    """An array whose header claims a shape, and these bytes after it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def packed(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return file.getvalue()


CALL = ("call.npy", npy(np.array(1)))
HOSTILE = {
    "a claim of 8 TB": (lambda: archive({"key.npy": claiming((10**12,)), "call.npy": npy(np.array(1))}), "claims"),
    "a claim beyond 64 bits": (lambda: archive({"key.npy": claiming((2**40, 2**40))}), "claims"),
    "a negative claim": (lambda: archive({"key.npy": claiming((-1, 8), bytes(64))}), "header"),
    "64 MB of zeros": (lambda: packed([("key.npy", npy(np.zeros(1 << 23))), CALL]), "unpacked it has 67"),
    "a bomb in what no layer has": (lambda: packed([CALL, ("more", bytes(1 << 26))]), "unpacked it has 67"),
    "many entries": (lambda: packed([(f"{i}.npy", npy(np.array(i))) for i in range(1000)]), "1000 entries"),
    "more bytes than a state": (lambda: archive({"key.npy": npy(np.zeros(1 << 18))}), "more than the"),
    "bytes before the archive": (lambda: bytes(1 << 21) + archive({"key.npy": npy(np.zeros(2))}), "more than the"),
    "objects": (lambda: archive({"key.npy": npy(np.array([{}, 1]), pickled=True)}), "objects are not read"),
    "a long header": (lambda: archive({"key.npy": claiming((1,) * 5000)}), "header"),
}


@pytest.mark.parametrize("content", list(HOSTILE))
@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_a_hostile_file_is_refused_before_it_takes_memory(things, refused, name, content):
    make, *words = HOSTILE[content]
    things.path.write_bytes(make())
    tracemalloc.start()
    try:
        refused(things, lambda s: getattr(s, name).load(s.path), ValueError, "path must be", "state.npz", *words)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["key.npy", "key"])
def test_an_archive_with_two_entries_of_one_name_is_refused(things, refused, second):
    things.path.write_bytes(packed([("key.npy", npy(np.arange(2))), (second, npy(np.arange(2))), CALL]))
    refused(things, lambda s: s.dropout.load(s.path), ValueError, "path must be", "more than one entry 'key'")


@pytest.mark.parametrize("member", ["../key.npy", "/tmp/key.npy", "a/key.npy", "key.npy/", "C:\\key.npy"])
def test_entries_with_paths_are_refused_and_write_nothing(things, refused, tmp_path, member):
    things.path.write_bytes(packed([(member, npy(np.arange(2))), CALL]))
    before = sorted(tmp_path.parent.rglob("*"))
    refused(
        things,
        lambda s: s.dropout.load(s.path),
        ValueError,
        "path must be",
        "state.npz",
        repr(member.removesuffix(".npy")),
        "is a path",
    )
    assert sorted(tmp_path.parent.rglob("*")) == before
