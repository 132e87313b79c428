"""What DropConnect refuses: by name, and nothing has changed then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, _backend, functional
from normdrop._connections import Connections

LAW = Connections((3, 4), 5, 1 << 30, 4 / 3, False)


def stream() -> MaskStream:
    return MaskStream.from_key((3, 4), 5)


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype(dtype)


@pytest.fixture
def things() -> SimpleNamespace:
    x, weight, bias, dy = (normal(*s, dtype=np.float32, seed=k) for k, s in enumerate([(4, 6), (3, 6), (3,), (4, 3)]))
    s = SimpleNamespace(x=x, weight=weight, bias=bias, dy=dy, rng=stream(), out=np.ones((4, 3), np.float32))
    s.context = functional.drop_connect(x, weight, bias, p=0.5, rng=stream())[1]
    return s


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "p too large": (lambda s: {"p": 1.5}, ValueError, "p must be"),
    "p a string": (lambda s: {"p": "0.5"}, TypeError, "p must be"),
    "no such masks": (lambda s: {"masks": "element"}, ValueError, "masks"),
    "no such scaling": (lambda s: {"scaling": "none"}, ValueError, "scaling"),
    "rng a float": (lambda s: {"rng": 1.5}, TypeError, "rng"),
    "x of integers": (lambda s: {"x": np.ones((4, 6), int)}, TypeError, "x must"),
    "x of one axis": (lambda s: {"x": s.x[0]}, ValueError, "x must have shape (N, in)"),
    "weight turned": (lambda s: {"weight": s.weight.T}, ValueError, "weight must have shape (out, in)"),
    "weight of another dtype": (lambda s: {"weight": s.weight.astype(float)}, TypeError, "weight must have the dtype"),
    "bias of another length": (lambda s: {"bias": s.bias[:2]}, ValueError, "bias must have shape"),
    "bias of another dtype": (lambda s: {"bias": s.bias.astype(float)}, TypeError, "bias must have the dtype"),
    "out of another shape": (lambda s: {"out": s.out.T}, ValueError, "out must have shape"),
    "out of another dtype": (lambda s: {"out": s.out.astype(float)}, TypeError, "out must have the dtype"),
    "out over x": (lambda s: {"out": s.x[:, :3]}, ValueError, "out shares memory with x"),
    "out over bias": (lambda s: {"out": np.broadcast_to(s.bias, (4, 3))}, ValueError, "out is read-only"),
    "out over itself": (
        lambda s: {"out": np.lib.stride_tricks.as_strided(s.out, (4, 3), (4, 4))}, ValueError, "share memory"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(things: Any, refused: Any, name: str) -> None:
    change, error, word = BAD[name]

    def call(s: Any) -> None:
        arguments = {"x": s.x, "weight": s.weight, "bias": s.bias, "p": 0.5, "rng": s.rng} | change(s)
        functional.drop_connect(**arguments)

    refused(things, call, error, word)


FORGED: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (lambda c: None, TypeError, "context"),
    "a tuple": (tuple, TypeError, "context"),
    "x of another dtype": (lambda c: c._replace(x=c.x.astype(float)), TypeError, "context.weight"),
    "fewer samples": (lambda c: c._replace(x=c.x[:3]), ValueError, "dy"),
    "fewer weights": (lambda c: c._replace(weight=c.weight[:, :5]), ValueError, "context.weight"),
    "another law": (lambda c: c._replace(connections=tuple(c.connections)), TypeError, "context.connections"),
    "a call below 0": (lambda c: c._replace(connections=c.connections._replace(call=-1)), ValueError, "call"),
    "a long key": (lambda c: c._replace(connections=c.connections._replace(key=(1, 2**32))), ValueError, "key"),
    "a large threshold": (
        lambda c: c._replace(connections=c.connections._replace(threshold=2**32 + 1)), ValueError, "threshold"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORGED))
def test_a_context_that_does_not_fit_is_refused(things: Any, refused: Any, name: str) -> None:
    forge, error, word = FORGED[name]
    things.context = forge(things.context)
    refused(things, lambda s: functional.drop_connect_backward(s.dy, s.context), error, word)


def test_arrays_that_do_not_fit_are_refused_where_they_meet_a_launcher(things: Any, refused: Any) -> None:
    things.wide, things.dx, things.dweight = np.ones(3), np.ones((4, 6), np.float32), np.ones((3, 6), np.float32)
    launch, back, down = (
        _backend.drop_connect, _backend.drop_connect_input_gradient, _backend.drop_connect_weight_gradient
    )  # fmt: skip
    add = _backend.drop_connect_bias_gradient
    refused(things, lambda s: launch(s.out[1:], s.x, s.weight, s.wide, LAW), ValueError, "y does not fit")
    refused(things, lambda s: launch(s.out, s.x, s.weight[:, 1:], s.wide, LAW), ValueError, "weight does not fit")
    refused(things, lambda s: launch(s.out, s.x, s.weight, s.bias, LAW), TypeError, "bias does not fit")
    refused(things, lambda s: back(s.dx[1:], s.dy, s.weight, LAW), ValueError, "dx does not fit")
    refused(things, lambda s: back(s.dx, s.dy, s.weight[1:], LAW), ValueError, "weight does not fit")
    refused(things, lambda s: down(s.dweight[1:], s.dy, s.x, LAW), ValueError, "dweight does not fit")
    refused(things, lambda s: down(s.dweight, s.dy[1:], s.x, LAW), ValueError, "dy does not fit")
    refused(things, lambda s: add(s.wide[1:], s.dy), ValueError, "dbias does not fit")


def test_a_launcher_that_fails_gives_the_call_back(things: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(_backend, "drop_connect", fail)
    refused(things, lambda s: functional.drop_connect(s.x, s.weight, p=0.5, rng=s.rng), MemoryError, "no room")


def test_a_gradient_of_another_shape_or_dtype_is_refused(things: Any, refused: Any) -> None:
    backward = functional.drop_connect_backward
    refused(things, lambda s: backward(s.dy.T, s.context), ValueError, "dy must have the shape of", "(4, 3)")
    refused(things, lambda s: backward(s.dy.astype(float), s.context), TypeError, "dy must have the dtype")
