"""Whether a team of threads can be started: OpenMP and TBB end the process if they get none, as under a limit.

A user or a container may have a limit on threads, and so has memory. How many are left is not told reliably, so it is
tried.
"""

from __future__ import annotations

import threading
import time

from normdrop import _process

_tried = threading.local()


def can_start(n: int) -> bool:
    """Return whether `n` threads beside this one could be started when it first asked.

    OpenMP has a team for each thread that enters a parallel loop, started when it first does so.
    """
    found: bool | None = getattr(_tried, "found", None)
    if found is None:
        found = _tried.found = _try(n)
    return found


def _try(n: int) -> bool:
    before, end, threads = _process.native_threads(), threading.Event(), list[threading.Thread]()
    try:
        for _ in range(n):
            threads.append(threading.Thread(target=end.wait, daemon=True))
            threads[-1].start()
    except RuntimeError:  # also while the interpreter ends
        threads.pop()
        return False
    finally:
        end.set()
        for thread in threads:
            if thread.ident is not None:  # an interrupt may come before it starts
                thread.join()
    deadline = time.monotonic() + 0.1
    while (_process.native_threads() or 0) > (before or 0) and time.monotonic() < deadline:
        time.sleep(0)  # the system takes a moment longer to let go of them than Python
    return True
