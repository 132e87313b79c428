"""How a ratio is measured: both sides in one process, in turn, so that a slow moment hits both.

This is the protocol of `normdrop.bench`, kept here so that it is the same for every commit, those before it included.
Raise `VERSION` with any change: results of different versions are not comparable, and asv then keeps them apart.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from . import SMOKE
from .inputs import Batch

Call = Callable[[], object]

VERSION = "1"
ROUNDS = 1 if SMOKE else 15
PROCESSES = 1 if SMOKE else int(os.environ.get("NORMDROP_BENCH_PROCESSES", "1"))  # median of those: slower, less noise
SECONDS = 0.004  # for the calls of a side in a round, if more than one call fits in
SLEEP = 0.0 if SMOKE else 0.012  # threads of the side before go to sleep meanwhile
LONG = 0.02  # seconds of a call for which it does not matter whether its threads are awake
PATIENCE = 0.05  # seconds at most for waking them

PLANTED = float(os.environ.get("NORMDROP_BENCH_PLANT", "0"))


def n_threads() -> int:
    """Return how many threads normdrop may use, which is how many a copy and other libraries get."""
    return int(os.environ.get("NUMBA_NUM_THREADS") or os.cpu_count() or 1)


def measure(call: Call, *references: Call) -> list[tuple[float, float]]:
    """Return, for each round, the seconds of a call and those of the fastest reference."""
    sides = [(side, _fastest(side)) for side in (call, *references)]
    pairs = []
    for i in range(ROUNDS):
        seconds = {side: _seconds(side, fastest) for side, fastest in (sides if i % 2 else sides[::-1])}
        pairs.append((seconds[call], min(seconds[side] for side in references)))
    return pairs


def ratio(call: Call, *references: Call) -> float:
    """Return the median over the rounds of the time of a call over that of the fastest reference in the round."""
    return median(own / other for own, other in measure(call, *references))


def _duration(call: Call, n_calls: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(n_calls):
        call()
    return (time.perf_counter() - start) / n_calls


def _fastest(call: Call) -> float:
    call()  # compiles what there is to compile
    end = time.perf_counter() + PATIENCE
    seconds = _duration(call)
    while time.perf_counter() < end and not SMOKE:
        seconds = min(seconds, _duration(call))
    return max(seconds, 1e-9)


def _seconds(call: Call, fastest: float) -> float:
    time.sleep(SLEEP)
    end = time.perf_counter() + PATIENCE
    while fastest < LONG and _duration(call) > 1.5 * fastest and time.perf_counter() < end:
        pass
    return _duration(call, int(min(max(SECONDS / fastest, 1), 1000)) if not SMOKE else 1)


def copies(batch: Batch) -> list[Call]:
    """Return copies of x into an array that was touched before: by one thread, and by as many as normdrop has."""
    x, y, n = batch.dense(batch.x), batch.dense(batch.buffer()), n_threads()
    pool = ThreadPoolExecutor(n)
    parts = list(zip(np.array_split(y.reshape(-1), n), np.array_split(x.reshape(-1), n), strict=True))

    def copy_parts() -> None:
        for future in [pool.submit(np.copyto, *part) for part in parts]:
            future.result()

    return [lambda: np.copyto(y, x), copy_parts]


def planted(call: Call) -> Call:
    """Return the call, or if NORMDROP_BENCH_PLANT says so, one that takes this much longer: 0.2 is a fifth."""
    if not PLANTED:
        return call

    def slower() -> None:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        while time.perf_counter() < end + PLANTED * (end - start):
            pass

    return slower
