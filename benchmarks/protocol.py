"""Ratios by the protocol of `normdrop.bench`, and slow-downs that are planted to see whether they are noticed."""

import dataclasses
import os
import time

import numpy as np

from normdrop.bench import protocol
from normdrop.bench.protocol import Call, Times
from normdrop.bench.settings import FULL

from . import SMOKE

OWN, OTHER = "own", "other"
AMOUNT = dataclasses.replace(FULL, rounds=1, seconds=0.0) if SMOKE else FULL
PROCESSES = 1 if SMOKE else int(os.environ.get("NORMDROP_BENCH_PROCESSES", "1"))  # median of those: slower, less noise
PLANTED = float(os.environ.get("NORMDROP_BENCH_PLANT", "0"))


def n_threads() -> int:
    """Return how many threads normdrop may use, which is how many a copy and other libraries get."""
    return int(os.environ.get("NUMBA_NUM_THREADS") or os.cpu_count() or 1)


def measure(call: Call, *references: Call) -> Times:
    """Time a call and, in each round, the fastest reference."""
    sides = dict(enumerate((call, *references)))
    seconds = protocol.measure(sides, AMOUNT, always=len(sides))
    return Times({OWN: seconds.pop(0), OTHER: np.min(list(seconds.values()), axis=0)})


def ratio(call: Call, *references: Call) -> float:
    """Return the median over the rounds of the time of a call over that of the fastest reference in the round."""
    return measure(call, *references).ratio(OWN, OTHER).middle


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
