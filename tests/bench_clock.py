"""What the bench's tests share: settings that measure little, and a clock that only moves when it is told to."""

from __future__ import annotations

from normdrop.bench import cases, protocol, settings

FEW = settings.Settings(
    families=(
        cases.Family(cases.IN_CACHE, ((64,), (16,)), (cases.HALF, cases.BACK)),
        cases.Family(cases.GROWING, ((2, 3, 2, 2),), (cases.NORM,)),
    ),
    on_threads=(),
    rounds=4,
    seconds=0.5,
    longest=100.0,
    fewest=2,
    peers=("numpy", "torch", "jax"),
)


class Clock:
    """A clock that only moves when it is told to, in place of the module ``time``."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += 1000 * seconds  # would be seen in any time that it is part of
        self.slept.append(seconds)

    def taking(self, seconds):
        """Return a call that takes so many seconds."""

        def call():
            self.now += seconds

        return call


def stopped_clock(monkeypatch):
    """Let the bench time by a clock that only moves when it is told to, and return it."""
    clock = Clock()
    monkeypatch.setattr(protocol, "time", clock)
    return clock
