"""Forks and interrupts: what a fork waits for, whether there was one, and what cannot be begun again in its midst.

A leaf that every import of normdrop brings in, and so the place where a system that it cannot serve is refused.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def refuse_other_systems() -> None:
    """Raise an ImportError unless this Python is a 64-bit one on a little-endian processor."""
    if sys.byteorder != "little" or sys.maxsize < 1 << 62:
        raise ImportError(
            "normdrop needs a 64-bit Python on a little-endian processor, such as x86-64 or Arm (aarch64); this one is "
            f"{sys.maxsize.bit_length() + 1}-bit and {sys.byteorder}-endian"
        )


refuse_other_systems()

_pid = os.getpid()
_loading = threading.RLock()
_busy: set[Any] = set()
updating = threading.RLock()  # held while a layer's state changes, so that no batch of another thread is lost
_locks: list[Any] = [updating, _loading]  # in this order: a first update may load and compile
_held: list[Any] = []
_registered = False


def load(name: str) -> Any:
    """Import a module while every fork waits, and return it.

    A child lacks the thread that was in the midst of an import, and would wait for ever for that module.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        return module
    with not_within(_loading, "importing Numba or NumPy's random module"):
        import logging  # noqa: F401  # so that its hook at a fork is there before ours

        _register()
        before = set(sys.modules)
        try:
            return import_module(name)
        except BaseException:  # an interrupt, or too deep a recursion
            _undo_imports(before)
            raise


def _undo_imports(before: set[str]) -> None:
    """Forget the submodules of packages whose import has failed, so that they can be imported again.

    Python forgets the packages alone. Their next import would find the submodules, and lack them as attributes.
    """
    for name in sorted(set(sys.modules) - before):  # a package comes before its modules
        package = name.rpartition(".")[0]
        if package and package not in sys.modules:
            sys.modules.pop(name, None)


@contextmanager
def not_within(lock: Any, doing: str) -> Iterator[None]:
    """Hold a reentrant lock, and refuse to hold it twice: what is done under it cannot be begun again in its midst.

    The same thread can come here twice only by a signal handler or a finalizer, which Python runs between two lines.
    """
    with lock:
        if lock in _busy:
            raise RuntimeError(
                f"a signal handler or a finalizer called normdrop while its thread was {doing}; call normdrop.warmup() "
                "and make a layer before, or let it only note what is to be done"
            )
        _busy.add(lock)
        try:
            yield
        finally:
            _busy.discard(lock)


def wait_before_fork(lock: Any) -> None:
    """Let every later fork wait for a reentrant lock, too, after those before it.

    What another thread does under it is then finished in the child, where that thread is missing: a lock that it held
    would be held for ever.
    """
    _locks.append(lock)
    _register()


def _register() -> None:
    """Put the hooks in place, after that of `logging`: of hooks before a fork, the last to be registered runs first.

    A thread that loads or compiles may need the lock of `logging`; the forking thread must not take it and then wait.
    """
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(before=_before_fork, after_in_parent=_let_go, after_in_child=_let_go)


def _before_fork() -> None:
    for lock in _locks:
        lock.__enter__()
        _held.append(lock)


def _let_go() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)


def _after_fork() -> None:
    global _pid
    _pid = 0  # a child of a child may have the number of this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forked() -> bool:
    """Whether this is a forked child, where a parent's native threads are missing but their library does not know.

    Code in C forks without running Python's hooks.
    """
    return os.getpid() != _pid


def native_threads() -> int | None:
    """Return the number of threads of this process, or None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None
