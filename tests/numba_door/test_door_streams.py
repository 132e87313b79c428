"""How a stream gives its calls to a compiled loop."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from normdrop import MaskStream, functional

LAST = 2**63 - 1


def test_reserved_calls_are_nobody_elses():
    stream = MaskStream.from_key((1, 2), call=5)
    assert (stream.reserve(3), stream.call, stream.take()) == (5, 8, 8)
    assert (stream.reserve(0), stream.call) == (9, 9)
    assert type(stream.reserve(np.int64(2))) is int
    assert stream.call == 11
    firsts: list[int] = []
    threads = [threading.Thread(target=lambda: firsts.extend(stream.reserve(7) for _ in range(200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == list(range(11, 11 + 7 * 800, 7))
    assert stream.call == 11 + 7 * 800


def test_masks_of_reserved_calls_are_those_that_would_have_come_next():
    stream, twin = MaskStream(3), MaskStream(3)
    first = stream.reserve(2)
    for call in (first, first + 1):
        y, _ = functional.dropout(np.ones(100), 0.5, rng=MaskStream.from_key(stream.key, call))
        assert np.array_equal(y, functional.dropout(np.ones(100), 0.5, rng=twin)[0])
    assert stream == twin


@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (-1, ValueError, "n must be at least 0; got -1"),
        (1.0, TypeError, "n must be an int; got"),
        (True, TypeError, "n must be an int; got"),
        (11, RuntimeError, "stream is exhausted"),
    ],
)
def test_a_number_that_cannot_be_reserved_is_refused_and_changes_nothing(refused, n, error, words):
    things = SimpleNamespace(stream=MaskStream.from_key((1, 2), call=LAST - 10))
    refused(things, lambda it: it.stream.reserve(n), error, words)
    assert things.stream.reserve(10) == LAST - 10
