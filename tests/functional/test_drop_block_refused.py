"""DropBlock refuses what does not fit by name, and changes nothing then."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, _backend, functional

KEY, CALL = (3, 4), 5


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


@pytest.fixture
def things() -> SimpleNamespace:
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    s = SimpleNamespace(x=x, dy=x[::-1].copy(), rng=stream())
    s.context = functional.drop_block(x, 0.5, 3, rng=stream())[1]
    return s


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"p": 1.5}, ValueError, "p must"),
    ({"p": "0.5"}, TypeError, "p must"),
    ({"block_size": 0}, ValueError, "block_size"),
    ({"block_size": 2.0}, TypeError, "block_size"),
    ({"block_size": (2, 2, 2)}, ValueError, "block_size"),
    ({"channel_axis": 2}, ValueError, "np.moveaxis(x, 2, 1)"),
    ({"channel_axis": 4}, ValueError, "channel_axis"),
    ({"shared_channels": 1}, TypeError, "shared_channels"),
    ({"rate": "true"}, ValueError, "rate"),
    ({"scaling": "inverted"}, ValueError, "scaling"),
    ({"return_mask": None}, TypeError, "return_mask"),
    ({"rng": 1.5}, TypeError, "rng"),
    ({"x": np.ones((2, 3))}, ValueError, "x must have"),
    ({"x": np.ones((2, 3, 4), int)}, TypeError, "x must have"),
    ({"out": np.ones((2, 3, 6, 5))}, TypeError, "out"),
    ({"out": np.ones((2, 3, 5, 6), np.float32)}, ValueError, "out"),
]


@pytest.mark.parametrize(("changes", "error", "word"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(
    things: Any, refused: Any, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    def call(s: Any) -> None:
        arguments = {"x": s.x, "p": 0.5, "rng": s.rng} | changes
        functional.drop_block(arguments.pop("x"), arguments.pop("p"), **arguments)

    refused(things, call, error, word)


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        (([14, 14], 0.5), TypeError, "shape"),
        (((), 0.5), ValueError, "shape"),
        (((2, 3, 4, 4), 0.5), ValueError, "1 to 3 sides"),
        (((0, 4), 0.5), ValueError, "shape"),
        (((4, 4), 2.0), ValueError, "p must"),
        (((4, 4), 0.5, (3,)), ValueError, "block_size"),
    ],
    ids=[str(k) for k in range(6)],
)
def test_a_rate_of_no_map_is_refused_by_name(arguments: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        functional.drop_block_rate(*arguments)


FORGED: list[tuple[Any, type[Exception], str]] = [
    (lambda c: None, TypeError, "context"),
    (tuple, TypeError, "context"),
    (lambda c: c._replace(shape=(2, 3, 6, 4)), ValueError, "dy"),
    (lambda c: c._replace(blocks=(1, 1, 3)), ValueError, "blocks"),
    (lambda c: c._replace(blocks=(1, 1, 7, 3)), ValueError, "blocks"),
    (lambda c: c._replace(blocks=(2, 1, 3, 3)), ValueError, "blocks"),
    (lambda c: c._replace(shared_axes=(2,)), ValueError, "blocks"),
    (lambda c: c._replace(threshold=2**33), ValueError, "threshold"),
    (lambda c: c._replace(call=-1), ValueError, "call"),
    (lambda c: c._replace(key=(1, 2**32)), ValueError, "key"),
]


@pytest.mark.parametrize(("forge", "error", "word"), FORGED, ids=[str(k) for k in range(len(FORGED))])
def test_a_context_that_does_not_fit_is_refused(
    things: Any, refused: Any, forge: Any, error: type[Exception], word: str
) -> None:
    things.context = forge(things.context)
    refused(things, lambda s: functional.drop_block_backward(s.dy, s.context), error, word)


def test_arrays_that_do_not_fit_are_refused_where_they_meet_a_launcher(things: Any, refused: Any) -> None:
    things.mask, things.n = np.ones((2, 1, 4, 5, 1), bool), np.ones(1, np.int64)
    law = KEY, CALL, 2**30
    launch = _backend.keep_blocks
    refused(things, lambda s: launch(s.mask[0], s.n, (1, 2, 2), *law), ValueError, "mask does not fit")
    refused(things, lambda s: launch(s.mask, s.n[1:], (1, 2, 2), *law), ValueError, "n_kept does not fit")
    refused(things, lambda s: launch(s.mask, s.n, (1, 2, 6), *law), ValueError, "blocks")
    refused(things, lambda s: launch(s.mask, s.n, (0, 2, 2), *law), ValueError, "blocks")
    things.a, things.b = np.ones((2, 1, 4, 5, 1)), np.ones((2, 1, 4, 5, 1))
    drop = _backend.drop_blocks
    refused(things, lambda s: drop(s.a[0], s.b[0], s.n, (1, 2, 2), *law, 2.0), ValueError, "x does not fit")
    refused(things, lambda s: drop(s.a[:1], s.b, s.n, (1, 2, 2), *law, 2.0), ValueError, "y does not fit")
    refused(things, lambda s: drop(s.a, s.b, s.n[1:], (1, 2, 2), *law, 2.0), ValueError, "n_kept does not fit")
    refused(things, lambda s: drop(s.a, s.b, s.n, (1, 2, 6), *law, 2.0), ValueError, "blocks")


@pytest.mark.parametrize("return_mask", [False, True])
def test_a_launcher_that_fails_gives_the_call_back(
    things: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, return_mask: bool
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(_backend, "keep_blocks" if return_mask else "drop_blocks", fail)
    call = functools.partial(functional.drop_block, p=0.5, block_size=3, return_mask=return_mask)
    refused(things, lambda s: call(s.x, rng=s.rng), MemoryError, "no room")
