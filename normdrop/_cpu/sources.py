"""The sources of all kernels, of which a digest goes into the names of kernels in the cache."""

from __future__ import annotations

import functools
import hashlib
import os
import pkgutil


@functools.cache
def digests() -> tuple[str, ...]:
    """Digests of the sources of all kernels, read as Python reads modules, from a zip file, too.

    Raises
    ------
    OSError
        There are no sources: only byte code, or a frozen application.
    """
    names = sorted(module.name for module in pkgutil.iter_modules([os.path.dirname(__file__)]))
    if not names:
        raise OSError("the modules of the package cannot be listed")
    return tuple(map(_digest_of_source, ("_philox", "_formulas", *(f"_cpu/{name}" for name in names))))


def _digest_of_source(name: str) -> str:
    source = pkgutil.get_data("normdrop", f"{name}.py")
    if source is None:
        raise OSError(f"the source of {name} cannot be read")
    return hashlib.sha256(source).hexdigest()
