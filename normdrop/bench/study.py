"""Carry out the measurements."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numba
import numpy as np
import psutil

from normdrop._cpu.toolchain import launch
from normdrop.bench.batch import Batch
from normdrop.bench.cases import Case
from normdrop.bench.peers import Peer, first_line
from normdrop.bench.protocol import Call, Times, measure
from normdrop.bench.settings import Settings
from normdrop.bench.sides import COPIES, OURS, Normdrop, copies

COPY = "copy"
BESIDE = "dropout"
ONE, ALL = "one thread", "all threads"


@dataclass(frozen=True)
class Measurement(Times):
    """What was measured in a case.

    Attributes
    ----------
    case : Case
        Which.
    """

    case: Case


class Study:
    """The cases and what was measured in them.

    Parameters
    ----------
    settings : Settings
        How much to measure.
    peers : sequence of Peer
        The other libraries.
    only : str, default ""
        Part of the names of the passes that are wanted.

    Attributes
    ----------
    cases : list of Case
        What is measured beside a copy and the peers, as far as memory is available for it.
    available : int
        Bytes of memory that other arrays may have, caches of files included: the system gives those up.
    left_out : list of Case
        What needs more than that.
    on_threads : list of Case
        What is measured on one thread and on all.
    measurements, speedups : list of Measurement
        The outcomes of both.
    failures : list of (Case, str, str)
        Passes that a peer could not do: the case, its name and the reason.
    """

    def __init__(self, settings: Settings, peers: Sequence[Peer], only: str = "") -> None:
        self.settings = settings
        self.peers = peers
        self.available = psutil.virtual_memory().available
        wanted = list(settings.cases(only))
        self.cases = [case for case in wanted if bytes_of(case) <= self.available]
        self.left_out = [case for case in wanted if bytes_of(case) > self.available]
        self.n_threads = launch.threads()
        operations = {case.operation for case in self.cases}
        self.on_threads = [case for case in settings.on_threads if case.operation in operations and self.n_threads > 1]
        self.measurements: list[Measurement] = []
        self.speedups: list[Measurement] = []
        self.failures: list[tuple[Case, str, str]] = []
        self._rng = np.random.default_rng(0)

    def carry_out(self, done: Callable[[], object] = lambda: None) -> None:
        """Measure everything.

        Parameters
        ----------
        done : callable
            Called after each case.
        """
        batch = Batch((1,))
        with ThreadPoolExecutor(self.n_threads) as pool:
            for case in self.cases:
                if (batch.shape, batch.channels_last) != (case.shape, case.channels_last):
                    batch = Batch(case.shape, case.channels_last)
                self.measurements.append(self._measure(case, batch, pool))
                done()
        for case in self.on_threads:
            self.speedups.append(self._measure_threads(case))
            done()

    def _measure(self, case: Case, batch: Batch, pool: ThreadPoolExecutor) -> Measurement:
        # PyTorch's threads start sooner than Python's.
        threaded = next((peer.copy(batch) for peer in self.peers if hasattr(peer, "copy")), None)
        sides = dict(copies(batch, pool, self.n_threads, threaded))
        for name in OURS:
            sides[name] = _prepare(Normdrop(name), case, batch)
        if case.operation.beside:
            sides[BESIDE] = _prepare(Normdrop(OURS[0]), replace(case, operation=case.operation.beside), batch)
        n_own = len(sides)
        for peer in self.peers if case.size <= self.settings.largest else ():
            if hasattr(peer, case.operation.method):
                try:
                    call = _prepare(peer, case, batch)
                    call()
                except Exception as error:  # other libraries fail in ways of their own, and the rest can go on
                    self.failures.append((case, peer.name, first_line(error)))
                else:
                    sides[peer.name] = call
        seconds = measure(sides, self.settings, self._rng, always=n_own)
        seconds[COPY] = np.fmin(*(seconds[name] for name in COPIES))
        return Measurement(seconds, case)

    def _measure_threads(self, case: Case) -> Measurement:
        call = _prepare(Normdrop(OURS[0]), case, Batch(case.shape))
        current = [self.n_threads]

        def on(n_threads: int) -> Call:
            def on_these() -> object:
                if current[0] != n_threads:  # only in the call that warms up
                    numba.set_num_threads(n_threads)
                    current[0] = n_threads
                return call()

            return on_these

        try:
            seconds = measure({ONE: on(1), ALL: on(self.n_threads)}, self.settings, self._rng, always=2)
        finally:
            numba.set_num_threads(self.n_threads)
        return Measurement(seconds, case)


def bytes_of(case: Case) -> int:
    """Count the bytes of a case's arrays, eight of float32 at most.

    Parameters
    ----------
    case : Case
        Any.

    Returns
    -------
    int
        Bytes.
    """
    return 8 * case.size * 4


def _prepare(library: Peer, case: Case, batch: Batch) -> Call:
    call: Call = getattr(library, case.operation.method)(batch, *case.operation.arguments)
    return call
