"""Cached kernels on disk that are checked before they are run.

Numba reads back what lies in its cache as it is: a file of which a part was lost, as after a crash of the machine or on
a full disk, is machine code with holes. Each file of a kernel begins with a digest here, of its name and of what
follows; one that does not fit is as good as none, is compiled anew and is written again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import pkgutil
from contextlib import suppress
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.misc.appdirs import AppDirs

_N_BYTES = 32  # of a digest


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + data).digest()


class _CheckedFile(IndexDataCacheFile):
    """Index and data of one kernel."""

    def save(self, key: Any, data: Any) -> None:
        """Save a compiled kernel, which serves without that, too."""
        with suppress(OSError):
            super().save(key, data)

    def _load_index(self) -> dict[Any, str]:
        try:
            return dict(super()._load_index())
        except OSError:
            raise
        except Exception:  # whatever unpickling a damaged file may end in
            return {}

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            digest, data = file.read(_N_BYTES), file.read()
        if digest != _digest(name, data):
            raise OSError(f"{name} is damaged")  # to Numba, a file that is not there
        return pickle.loads(data)

    def _save_data(self, name: str, data: Any) -> None:
        pickled = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_digest(name, pickled) + pickled)


class _Places(CompileResultCacheImpl):
    """Where Numba looks for a folder; not in the user's, if that is named from the working directory.

    Without a home it would be `./~/.cache/numba`, or `./numba`, where anybody's files may lie; and files here are run.
    """

    @property
    def _locator_classes(self) -> list[type]:
        found: list[type] = CompileResultCacheImpl._locator_classes
        if os.path.isabs(AppDirs(appname="numba", appauthor=False).user_cache_dir):
            return found
        return [locator for locator in found if locator.__name__ not in ("UserWideCacheLocator", "ZipCacheLocator")]


class _Cache(FunctionCache):
    _impl_class = _Places


def enable(dispatcher: Any) -> None:
    """Let a kernel that is not compiled yet be taken from the cache, or be put there."""
    dispatcher._cache = _Cache(dispatcher.py_func)
    dispatcher._cache._cache_file.__class__ = _CheckedFile


@functools.cache
def digests_of_sources() -> tuple[str, ...]:
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
