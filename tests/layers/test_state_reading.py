"""What a file of saved state gives back: every entry to the bit, or one clear error; whoever wrote the file."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import _state_files

from ..saved_layers import SUFFIXES, batch_norm, same

pytestmark = pytest.mark.same

BIG = 2**63 - 1
CORPUS = sorted((Path(__file__).parents[1] / "data" / "state_corpus").iterdir())


def dropout(first):
    return normdrop.Dropout(rng=normdrop.MaskStream.from_key((2**32 - first, first), 2**62 + first))


@pytest.fixture
def things(tmp_path):
    return SimpleNamespace(dropout=dropout(1), batch_norm=batch_norm(1), path=tmp_path / "layer.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("make", "fresh"),
    [
        (dropout, normdrop.Dropout),
        (batch_norm, lambda: normdrop.BatchNorm(3)),
        (lambda first: batch_norm(first, dtype=np.float64), lambda: normdrop.BatchNorm(3, dtype=np.float64)),
        (lambda first: batch_norm(first, affine=False), lambda: normdrop.BatchNorm(3, affine=False)),
        (
            lambda first: batch_norm(BIG - 9, track_running_stats=False),
            lambda: normdrop.BatchNorm(3, track_running_stats=False),
        ),
    ],
    ids=["dropout", "float32", "float64", "no affine", "large counts"],
)
def test_every_entry_comes_back_from_a_file_to_the_bit(tmp_path, suffix, make, fresh):
    layer, twin = make(7), fresh()
    layer.save(tmp_path / f"layer{suffix}")
    twin.load(tmp_path / f"layer{suffix}")
    assert same(twin, layer)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(things, write):
    write(things.path, **batch_norm(7).state_dict())
    things.batch_norm.load(things.path)
    assert same(things.batch_norm, batch_norm(7))


def test_other_programs_read_what_is_saved(tmp_path):
    from safetensors.numpy import load_file

    layer = batch_norm(7)
    layer.save(tmp_path / "layer.safetensors")
    found = load_file(tmp_path / "layer.safetensors")
    state = layer.state_dict()
    assert {name: (v.dtype, v.shape, v.tobytes()) for name, v in found.items()} == {
        name: (v.dtype, v.shape, v.tobytes()) for name, v in state.items()
    }


def test_strided_and_big_endian_arrays_are_saved_by_value(tmp_path):
    strided = np.arange(12.0).reshape(3, 4).T
    state = {"columns": strided, "strided": strided[::2], "big": np.arange(3, dtype=">f4"), "one": np.array(True)}
    for suffix in SUFFIXES:
        path = tmp_path / f"state{suffix}"
        _state_files.write(path, state)
        found = _state_files.read(path, state)
        assert found.keys() == state.keys()
        for name, values in found.items():
            assert np.array_equal(values, state[name])
            assert values.shape == state[name].shape
            assert values.dtype == state[name].dtype.newbyteorder("=")
            assert values.flags.writeable


def test_what_a_safetensors_file_cannot_hold_is_refused_by_name(tmp_path):
    for values in (np.zeros(2, complex), np.array("text"), np.array([{}])):
        with pytest.raises(TypeError, match=r"state\['entry'\] has dtype .* save to an \.npz file"):
            _state_files.write(tmp_path / "s.safetensors", {"entry": values})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("method", ["save", "load"])
def test_without_the_library_the_error_says_what_to_install_and_files_stay(things, refused, monkeypatch, method):
    path = things.path.with_suffix(".safetensors")
    path.write_bytes(b"old")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(
        things,
        lambda s: getattr(s.dropout, method)(path),
        ImportError,
        "pip install 'normdrop[safetensors]'",
        "name an .npz file",
    )
    assert path.read_bytes() == b"old"
    things.dropout.save(things.path)
    things.dropout.load(things.path)


def test_importing_normdrop_imports_nothing_for_files(in_subprocess):
    code = """
    import sys
    import numpy
    before = set(sys.modules)
    import normdrop
    new = set(sys.modules) - before
    print(sorted(new & {"zipfile", "json", "safetensors", "normdrop._state_files"}))
    """
    assert in_subprocess(code).strip() == "[]"


def test_a_count_beyond_what_can_be_saved_is_refused(tmp_path, refused):
    s = SimpleNamespace(layer=batch_norm(1))
    for suffix in SUFFIXES:
        for name in ("num_batches", "num_values"):
            for value in (2**64 - 1, 2**63):
                state = s.layer.state_dict() | {name: np.array(value, np.uint64)}
                words = f"state['{name}']", f"from 0 to {BIG}", str(value)
                refused(s, lambda s, d=state: s.layer.load_state_dict(d), ValueError, *words)
                path = tmp_path / f"layer{suffix}"
                _state_files.write(path, state)
                refused(s, lambda s, p=path: s.layer.load(p), ValueError, str(path), *words)
    s.layer.load_state_dict(s.layer.state_dict() | {"num_values": np.array(BIG, np.uint64)})
    assert s.layer.num_values == BIG


def npy(value):
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def with_header(header, content=b"", version=b"\x01\x00"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + content


def packed(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def marked(content, offset, number):
    """An archive whose directory says something else of its first entry, in two bytes at an offset."""
    at = content.index(b"PK\x01\x02") + offset
    return content[:at] + struct.pack("<H", number) + content[at + 2 :]


def tensors(header, content=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + content


KEY, CALL = npy(np.arange(2, dtype=np.uint32)), npy(np.array(1))
GOOD = {"key.npy": KEY, "call.npy": CALL}
LINE = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n"
HEADERS = {
    "an unfinished literal, as of Python 2": "{'descr': '<i8', 'shape': (3L",
    "a literal that is no dict": "1\n",
    "nested too deep": "-" * 5000 + "1\n",
    "a length of 20 digits": LINE.replace("2,", "9" * 20 + ","),
    "a negative length": LINE.replace("2,", "-2,"),
    "a dtype of fields": LINE.replace("'<i8'", "[('a', '<i8')]"),
    "a dtype of one field without a name": LINE.replace("'<i8'", "[()]"),
    "a name of a dtype that warns": LINE.replace("'<i8'", "'a8'"),
    "no line's end": LINE.rstrip(),
    "more than a dict": LINE.rstrip() + " + {}\n",
    "a number that warns": LINE.replace("2,", "0x2or 1,"),
}
DAMAGED = {
    "lzma": (packed(GOOD, zipfile.ZIP_LZMA), "packed by method 14", "stored and deflated"),
    "bzip2": (packed(GOOD, zipfile.ZIP_BZIP2), "packed by method 12", "stored and deflated"),
    "an unknown method": (marked(packed(GOOD), 10, 99), "packed by method 99"),
    "encrypted": (marked(packed(GOOD), 8, 1), "'key.npy' is encrypted"),
    "encrypted strongly": (marked(packed(GOOD), 8, 0x41), "'key.npy' is encrypted"),
    "a patch": (marked(packed(GOOD), 8, 0x20), "'key.npy' is encrypted or a patch"),
    "a zip of the future": (marked(packed(GOOD), 6, 255), "version"),
    "a long name": (packed({"k" * 1000 + ".npy": KEY}), "a name of 1000 letters"),
    "a name with a zero": (packed(GOOD).replace(b"key.npy", b"key.n\0y"), "is a path"),
    "a claim of more axes than there are": (packed({"key.npy": with_header(LINE.replace("2,", "1," * 9))}), "header"),
    "a claim of too many bytes and none": (
        packed({"key.npy": with_header(LINE.replace("2,", "0, " + "9" * 18 + ", " + "9" * 18))}),
        "state.npz",
    ),
    "objects": (packed({"key.npy": with_header(LINE.replace("<i8", "|O"))}), "objects are not read"),
    "2 GB in one element": (
        packed({"key.npy": with_header(LINE.replace("<i8", "|V2147483647"))}),
        "header",
    ),
    "a float of three bytes": (packed({"key.npy": with_header(LINE.replace("<i8", "<f3"))}), "f3"),
    "another version of the header": (packed({"key.npy": with_header(LINE, bytes(16), b"\x09\x00")}), "header"),
    "a wrong length of the header": (packed({"key.npy": with_header(LINE + " " * 9, bytes(16))}), "header"),
    "an empty entry": (packed({"key.npy": b""}), "header"),
} | {
    name: (packed({"key.npy": with_header(header, bytes(16))}), "'key.npy'", "header")
    for name, header in HEADERS.items()
}
ENTRY = {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}
WORDS = {"dtype": "U32", "shape": [2], "data_offsets": [8, 16]}
TWICE = b'{"call":%b,"key":%b,"call":%b}' % tuple(json.dumps(entry).encode() for entry in (ENTRY, WORDS, ENTRY))
DAMAGED_TENSORS = {
    "empty": (b"", "deserializing"),
    "an archive": (packed(GOOD), "header"),
    "a header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", "header has 18446744073709551615 bytes"),
    "no JSON": (tensors(b"call"), "deserializing"),
    "nested too deep": (tensors(b'{"a":' * 9000), ""),
    "no dict": (tensors(b"[]"), ""),
    "two of one name": (tensors(TWICE, bytes(16)), "more than one entry 'call'"),
    "a path": (tensors({"../call": ENTRY}, bytes(8)), "'../call' is a path"),
    "bfloat16": (tensors({"call": ENTRY | {"dtype": "BF16", "shape": [4]}}, bytes(8)), "'call' has dtype BF16"),
    "a complex number": (tensors({"call": ENTRY | {"dtype": "C64"}}, bytes(8)), ""),
    "fewer bytes": (tensors({"call": ENTRY}, bytes(7)), ""),
    "more bytes": (tensors({"call": ENTRY}, bytes(9)), ""),
    "a shape of more bytes": (tensors({"call": ENTRY | {"shape": [2**40, 2**40]}}, bytes(8)), ""),
    "a shape of no bytes": (tensors({"call": {**ENTRY, "shape": [0, 2**63], "data_offsets": [0, 0]}}), ""),
    "many entries": (
        tensors({f"{i}": {**ENTRY, "data_offsets": [8 * i, 8 * i + 8]} for i in range(65)}, bytes(520)),
        "65 entries",
    ),
    "more bytes than a state": (
        tensors({"call": {**ENTRY, "shape": [1 << 18], "data_offsets": [0, 1 << 21]}}, bytes(1 << 21)),
        "more than the",
    ),
    "entries of no layer": (tensors({"other": ENTRY}, bytes(8)), "missing", "extra: ['other']"),
    "floats for integers": (
        tensors({"call": ENTRY | {"dtype": "F64"}, "key": WORDS}, bytes(16)),
        "state['call']",
        "float64",
    ),
}
FILES = [(".npz", name, *row) for name, row in DAMAGED.items()]
FILES += [(".safetensors", name, *row) for name, row in DAMAGED_TENSORS.items()]


@pytest.mark.parametrize("row", FILES, ids=lambda row: f"{row[0]}, {row[1]}")
def test_a_damaged_or_hostile_file_is_one_error_that_names_it_and_says_what_is_wrong(things, refused, row):
    suffix, _, content, *words = row
    things.path = things.path.with_name(f"state{suffix}")
    things.path.write_bytes(content)
    tracemalloc.start()
    try:
        refused(things, lambda s: s.dropout.load(s.path), ValueError, "path must", str(things.path), *words)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_nothing_is_unpacked_of_an_archive_with_an_entry_that_is_not_read(things, refused, monkeypatch, method):
    things.path.write_bytes(packed(GOOD, method))
    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: opened.append(args))
    refused(things, lambda s: s.dropout.load(s.path), ValueError, "packed by method")
    assert opened == []


def test_an_error_about_a_file_is_short_whatever_is_in_it(things):
    for suffix, content in (
        (".npz", packed({f"{i}{'k' * 60000}.npy": KEY for i in range(9)})),
        (".npz", packed({"key.npy": with_header(LINE.replace("2,", "1," * 9000))})),
        (".safetensors", tensors({"k" * 60000: ENTRY | {"data_offsets": [0, 9]}}, bytes(8))),
        (".safetensors", tensors({"call": ENTRY | {"dtype": "k" * 60000}}, bytes(8))),
        (".safetensors", tensors({"call": ENTRY | {"shape": [1] * 9000}}, bytes(8))),
    ):
        path = things.path.with_suffix(suffix)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path must") as caught:
            things.dropout.load(path)
        assert len(str(caught.value)) < 1000


def test_no_more_objects_are_made_of_an_archive_than_it_may_have_entries(things, refused):
    entry = packed({"k": b""})
    entry = entry[entry.index(b"PK\x01\x02") : entry.index(b"PK\x05\x06")]
    count = (1 << 20) // len(entry) - 9
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, count * len(entry), 0, 0)
    things.path.write_bytes(entry * count + end)
    tracemalloc.start()
    try:
        refused(things, lambda s: s.dropout.load(s.path), ValueError, f"it has {count} entries")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_a_file_cut_or_changed_anywhere_is_loaded_whole_or_refused_whole(things, suffix, name):
    layer, path = getattr(things, name), things.path.with_suffix(suffix)
    layer.save(path)
    content, before = path.read_bytes(), layer.state_dict()
    step = 1 + len(content) // 100
    for place in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        for damaged in (content[:place], bytes(flipped), content[:place] + content[place + 1 :]):
            path.write_bytes(damaged)
            try:
                layer.load(path)
            except ValueError:
                assert all(np.array_equal(values, before[key]) for key, values in layer.state_dict().items()), place
            layer.load_state_dict(before)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_a_fuzzer_found_to_be_different_loads_or_is_refused(refused, path):
    s = SimpleNamespace(dropout=dropout(1), batch_norm=batch_norm(1))
    tracemalloc.start()
    try:
        for name in ("dropout", "batch_norm"):
            try:
                getattr(s, name).load(path)
            except ValueError:
                refused(s, lambda s, n=name: getattr(s, n).load(path), ValueError, "path must", str(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of memory that holds")
def test_no_file_takes_memory_outside_of_python(in_subprocess, tmp_path):
    (tmp_path / "lzma.npz").write_bytes(
        packed(GOOD, zipfile.ZIP_LZMA).replace(b"\x5d\0\0\x80\0", b"\x5d\xff\xff\xff\xbf")
    )
    code = """
    import os, pathlib, resource, sys
    import normdrop, safetensors.numpy, zipfile

    layers = normdrop.Dropout(), normdrop.BatchNorm(3)
    for layer in layers:
        for suffix in ".npz", ".safetensors":
            layer.save("good" + suffix), layer.load("good" + suffix)
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 25), resource.RLIM_INFINITY))
    for path in [pathlib.Path("lzma.npz"), *pathlib.Path(os.environ["CORPUS"]).iterdir()]:
        for layer in layers:
            try:
                layer.load(path)
            except ValueError:
                pass
    """
    in_subprocess(code, CORPUS=str(CORPUS[0].parent))
