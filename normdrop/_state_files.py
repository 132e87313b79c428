"""Files of saved state: written whole or not at all, and read strictly, because a file may come from anywhere.

An ``.npz`` file is a zip archive of arrays, a ``.safetensors`` file a header and the bytes of its arrays. Nothing in
them is run, and no more is unpacked than the state of the layer can need.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
State: TypeAlias = dict[str, Array]
Path: TypeAlias = str | os.PathLike[str]

_SLACK = 1 << 20  # bytes; a state of another layer is so refused for its entries, not for its size
_WIDER = 4  # times the bytes of the layer's own state: one of float32 may come from a file of a wider dtype
_MOST_ENTRIES = 64
_MOST_HEADER = 1 << 16  # bytes of a .safetensors header: 64 entries of 1 KiB
_MOST_LETTERS = 100  # of an entry's name, which an error may repeat
_MOST_WORDS = 300  # letters of another library's error
_HIDDEN = 0x1 | 0x20 | 0x40 | 0x2000  # flags of a zip entry: encrypted, a patch, encrypted strongly, header encrypted

# What np.save writes, word for word. NumPy's own reader takes any Python literal, and with it every way a parser of
# Python can fail, and dtypes of objects or of 2 GB.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"(?P<header>\{'descr': ?'(?P<dtype>[<>|][a-zA-Z][0-9]{0,9})', ?'fortran_order': ?(?P<order>True|False), ?"
    rb"'shape': ?\((?P<shape>(?:[0-9]{1,18}, ?){0,8}(?:[0-9]{1,18})?)\),? ?\} *\n)",
    re.DOTALL,
)
_SAFETENSORS = {"BOOL": "|b1", "I8": "|i1", "U8": "|u1"} | {
    f"{letter}{8 * size}": f"<{letter.lower()}{size}" for letter in "IUF" for size in (2, 4, 8)
}


# ---- writing


def write(path: Path, state: State) -> None:
    """Write a state; whatever fails or interrupts it, the file that was there is whole, and nothing lies beside it."""
    target = os.fsdecode(path)
    content = (_as_safetensors if _is_safetensors(target) else _as_npz)(state)
    try:
        before = _status(target)
        if before is None or stat.S_ISREG(before.st_mode):
            _replace(os.path.realpath(target) if os.path.islink(target) else target, content, before)
        else:  # a device or a pipe, which cannot be replaced
            with open(target, "wb") as file:
                file.write(content)
    except OSError as error:  # it may name the file beside it, or none
        raise OSError(error.errno, error.strerror, target) from error


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _replace(target: str, content: memoryview, before: os.stat_result | None) -> None:
    folder = os.path.dirname(target)
    beside = os.path.join(folder, f".normdrop-{os.urandom(8).hex()}.tmp")
    if before is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    try:
        with open(beside, "xb") as file:
            if before is not None:
                with suppress(OSError, AttributeError):  # only root can, and not on Windows
                    os.chown(beside, before.st_uid, before.st_gid)
                os.chmod(beside, stat.S_IMODE(before.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    with suppress(OSError):  # not every system opens a folder; the file is whole without it
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _as_npz(state: State) -> memoryview:
    file = io.BytesIO()
    np.savez(file, **state)  # type: ignore[arg-type]  # the stub takes a name for a flag
    return file.getbuffer()


def _as_safetensors(state: State) -> memoryview:
    for name, values in state.items():
        if values.dtype.newbyteorder("<").str not in _SAFETENSORS.values():
            raise TypeError(
                f"state[{name!r}] has dtype {values.dtype}, which a .safetensors file cannot hold; save to an .npz file"
            )
    return memoryview(
        _library("safetensors.numpy").save({name: np.asarray(values, order="C") for name, values in state.items()})
    )


# ---- reading


def load(path: Path, like: State, take: Callable[[State], None]) -> None:
    """Let `take` have the state in a file; a `ValueError` if it is no such file, or one that `take` refuses."""
    state = read(path, like)
    try:
        take(state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"path must hold the state of such a layer; cannot load {os.fsdecode(path)}: {error}"
        ) from error


def read(path: Path, like: State) -> State:
    """Return the arrays of a file, if they can be those of a state with arrays like these; else a `ValueError`."""
    most = _SLACK + _WIDER * sum(values.nbytes for values in like.values())
    name = os.fsdecode(path)
    with open(path, "rb") as file:
        content = file.read(most + 1)
    try:
        if len(content) > most:
            raise ValueError(f"it has more than the {most} bytes that the state of such a layer may have")
        return _from_safetensors(content) if _is_safetensors(name) else _from_npz(content, most)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of damaged bytes, zipfile raises a dozen kinds, others in every version
        kind = "a .safetensors" if _is_safetensors(name) else "an .npz"
        reason = (str(error) or type(error).__name__)[:_MOST_WORDS]
        raise ValueError(f"path must be {kind} file written by save(); cannot read {name}: {reason}") from error


def _check_names(names: list[str]) -> None:
    if len(names) > _MOST_ENTRIES:
        raise ValueError(f"it has {len(names)} entries, more than {_MOST_ENTRIES}")
    if len(set(names)) < len(names):
        raise ValueError(f"it has more than one entry {max(names, key=names.count)!r}")
    for name in names:
        if len(name) > _MOST_LETTERS:
            raise ValueError(f"it has an entry with a name of {len(name)} letters, more than {_MOST_LETTERS}")
        if re.search(r"[/\\:\0]", name):
            raise ValueError(f"its entry {name!r} is a path; entries are names")


def _from_npz(content: bytes, most: int) -> State:
    import zipfile

    if content.startswith(b"\x93NUMPY"):
        raise ValueError("it holds a single array")
    listed = content.count(b"PK\x01\x02")  # zipfile makes an object of each, before it can be asked how many there are
    if listed > _MOST_ENTRIES:
        raise ValueError(f"it has {listed} entries, more than {_MOST_ENTRIES}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        _check_names([entry.orig_filename.removesuffix(".npy") for entry in entries])
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > most:
            raise ValueError(f"unpacked it has {unpacked} bytes, more than the {most} that such a state may have")
        for entry in entries:
            _check_entry(entry)
        return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}


def _check_entry(entry: Any) -> None:
    """Refuse what zipfile would need other code for, or a password: nothing of the entry has been read so far."""
    import zipfile

    name, method = entry.filename, entry.compress_type
    if not name.endswith(".npy"):
        raise ValueError(f"its entry {name!r} is no array")
    if entry.flag_bits & _HIDDEN:
        raise ValueError(f"its entry {name!r} is encrypted or a patch")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its entry {name!r} is packed by method {method}; only stored and deflated ones are read")


def _array(archive: Any, entry: Any) -> Array:
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
    name = entry.filename
    found = _NPY.match(content)
    if found is None or int.from_bytes(found["length"], "little") != len(found["header"]):
        raise ValueError(f"its entry {name!r} has not the header that np.save gives an array of numbers")
    words = found["dtype"].decode()
    if words[1] not in "fiub":
        raise ValueError(f"its entry {name!r} has dtype {words!r}; a state holds numbers, and objects are not read")
    shape = tuple(int(length) for length in re.findall(rb"[0-9]+", found["shape"]))
    return _numbers(name, content[found.end() :], words, shape, "F" if found["order"] == b"True" else "C")


def _numbers(name: str, content: bytes, words: str, shape: tuple[int, ...], order: Any = "C") -> Array:
    """Return the array of these bytes, if they are as many as it has."""
    dtype = np.dtype(words)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != len(content):
        raise ValueError(f"its entry {name!r} claims {claimed} bytes of shape {shape} and has {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _from_safetensors(content: bytes) -> State:
    import json

    library = _library("safetensors")
    length = int.from_bytes(content[:8], "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header has {length} bytes, more than {_MOST_HEADER}")
    found = library.deserialize(content)
    # Of entries with one name, the library gives only the last.
    header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=lambda pairs: pairs)
    _check_names([name for name, _ in header if name != "__metadata__"])
    state = {}
    for name, entry in found:
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"its entry {name!r} has dtype {entry['dtype']}, of which NumPy has no numbers")
        state[name] = _numbers(name, entry["data"], _SAFETENSORS[entry["dtype"]], tuple(entry["shape"]))
    return state


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs another package; pip install 'normdrop[safetensors]', or name an .npz file"
        ) from error
