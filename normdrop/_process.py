"""Whether this process was forked since normdrop was imported; a leaf that every import of normdrop brings in."""

from __future__ import annotations

import os
from typing import Any

_forked = False
_locks: list[Any] = []
_held: list[Any] = []


def wait_before_fork(lock: Any) -> None:
    """Let every later fork wait for a reentrant lock, in this order.

    What another thread does under it is then finished in the child, where that thread is missing: a lock that it held
    would be held for ever. Locks that earlier imports take at a fork, as `logging` does, are taken after this one, so
    that the other thread may still need them.
    """
    if not _locks and hasattr(os, "register_at_fork"):  # hooks before a fork run in the reverse order
        os.register_at_fork(before=_before_fork, after_in_parent=_let_go, after_in_child=_let_go)
    _locks.append(lock)


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
