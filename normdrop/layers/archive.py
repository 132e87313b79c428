"""Reading saved state from files that may come from anywhere: no pickle, and no more memory than a state can need."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_SLACK = 1 << 20  # bytes; a state of another layer is so refused for its entries, not for its size
_MOST_ENTRIES = 64


def limit(state: dict[str, Array]) -> int:
    """Return the bytes that a file, or all that is packed in it, may have for a layer with this state."""
    return _SLACK + 16 * sum(values.nbytes for values in state.values())


def read(file: IO[bytes], most: int) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` file; a `ValueError` if it is none, or has more than `most` bytes."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise ValueError(f"it has {size} bytes, more than the {most} that the state of such a layer may have")
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile) or archive.zip is None:
        raise ValueError("it holds a single array")
    with archive:
        members = archive.zip.infolist()
        _check_members(members, most)
        for member in members:
            if member.filename.endswith(".npy"):
                with archive.zip.open(member) as content:
                    _check_claim(member, content)
        return {name: archive[name] for name in archive.files}


def _check_members(members: list[zipfile.ZipInfo], most: int) -> None:
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(names) > _MOST_ENTRIES:
        raise ValueError(f"it has {len(names)} entries, more than {_MOST_ENTRIES}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"it has more than one entry {twice[0]!r}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > most:
        raise ValueError(f"unpacked it has {unpacked} bytes, more than the {most} that such a state may have")


def _check_claim(member: zipfile.ZipInfo, content: IO[bytes]) -> None:
    """Refuse a header that claims more than what follows it, before memory is taken for that."""
    try:
        version = np.lib.format.read_magic(content)
    except ValueError:
        return  # no array: its bytes are the entry, which no layer takes
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(content)
    claimed, left = math.prod(shape) * dtype.itemsize, member.file_size - content.tell()
    if not dtype.hasobject and claimed != left:
        raise ValueError(f"{member.filename!r} claims {claimed} bytes of shape {shape} and has {left}")
