"""The sources of all kernels, of which a digest goes into the names of kernels in the cache."""

from __future__ import annotations

import functools
import hashlib
import os
import pkgutil
import secrets

ARITHMETIC = (  # beside this folder
    "_activations",
    "_concrete",
    "_exponentials",
    "_formulas",
    "_normal_numbers",
    "_philox",
    "_targets",
)


@functools.cache
def digests() -> tuple[str, ...]:
    """Digests of the sources of all kernels, read as Python reads modules, from a zip file, too.

    Raises
    ------
    OSError
        There are no sources: only byte code, or a frozen application.
    """
    folder = os.path.dirname(os.path.dirname(__file__))
    rooms = {"_cpu/": folder, "numba/": os.path.join(os.path.dirname(folder), "numba")}
    rooms |= {f"_cpu/{room}/": os.path.join(folder, room) for room in ("kernels", "lanes", "toolchain")}
    names = [f"{room}{name}" for room, path in rooms.items() for name in _modules(path)]
    if len(names) < len(rooms):
        raise OSError("the modules of the package cannot be listed")
    return tuple(map(_digest_of_source, (*ARITHMETIC, *names)))


@functools.cache
def digest() -> str:
    """Digest of all that, or without sources a word that no other process has."""
    try:
        return hashlib.sha256("\n".join(digests()).encode()).hexdigest()[:16]
    except OSError:
        return secrets.token_hex(8)


def _modules(path: str) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([path]) if not module.ispkg)


def _digest_of_source(name: str) -> str:
    source = pkgutil.get_data("normdrop", f"{name}.py")
    if source is None:
        raise OSError(f"the source of {name} cannot be read")
    return hashlib.sha256(source).hexdigest()
