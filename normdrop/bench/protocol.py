"""How the sides of a case are timed: in one process, in turn, in changing order, so that all meet the same conditions.

A time is the median over the rounds, a ratio the median of the ratios within a round: a slow moment spoils a round, not
the figure. The CPU's bench, the GPU's and the asv suite all measure so.

Libraries keep threads of their own, which spin for some milliseconds after a call, in the way of the next one's. So
before a side is timed there is time for them to go to sleep, and calls wake its own threads. Two threads that wake on
one core take a slice of the scheduler's time for each call until one of them moves; these calls warm up, too.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop.bench.settings import Settings

Array = npt.NDArray[Any]
Call = Callable[[], object]

VERSION = "2"  # raise it with any change: results of different versions are not comparable, and asv keeps them apart
SLEEP = 0.012
LONG = 0.02  # seconds of a call for which it does not matter whether threads are awake
PATIENCE = 0.05  # seconds at most for warming up
CLOSE = 1.5  # how many times the fastest time a call may take to count as warm


class Spread(NamedTuple):
    """Quartiles.

    Attributes
    ----------
    low, middle, high : float
        Lower quartile, median and upper quartile.
    """

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Times:
    """What was measured.

    Attributes
    ----------
    seconds : dict of str to ndarray, shape (rounds,)
        Seconds per call of each side in each round; NaN where it did not take part.
    """

    seconds: Mapping[str, Array]

    def microseconds(self, side: str) -> float:
        """Compute the time of a side.

        Parameters
        ----------
        side : str
            A key of `seconds`.

        Returns
        -------
        float
            Median over the rounds, in microseconds.
        """
        return float(np.nanmedian(self.seconds[side])) * 1e6

    def ratio(self, side: str, to: str) -> Spread:
        """Compare two sides.

        Parameters
        ----------
        side, to : str
            Keys of `seconds`.

        Returns
        -------
        Spread
            Quartiles of the ratios within a round: time of `side` over time of `to`.
        """
        return Spread(*map(float, np.nanpercentile(self.seconds[side] / self.seconds[to], (25, 50, 75))))


class _Plan(NamedTuple):
    n_rounds: int
    n_calls: int
    seconds: float  # of the fastest call so far


def orders(n_sides: int, n_rounds: int, rng: np.random.Generator | None = None) -> Iterator[Sequence[int]]:
    """Yield the order of the sides in each round.

    Parameters
    ----------
    n_sides, n_rounds : int
        How many.
    rng : numpy.random.Generator, optional
        Draws the orders; without it, every other round runs backwards.

    Yields
    ------
    sequence of int
        Indices of the sides.
    """
    for i in range(n_rounds):
        yield range(n_sides)[:: 1 if i % 2 else -1] if rng is None else rng.permutation(n_sides).tolist()


def measure(
    sides: Mapping[str, Call], settings: Settings, rng: np.random.Generator | None = None, always: int = 0
) -> dict[str, Array]:
    """Time the sides of a case.

    Parameters
    ----------
    sides : mapping of str to callable
        What is timed.
    settings : Settings
        How much.
    rng : numpy.random.Generator, optional
        Draws the order of the sides in each round, as in `orders`.
    always : int, default 0
        How many of the sides, from the first, take part in every round, however slow they are.

    Returns
    -------
    dict of str to ndarray, shape (rounds,)
        Seconds per call of each side in each round; NaN where it did not take part.
    """
    names = list(sides)
    plans = {name: _plan(sides[name], settings, i < always) for i, name in enumerate(names)}
    seconds = {name: np.full(settings.rounds, np.nan) for name in names}
    for i, order in enumerate(orders(len(names), settings.rounds, rng)):
        for j in order:
            name, plan = names[j], plans[names[j]]
            if i * plan.n_rounds % settings.rounds < plan.n_rounds:  # n_rounds of them, spread evenly
                seconds[name][i] = _time(sides[name], plan)
    return seconds


def _plan(call: Call, settings: Settings, always: bool) -> _Plan:
    call()  # compiles what there is to compile
    time.sleep(SLEEP)
    seconds = max(min(_durations(call, 12)), 1e-9)
    n_rounds = settings.rounds if always else int(np.clip(settings.longest / seconds, settings.fewest, settings.rounds))
    return _Plan(n_rounds, int(np.clip(settings.seconds / seconds, 1, 1000)), seconds)


def _durations(call: Call, most: int) -> Iterator[float]:
    """Time single calls, until there were so many or patience is at an end."""
    begin = start = time.perf_counter()
    for _ in range(most):
        call()
        end = time.perf_counter()
        yield end - start
        if end - begin > PATIENCE:
            break
        start = end


def _time(call: Call, plan: _Plan) -> float:
    time.sleep(SLEEP)
    if plan.seconds < LONG:
        any(seconds < CLOSE * plan.seconds for seconds in _durations(call, 1000))
    start = time.perf_counter()
    for _ in range(plan.n_calls):
        call()
    return (time.perf_counter() - start) / plan.n_calls
