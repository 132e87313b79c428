"""Contexts: a pass reads nothing beyond its arrays, whatever it is given, and backward belongs to its own pass."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytestmark = pytest.mark.usefixtures("backend")

WIDE = (4, 1 << 12)


def _x(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape or (8, 3)).astype(dtype)


@pytest.fixture
def things() -> SimpleNamespace:
    x = _x(*WIDE)
    mean, var = np.zeros(4), np.ones(4)
    s = SimpleNamespace(x=x, dy=_x(*WIDE, seed=1))
    s.context = functional.batch_norm(x, np.ones(4, np.float32), channel_axis=0)[1]
    s.inference = functional.batch_norm_inference(x, mean, var, channel_axis=0, keep_x=True)[1]
    s.brief = functional.batch_norm_inference(x, mean, var, channel_axis=0)[1]
    s.dropped = functional.dropout(x, 0.5, rng=1)[1]
    s.masked = functional.dropout(x, 0.5, mask=np.ones((4, 1), np.bool_), shared_axes=1)[1]
    return s


ROWS = np.ones((3, 4))
FORGED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "another channel axis": ("context", {"channel_axis": 1}, ValueError, "gamma"),
    "another channel axis without gamma": ("context", {"channel_axis": 1, "gamma": None}, ValueError, "statistics"),
    "a channel axis that x has not": ("context", {"channel_axis": 2}, ValueError, "channel_axis"),
    "no channel axis": ("context", {"channel_axis": None}, TypeError, "channel_axis"),
    "fewer channels": ("context", {"statistics": np.ones((3, 3))}, ValueError, "statistics"),
    "more channels": ("context", {"statistics": np.ones((3, 5))}, ValueError, "statistics"),
    "two rows": ("context", {"statistics": np.ones((2, 4))}, ValueError, "statistics"),
    "one axis": ("context", {"statistics": np.ones(12)}, ValueError, "statistics"),
    "narrow statistics": ("context", {"statistics": ROWS.astype(np.float32)}, TypeError, "statistics"),
    "statistics in Fortran order": ("context", {"statistics": np.asfortranarray(ROWS)}, ValueError, "contiguous"),
    "no statistics": ("context", {"statistics": None}, TypeError, "statistics"),
    "a list of statistics": ("context", {"statistics": ROWS.tolist()}, TypeError, "statistics"),
    "a short gamma": ("context", {"gamma": np.ones(1, np.float32)}, ValueError, "gamma"),
    "gamma of ints": ("context", {"gamma": np.ones(4, np.int64)}, TypeError, "gamma"),
    "x of more rows": ("context", {"x": _x(9, WIDE[1])}, ValueError, "dy"),
    "x of another dtype": ("context", {"x": _x(*WIDE, dtype=np.float64)}, TypeError, "dy"),
    "no x": ("context", {"x": None}, TypeError, "x"),
    "gradients of ints": ("context", {"parameter_dtype": np.dtype(int)}, TypeError, "parameter_dtype"),
    "inference, a scale of one element": ("inference", {"scale": np.ones(1)}, ValueError, "scale"),
    "inference, another channel axis": ("inference", {"channel_axis": 1}, ValueError, "scale"),
    "inference, fewer channels": ("inference", {"statistics": np.ones((3, 3))}, ValueError, "statistics"),
    "inference, two rows": ("inference", {"statistics": np.ones((2, 4))}, ValueError, "statistics"),
    "inference, no statistics": ("inference", {"statistics": None}, TypeError, "statistics"),
    "inference, a larger x": ("inference", {"x": _x(5, WIDE[1])}, ValueError, "x"),
    "inference, x of another dtype": ("inference", {"x": _x(*WIDE, dtype=np.float64)}, TypeError, "dy"),
    "inference without x, a scale of one element": ("brief", {"scale": np.ones(1)}, ValueError, "scale"),
    "inference without x, another channel axis": ("brief", {"channel_axis": -1}, ValueError, "scale"),
    "inference without x, a larger shape": ("brief", {"shape": (8, WIDE[1])}, ValueError, "dy"),
    "dropout, a larger shape": ("dropped", {"shape": (8, WIDE[1])}, ValueError, "dy"),
    "dropout, another dtype": ("dropped", {"dtype": np.dtype(np.float64)}, TypeError, "dy"),
    "dropout, a call below 0": ("dropped", {"call": -1}, ValueError, "call"),
    "dropout, a key of more than two words": ("dropped", {"key": (1 << 32, 0)}, ValueError, "key"),
    "dropout, a threshold beyond 2**32": ("dropped", {"threshold": 2**32 + 1}, ValueError, "threshold"),
    "dropout, a small mask": ("masked", {"mask": np.ones((1, 1), np.bool_)}, ValueError, "mask"),
    "dropout, a mask of bytes": ("masked", {"mask": np.ones((4, 1), np.uint8)}, TypeError, "mask"),
    "dropout, no shared axes": ("masked", {"shared_axes": ()}, ValueError, "mask"),
}


def _backward(context: Any) -> Any:
    if isinstance(context, functional.BatchNormContext):
        return functional.batch_norm_backward
    if isinstance(context, functional.InferenceContext):
        return functional.batch_norm_inference_backward
    return functional.dropout_backward


@pytest.mark.parametrize("case", list(FORGED))
def test_a_context_that_does_not_fit_the_forward_pass_is_refused(
    things: SimpleNamespace, refused: Any, case: str
) -> None:
    name, changes, error, word = FORGED[case]
    context = getattr(things, name)
    backward = _backward(context)
    backward(things.dy, context)
    things.forged = context._replace(**changes)
    refused(things, lambda s: backward(s.dy, s.forged), error, word)


def test_a_shape_that_was_set_in_place_after_the_forward_pass_is_refused(things: SimpleNamespace, refused: Any) -> None:
    x = _x(*WIDE)
    layer = normdrop.BatchNorm(4, channel_axis=0, affine=False)
    for context in (functional.batch_norm(x, channel_axis=0)[1], layer.forward(x, return_context=True)[1]):
        x.shape = (WIDE[0] // 2, 2 * WIDE[1])
        things.context, things.dy = context, _x(*x.shape, seed=1)
        refused(things, lambda s: functional.batch_norm_backward(s.dy, s.context), ValueError, "statistics")
        x.shape = WIDE


def test_running_statistics_of_fewer_channels_are_refused(things: SimpleNamespace, refused: Any) -> None:
    things.mean, things.var, things.short = np.zeros(4), np.ones(4), np.ones(3)
    update = functional.update_running
    refused(things, lambda s: update(s.short, s.var, s.context), ValueError, "running_mean must have shape (4,)")
    refused(things, lambda s: update(s.mean, s.short, s.context), ValueError, "running_var must have shape (4,)")
    things.forged = things.context._replace(statistics=np.ones((1, 4)))
    refused(things, lambda s: update(s.mean, s.var, s.forged), ValueError, "statistics")


def test_a_layer_refuses_a_context_of_another_layer(things: SimpleNamespace, refused: Any) -> None:
    things.layer, things.drop = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=0)
    refused(things, lambda s: s.layer.backward(s.dy, context=s.context), ValueError, "context", "4 channels", "has 3")
    refused(things, lambda s: s.layer.backward(s.dy, context=s.dropped), TypeError, "context", "DropoutContext")
    things.broken = things.context._replace(statistics=None)
    refused(things, lambda s: s.layer.backward(s.dy, context=s.broken), TypeError, "context.statistics", "NoneType")
    refused(things, lambda s: s.drop.backward(s.dy, context=s.context), TypeError, "context", "BatchNormContext")
    refused(things, lambda s: s.drop.backward(s.dy, context=1), TypeError, "context", "int 1")


@pytest.mark.parametrize(("name", "field"), [("context", "statistics"), ("inference", "scale")])
def test_a_layer_refuses_a_context_without_channels(
    things: SimpleNamespace, refused: Any, name: str, field: str
) -> None:
    forged = getattr(things, name)._replace(**{field: np.array(1.0)})
    things.layer = normdrop.BatchNorm(4, channel_axis=0)
    refused(things, lambda s: s.layer.backward(s.dy, context=forged), ValueError, "context", "1 channels")


@pytest.mark.parametrize("n_fields", [5, 6])
def test_a_context_pickled_by_another_version_is_whole_or_refused(n_fields: int) -> None:
    x, gamma = _x(), np.ones(3, np.float32)
    _, context = functional.batch_norm(x, gamma)
    older = pickle.loads(pickle.dumps(functional.BatchNormContext(*context[:n_fields])))
    for mine, other in zip(
        functional.batch_norm_backward(x, context), functional.batch_norm_backward(x, older), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    _, context = functional.batch_norm_inference(x, np.zeros(3), np.ones(3), gamma, keep_x=True)
    older = context._replace(parameter_dtype=gamma)  # the field was gamma once
    with pytest.raises(TypeError, match="parameter_dtype"):
        functional.batch_norm_inference_backward(x, older)


MAKE = {
    "BatchNorm": lambda: normdrop.BatchNorm(3, gamma_init="uniform", rng=1, dtype=np.float64),
    "BatchNorm, no statistics": lambda: normdrop.BatchNorm(3, track_running_stats=False, dtype=np.float64),
    "BatchNormAct": lambda: normdrop.BatchNormAct(3, p=0.5, rng=1, dtype=np.float64),
    "Dropout": lambda: normdrop.Dropout(0.5, rng=1),
    "Dropout, original": lambda: normdrop.Dropout(0.5, rng=1, scaling="original"),
}


def _alone(make: Any, xs: list[Any], i: int, dy: Any) -> tuple[Any, Any]:
    """Gradient of pass number i of a new layer that serves only that one."""
    layer = make()
    for x in xs[: i + 1]:
        layer.forget()
        layer(x)
    return layer.backward(dy), layer


@pytest.mark.parametrize("name", list(MAKE))
def test_two_branches_that_share_a_layer_have_a_context_each(name: str) -> None:
    """The siamese network, or a critic called on real and fake."""
    xs, dys = [_x(seed=1, dtype=np.float64), _x(seed=2, dtype=np.float64)], [_x(seed=3, dtype=np.float64)] * 2
    layer = MAKE[name]()
    contexts = [layer.forward(x, return_context=True)[1] for x in xs]
    for i in (1, 0, 1):  # in any order, any number of times
        dx = layer.backward(dys[i], context=contexts[i])
        expected, twin = _alone(MAKE[name], xs, i, dys[i])
        np.testing.assert_array_equal(dx, expected)
        for gradient in ("dgamma", "dbeta"):
            np.testing.assert_array_equal(getattr(layer, gradient, 0), getattr(twin, gradient, 0))
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        layer.backward(dys[0])


@pytest.mark.parametrize("name", list(MAKE))
def test_backward_where_two_passes_wait_says_how_to_write_it(name: str, refused: Any) -> None:
    layer, x = MAKE[name](), _x(dtype=np.float64)
    layer(x)
    layer(x)
    words = "2 forward passes", "return_context=True", "context=context", "forget()"
    refused(SimpleNamespace(layer=layer, x=x), lambda s: s.layer.backward(s.x), RuntimeError, *words)
    layer.forget()
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        layer.backward(x)
    layer(x)
    assert layer.backward(x).shape == x.shape


@pytest.mark.parametrize("name", list(MAKE))
def test_a_prediction_between_forward_and_backward_does_not_displace_the_pending_training_pass(name: str) -> None:
    x, dy = _x(dtype=np.float64), _x(seed=3, dtype=np.float64)
    layer, twin = MAKE[name](), MAKE[name]()
    layer(x)
    twin(x)
    layer.eval()
    layer(_x(50, 3, seed=5, dtype=np.float64))
    np.testing.assert_array_equal(layer.train().backward(dy), twin.backward(dy))


@pytest.mark.parametrize("name", [name for name in MAKE if name != "BatchNormAct"])  # which wants keep_x for that
def test_backward_in_inference_does_not_take_a_training_pass_for_the_prediction_after_it(
    name: str, refused: Any
) -> None:
    """As after a calibration of running statistics, whose passes have no backward."""
    x, dy = _x(dtype=np.float64), _x(seed=3, dtype=np.float64)
    layer = MAKE[name]()
    layer(x)
    layer.eval()(x)
    words = "one in inference came after it", "layer.train()", "return_context=True", "layer.forget()"
    refused(layer, lambda layer: layer.backward(dy), RuntimeError, *words)
    layer.forget()
    layer(x)
    wanted = layer.forward(x, return_context=True)[1]
    np.testing.assert_array_equal(layer.backward(dy), layer.backward(dy, context=wanted))
    layer.train()(x)
    layer.eval()
    assert layer.backward(dy).shape == x.shape  # no other pass came after it


def test_a_prediction_whose_backward_is_asked_for_waits_beside_the_training_pass() -> None:
    x, dy = _x(dtype=np.float64), _x(seed=3, dtype=np.float64)
    layer = MAKE["BatchNorm"]()
    layer(x)
    layer.eval()
    _, context = layer.forward(x, return_context=True)
    np.testing.assert_array_equal(
        layer.backward(dy, context=context), functional.batch_norm_inference_backward(dy, context)[0]
    )
    layer(x, keep_x=True)
    with pytest.raises(RuntimeError, match="2 forward passes"):
        layer.backward(dy)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["a step in place", "another array", "load_state_dict"])
def test_a_gamma_that_changes_between_forward_and_backward_does_not_change_the_gradient(
    training: bool, change: str
) -> None:
    x, dy = _x(), _x(seed=3)
    layer, twin = normdrop.BatchNorm(3), normdrop.BatchNorm(3)
    for each in (layer, twin):
        each.training = training
        each(x, keep_x=not training)
    if change == "a step in place":
        layer.gamma -= np.float32(0.5)
    elif change == "another array":
        layer.gamma = np.full(3, 7.0, np.float32)
    else:
        layer.load_state_dict(layer.state_dict() | {"gamma": np.zeros(3), "running_var": np.full(3, 9.0)})
    np.testing.assert_array_equal(layer.backward(dy), twin.backward(dy))
    np.testing.assert_array_equal(layer.dgamma, twin.dgamma)
    np.testing.assert_array_equal(layer.dbeta, twin.dbeta)


def test_gradients_of_a_shared_layer_accumulate_when_asked_and_are_overwritten_by_default() -> None:
    layer = MAKE["BatchNorm"]()
    xs, dy = [_x(seed=seed, dtype=np.float64) for seed in (1, 2)], _x(seed=3, dtype=np.float64)
    contexts = [layer.forward(x, return_context=True)[1] for x in xs]
    parts = [functional.batch_norm_backward(dy, context)[1:] for context in contexts]
    held = None
    for context in contexts:
        layer.backward(dy, context=context, accumulate=True)
        held = layer.dgamma if held is None else held
    np.testing.assert_array_equal(layer.dgamma, parts[0][0] + parts[1][0])
    np.testing.assert_array_equal(layer.dbeta, parts[0][1] + parts[1][1])
    np.testing.assert_array_equal(held, parts[0][0])  # what a caller holds does not change
    layer.eval()(xs[0])
    layer.backward(dy, accumulate=True)  # without x there is nothing to add
    np.testing.assert_array_equal(layer.dgamma, parts[0][0] + parts[1][0])
    layer.backward(dy, context=contexts[1])
    np.testing.assert_array_equal(layer.dgamma, parts[1][0])
    with pytest.raises(TypeError, match="accumulate must be"):
        layer.backward(dy, context=contexts[1], accumulate=1)


def test_a_context_holds_x_by_reference_and_everything_else_as_a_copy() -> None:
    x, gamma = _x(), np.ones(3, np.float32)
    mean, var = np.zeros(3), np.ones(3)
    trained = functional.batch_norm(x, gamma)[1]
    inferred = functional.batch_norm_inference(x, mean, var, gamma, keep_x=True)[1]
    for context in (trained, inferred):
        assert context.x is x
        for values in context:
            if values is not x and isinstance(values, np.ndarray):
                assert not any(np.shares_memory(values, other) for other in (x, gamma, mean, var))


@pytest.mark.parametrize("name", list(MAKE))
def test_each_thread_has_a_pending_pass_of_its_own(name: str) -> None:
    layer, x = MAKE[name](), _x(dtype=np.float64)
    layer.forward(x, return_context=True)  # waits nowhere
    layer(x)
    seen: list[str] = []

    def other() -> None:
        try:
            layer.backward(x)
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert "in the same thread" in seen[0]
    assert layer.backward(x).shape == x.shape


@pytest.mark.parametrize("name", list(MAKE))
def test_an_empty_batch_that_has_no_backward_is_in_nobodys_way(name: str) -> None:
    layer, x = MAKE[name](), _x(dtype=np.float64)
    layer(x[:0])
    assert layer.backward(x[:0]).shape == (0, 3)
    layer(x[:0])
    layer(x)
    layer(x[:0])
    assert layer.backward(x).shape == x.shape


def test_a_forgotten_pass_lets_go_of_its_input() -> None:
    layer = normdrop.BatchNorm(3)
    x = _x()
    held = weakref.ref(x)
    layer(x)
    del x
    assert held() is not None
    layer.forget()
    assert held() is None
    assert copy.copy(layer).num_batches == 1
