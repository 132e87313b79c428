"""Where keys come from: seeds that are given, and the default ones, reproducible after `seed`."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from normdrop import _checks, _process

if TYPE_CHECKING:  # NumPy imports its random module on first use, which takes as long as importing normdrop
    from numpy.random import SeedSequence


@cache
def import_numpy_random() -> None:
    """Import what `np.random` would import on its own, without regard to forks."""
    _process.load("numpy.random")


# The thread that holds a lock may ask for it again: a signal handler or a finalizer can run between two lines, in the
# midst of a pass, and make a pass of its own.
new_lock = threading.RLock


class _DefaultSource:
    """Seeds for everything that is created without `rng`; never NumPy's global state."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._root: SeedSequence | None = None
        self._seeded = False
        self._pid = 0

    def reset(self, n: int | None) -> None:
        if n is not None:
            import_numpy_random()  # not under the lock, which no import must wait for
        with self._lock:
            self._seeded = n is not None
            self._root = None if n is None else np.random.SeedSequence(n)

    def next(self) -> SeedSequence:
        with self._lock:
            pid = os.getpid()  # of code in C that forks, no hook tells
            if self._root is None or (pid != self._pid and not self._seeded):
                self._root, self._pid = np.random.SeedSequence(), pid
            return self._root.spawn(1)[0]

    def after_fork(self) -> None:
        self._lock = new_lock()  # another thread of the parent may have held it
        if not self._seeded:
            self.reset(None)  # a child must not repeat its parent's keys


_default_source = _DefaultSource()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default_source.after_fork)


def seed(n: int | None) -> None:
    """Make the keys of all later layers and streams without `rng` reproducible.

    NumPy's global random state is neither read nor changed.

    Parameters
    ----------
    n : int or None
        Non-negative seed. ``None`` returns to fresh, unpredictable keys.

    Examples
    --------
    >>> import normdrop
    >>> normdrop.seed(7)
    >>> first = normdrop.MaskStream()
    >>> normdrop.seed(7)
    >>> normdrop.MaskStream() == first
    True
    >>> normdrop.seed(None)
    """
    _default_source.reset(None if n is None else _checks.integer(n, "n", 0))


def sequence(rng: int | SeedSequence | None) -> SeedSequence:
    """Return the sequence that a seed stands for, or the next of the default ones."""
    if rng is None:
        return _default_source.next()
    if isinstance(rng, np.random.SeedSequence):
        return rng.spawn(1)[0]  # two layers given the same sequence get different keys
    return np.random.SeedSequence(rng)


def check(rng: object) -> None:
    """Refuse what is none of the kinds of `rng` other than a stream; nothing is drawn."""
    import_numpy_random()
    if rng is None or isinstance(rng, (np.random.SeedSequence, np.random.Generator)):
        return
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise TypeError(
            f"rng must be None, an int, a SeedSequence, a Generator or a MaskStream; got {_checks.kind(rng)}. "
            "Pass np.random.default_rng(...) or an int."
        )
    _checks.integer(rng, "rng", 0)
