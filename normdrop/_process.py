"""Whether this process was forked since normdrop was imported; a leaf that every import of normdrop brings in."""

from __future__ import annotations

import os

_forked = False


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
