"""What is done around compilations, so that neither they nor the process disturb each other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from normdrop import _process
from normdrop._cpu.toolchain import numba_internals

_prepared = False
_preparing = threading.RLock()
_logger = logging.getLogger("numba")

_process.wait_before_fork(_preparing)  # before the compiler's lock, which is asked for under this one


def prepare() -> None:
    """Let Numba import and register what it compiles with, in a thread of its own.

    What is registered cannot be registered twice: an interrupt in between would be the end of Numba in this process. In
    a new thread no signal handler runs, and the stack is empty. The caller may be interrupted: whoever comes next waits
    for the compiler's lock.
    """
    global _prepared
    if _prepared or not numba_internals.may_get_ready():
        return
    with _process.not_within(_preparing, "compiling or loading a kernel"):
        thread = threading.Thread(target=_refresh)
        with suppress(RuntimeError):  # no thread to be had: Numba does it when it compiles
            thread.start()
            thread.join()
        _prepared = True


def _refresh() -> None:
    with suppress(Exception), _process.not_within(numba_internals.COMPILER_LOCK, "compiling or loading a kernel"):
        numba_internals.get_ready()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Numba compile by the settings that it has, and log no steps; under the compiler's lock.

    It reads its environment variables anew before every function, and raises if NUMBA_NUM_THREADS has changed after the
    threads were started. At the level DEBUG it writes some 10 000 records about each function; whoever wants them gives
    its logger that level, not only the root.
    """
    is_loud = _logger.level == logging.NOTSET and _logger.isEnabledFor(logging.DEBUG)
    try:
        if is_loud:
            _logger.setLevel(logging.INFO)
        with numba_internals.settings_stay():
            yield
    finally:
        if is_loud:
            _logger.setLevel(logging.NOTSET)
