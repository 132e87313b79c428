"""Forks: what waits before one, and whether one has happened; a leaf that every import of normdrop brings in."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

_forked = False
_loading = threading.RLock()
_locks: list[Any] = [_loading]
_held: list[Any] = []
_registered = False


def load(name: str) -> Any:
    """Import a module while every fork waits, and return it.

    A child lacks the thread that was in the midst of an import, and would wait for ever for that module.
    """
    import logging  # noqa: F401  # so that its hook at a fork is there before ours

    _register()
    with _loading:
        return import_module(name)


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
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forked() -> bool:
    """Whether this is a forked child, where a parent's native threads are missing but their library does not know."""
    return _forked


def native_threads() -> int | None:
    """Return the number of threads of this process, or None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None
