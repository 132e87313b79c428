"""Fused passes refuse what does not fit by name, change nothing then, and read nothing beyond their arrays."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import _backend, functional

from ..unfused import arrays, assert_same_bits, stream

pytestmark = pytest.mark.usefixtures("backend")

ONE = np.ones(3, np.float32)


@pytest.fixture
def things() -> SimpleNamespace:
    s = SimpleNamespace(**arrays((6, 3, 4), np.float32), stream=stream(), mean=np.zeros(3), var=np.ones(3))
    s.residual, s.how = s.residual.copy(), {"p": 0.4, "rng": s.stream}
    s.trained = functional.batch_norm_act(s.x, s.gamma, s.beta, residual=s.residual, **s.how)[1]
    s.inferred = functional.batch_norm_act_inference(s.x, s.mean, s.var, residual=s.residual, keep_x=True)[1]
    s.brief = functional.batch_norm_act_inference(s.x, s.mean, s.var)[1]
    s.acted = functional.act_dropout(s.x, residual=s.residual, **s.how)[1]
    s.shared = functional.act_dropout(s.x, shared_axes=2, **s.how)[1]
    return s


def _backward(context: Any) -> Any:
    return {
        functional.BatchNormActContext: functional.batch_norm_act_backward,
        functional.BatchNormActInferenceContext: functional.batch_norm_act_inference_backward,
        functional.ActDropoutContext: functional.act_dropout_backward,
    }[type(context)]


WRONG: dict[str, tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = {
    "no such activation": ({"activation": "rellu"}, ValueError, ("activation", "'rellu'", "'relu'")),
    "an activation that is a function": ({"activation": np.tanh}, TypeError, ("activation",)),
    "a parameter that relu has not": ({"activation": ("relu", 0.2)}, ValueError, ("no parameter", "activation='relu'")),
    "a parameter that is a word": ({"activation": ("elu", "x")}, TypeError, ("alpha of elu", "'x'")),
    "an infinite parameter": ({"activation": ("leaky_relu", np.inf)}, ValueError, ("negative_slope", "finite", "inf")),
    "a residual of another shape": (
        {"residual": np.ones((6, 3, 5), np.float32)},
        ValueError,
        ("(6, 3, 5)",),
    ),
    "a residual that would be broadcast": ({"residual": np.ones((6, 3, 1), np.float32)}, ValueError, ("residual",)),
    "a residual of another dtype": ({"residual": np.ones((6, 3, 4))}, TypeError, ("residual", "float64", "astype")),
    "a residual of ints": ({"residual": np.ones((6, 3, 4), int)}, TypeError, ("residual", "int64", "astype")),
    "a list of residuals": ({"residual": [1.0]}, TypeError, ("residual", "list")),
    "p beyond 1": ({"p": 1.5}, ValueError, ("p must be", "1.5")),
    "axes that x has not": ({"shared_axes": 3}, ValueError, ("shared_axes", "3")),
    "rng of a word": ({"rng": "seed"}, TypeError, ("rng", "seed")),
    "an out of another shape": ({"out": np.ones((6, 3), np.float32)}, ValueError, ("out", "(6, 3)")),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(things: Any, refused: Any, case: str) -> None:
    given, error, words = WRONG[case]
    refused(things, lambda s: functional.batch_norm_act(s.x, **s.how | given), error, *words)
    refused(things, lambda s: functional.act_dropout(s.x, **s.how | given), error, *words)
    if not {"p", "shared_axes", "rng"} & set(given):
        call = functional.batch_norm_act_inference
        refused(things, lambda s: call(s.x, s.mean, s.var, **given), error, *words)


def test_arguments_of_batch_norm_are_refused_as_by_batch_norm(things: Any, refused: Any) -> None:
    norm, inference = functional.batch_norm_act, functional.batch_norm_act_inference
    refused(things, lambda s: norm(s.x, np.ones(4, np.float32), **s.how), ValueError, "gamma", "(3,)", "(4,)")
    refused(things, lambda s: norm(s.x, eps=0.0, **s.how), ValueError, "eps", "0.0")
    refused(things, lambda s: norm(s.x, channel_axis=3, **s.how), ValueError, "channel_axis", "3")
    refused(things, lambda s: inference(s.x, s.mean, -s.var), ValueError, "var", "-1.0")
    refused(things, lambda s: inference(s.x, s.mean[:2], s.var), ValueError, "mean", "(2,)")
    refused(things, lambda s: inference(s.x, s.mean, s.var, keep_x=1), TypeError, "keep_x", "1")


def test_an_out_that_overlaps_an_input_without_being_it_is_refused(things: Any, refused: Any) -> None:
    things.memory = np.ones((7, 3, 4), np.float32)
    for name, call in {
        "x": lambda s: functional.batch_norm_act(s.memory[:6], out=s.memory[1:], **s.how),
        "residual": lambda s: functional.act_dropout(s.x, residual=s.memory[:6], out=s.memory[1:], **s.how),
        "dy": lambda s: functional.batch_norm_act_backward(s.memory[:6], s.trained, out=s.memory[1:]),
    }.items():
        refused(things, call, ValueError, f"out overlaps {name}")


def test_a_gradient_may_be_written_over_the_residual_that_was_kept(things: Any) -> None:
    for shift in (0, 1):
        memory = np.concatenate([things.residual, things.residual])
        residual, out = memory[:6], memory[shift : 6 + shift]
        for context in (
            functional.batch_norm_act(things.x, residual=residual)[1],
            functional.batch_norm_act_inference(things.x, things.mean, things.var, residual=residual, keep_x=True)[1],
        ):
            backward = _backward(context)
            expected = backward(things.dy, context)
            assert_same_bits(backward(things.dy, context, out=out), expected)
            memory[:6] = things.residual


def test_backward_of_inference_without_x_says_how_to_keep_it(things: Any, refused: Any) -> None:
    call = functional.batch_norm_act_inference_backward
    refused(things, lambda s: call(s.dy, s.brief), ValueError, "context has no x", "keep_x=True")


ROWS = np.ones((3, 3))
FORGED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "another activation": ("trained", {"activation": ("sine", 0.0)}, ValueError, "activation"),
    "no activation": ("acted", {"activation": None}, TypeError, "activation"),
    "no batch norm": ("trained", {"norm": None}, TypeError, "context.norm"),
    "no batch norm in inference": ("inferred", {"norm": None}, TypeError, "context.norm"),
    "batch norm of training in inference": ("inferred", {"norm": "trained"}, TypeError, "context.norm"),
    "no dropout": ("trained", {"dropout": None}, TypeError, "context.dropout"),
    "a residual of another shape": ("trained", {"residual": np.ones((6, 3, 5), np.float32)}, ValueError, "residual"),
    "a residual of another dtype": ("inferred", {"residual": np.ones((6, 3, 4))}, TypeError, "residual"),
    "a short beta": ("trained", {"beta": ONE[:2]}, ValueError, "beta"),
    "a short shift": ("inferred", {"shift": np.ones(2)}, ValueError, "shift"),
    "no x": ("acted", {"x": None}, TypeError, "x"),
    "a larger x": ("acted", {"x": np.ones((9, 3, 4), np.float32)}, ValueError, "dy"),
    "norm, another channel axis": ("trained", {"norm.channel_axis": 2}, ValueError, "gamma"),
    "norm, narrow statistics": ("trained", {"norm.statistics": ROWS.astype(np.float32)}, TypeError, "statistics"),
    "norm, two rows": ("trained", {"norm.statistics": ROWS[:2]}, ValueError, "statistics"),
    "norm, a short gamma": ("trained", {"norm.gamma": ONE[:2]}, ValueError, "gamma"),
    "inference, two rows": ("inferred", {"norm.statistics": ROWS[:2]}, ValueError, "statistics"),
    "inference, no statistics": ("inferred", {"norm.statistics": None}, TypeError, "statistics"),
    "inference, a short scale": ("inferred", {"norm.scale": np.ones(2)}, ValueError, "scale"),
    "inference, another channel axis": ("inferred", {"norm.channel_axis": 2}, ValueError, "scale"),
    "dropout, another shape": ("trained", {"dropout.shape": (6, 3, 5)}, ValueError, "context.dropout.shape"),
    "dropout, fewer axes": ("shared", {"dropout.shape": (6, 12)}, ValueError, "context.dropout.shape"),
    "dropout, a call below 0": ("acted", {"dropout.call": -1}, ValueError, "call"),
    "dropout, a key of more words": ("acted", {"dropout.key": (1 << 32, 0)}, ValueError, "key"),
    "dropout, a threshold beyond": ("trained", {"dropout.threshold": 2**32 + 1}, ValueError, "threshold"),
    "dropout, a small mask": ("shared", {"dropout.mask": np.ones((1, 1), np.bool_)}, ValueError, "mask"),
    "dropout, a mask of bytes": ("shared", {"dropout.mask": np.ones((6, 3, 1), np.uint8)}, TypeError, "mask"),
}


def _forged(things: Any, context: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        if rest:
            value = getattr(context, first)._replace(**{rest: value})
        context = context._replace(**{first: things.trained.norm if isinstance(value, str) else value})
    return context


@pytest.mark.parametrize("case", list(FORGED))
def test_a_context_that_does_not_fit_the_forward_pass_is_refused(things: Any, refused: Any, case: str) -> None:
    name, changes, error, word = FORGED[case]
    context = getattr(things, name)
    backward = _backward(context)
    backward(things.dy, context)
    things.forged = _forged(things, context, changes)
    refused(things, lambda s: backward(s.dy, s.forged), error, word)


@pytest.mark.parametrize("name", ["trained", "inferred", "acted"])
def test_backward_takes_only_a_context_of_its_own_pass(things: Any, refused: Any, name: str) -> None:
    for other in ("trained", "inferred", "acted"):
        if other != name:
            backward = _backward(getattr(things, name))
            words = "context must be what", type(getattr(things, other)).__name__
            refused(things, lambda s, b=backward, o=other: b(s.dy, getattr(s, o)), TypeError, *words)
    refused(things, lambda s: _backward(getattr(s, name))(s.dy[:3], getattr(s, name)), ValueError, "dy")


@pytest.mark.parametrize("name", ["trained", "inferred", "acted", "shared"])
def test_a_pickled_context_gives_the_same_gradients_any_number_of_times(things: Any, name: str) -> None:
    context = getattr(things, name)
    twin, backward = pickle.loads(pickle.dumps(context)), _backward(context)
    assert type(context).__module__ == "normdrop.functional"
    first = backward(things.dy, context)
    for each in (twin, context):
        assert_same_bits(backward(things.dy, each), first)


def test_a_context_holds_x_and_residual_by_reference_and_everything_else_as_a_copy(things: Any) -> None:
    given = [things.x, things.residual, things.gamma, things.beta, things.mean, things.var]
    for context in (things.trained, things.inferred, things.acted):
        assert context.x is things.x
        if hasattr(context, "residual"):
            assert context.residual is things.residual
        for values in [*context, *getattr(context, "norm", ())]:
            if isinstance(values, np.ndarray) and values is not things.x and values is not things.residual:
                assert not any(np.shares_memory(values, other) for other in given)
    assert (things.brief.x, things.brief.residual) == (None, None)


@pytest.mark.parametrize(
    ("launcher", "call"),
    [
        ("batch_norm_act", lambda s: functional.batch_norm_act(s.x, residual=s.residual, **s.how)),
        ("act_dropout", lambda s: functional.act_dropout(s.x, **s.how)),
        ("normalize_act", lambda s: functional.batch_norm_act_inference(s.x, s.mean, s.var, residual=s.residual)),
        ("batch_norm_act_backward", lambda s: functional.batch_norm_act_backward(s.dy, s.trained)),
        ("act_gradient", lambda s: functional.batch_norm_act_inference_backward(s.dy, s.inferred)),
        ("act_dropout_backward", lambda s: functional.act_dropout_backward(s.dy, s.acted)),
    ],
)
def test_a_launcher_that_fails_leaves_stream_and_inputs_as_they_were(
    things: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, launcher: str, call: Any
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError(f"no room for {launcher}")

    monkeypatch.setattr(_backend, launcher, fail)
    refused(things, call, MemoryError, launcher)
