"""The layer of concrete dropout: modes, contexts, the learned logit, its regularization and its state."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import ConcreteDropout, MaskStream, functional

X = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
DY = np.random.default_rng(1).normal(size=(30, 7)).astype(np.float32)


def made(p: float = 0.3, **options: Any) -> ConcreteDropout:
    return ConcreteDropout(p, rng=MaskStream.from_key((1, 2), 3), **options)


def test_training_and_backward_are_the_functions(backend: Any) -> None:
    layer = made(temperature=0.2)
    y, context = functional.concrete_dropout(X, float(layer.logit), temperature=0.2, rng=layer.stream.copy())
    dx, dlogit = functional.concrete_dropout_backward(DY, context)
    np.testing.assert_array_equal(layer(X), y)
    np.testing.assert_array_equal(layer.backward(DY), dx)
    assert layer.dlogit is not None
    assert (layer.dlogit.shape, layer.dlogit.dtype, float(layer.dlogit)) == ((), np.float64, dlogit)
    assert layer.stream.call == 4
    with pytest.raises(RuntimeError, match="forward pass"):
        layer.backward(DY)


def test_inference_passes_on_and_draws_nothing(backend: Any) -> None:
    layer = made().eval()
    y = layer(X)
    np.testing.assert_array_equal(y, X)
    assert not np.shares_memory(y, X)
    assert layer.stream.call == 3
    np.testing.assert_array_equal(layer.backward(DY), DY)
    assert layer.dlogit is not None
    assert float(layer.dlogit) == 0.0


def test_several_passes_have_contexts_and_their_gradients_add_up() -> None:
    layer = made()
    first, second = (layer.forward(X, return_context=True)[1] for _ in range(2))
    gradients = []
    for context in (first, second, first):
        layer.backward(DY, context=context)
        assert layer.dlogit is not None
        gradients.append(float(layer.dlogit))
    assert gradients[0] == gradients[2] != gradients[1]
    layer.backward(DY, context=second, accumulate=True)
    assert layer.dlogit is not None
    assert float(layer.dlogit) == gradients[0] + gradients[1]


def test_out_is_written_and_may_be_the_input() -> None:
    expected, x = made()(X), X.copy()
    layer = made()
    assert layer(x, out=x) is x
    np.testing.assert_array_equal(x, expected)
    dy = DY.copy()
    assert layer.backward(dy, out=dy) is dy


def test_p_and_its_logit_are_one_number() -> None:
    layer = made(0.3)
    assert layer.p == pytest.approx(0.3, rel=1e-15)
    assert float(layer.logit) == pytest.approx(math.log(0.3 / 0.7), rel=1e-15)
    layer.logit -= 1.0
    assert layer.p == pytest.approx(1 / (1 + math.exp(1 - math.log(0.3 / 0.7))))
    kept = layer.logit
    layer.p = 1e-12
    assert layer.logit is kept
    assert layer.p == pytest.approx(1e-12, rel=1e-14)


def test_an_optimizer_changes_the_logit_in_place() -> None:
    layer = made()
    layer(X)
    assert [gradient for *_, gradient in layer.parameters()] == [None]
    layer.backward(DY)
    (name, value, gradient), before = next(iter(layer.parameters())), float(layer.logit)
    assert name == "logit"
    assert gradient is not None
    np.subtract(value, 0.1 * gradient, out=value)
    assert float(layer.logit) == before - 0.1 * float(gradient)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("p", 0.0, ValueError),
        ("p", 1.0, ValueError),
        ("p", "half", TypeError),
        ("temperature", 0.0, ValueError),
        ("weight_regularizer", -1.0, ValueError),
        ("dropout_regularizer", math.inf, ValueError),
        ("logit", 0.5, TypeError),
        ("logit", np.zeros(1), TypeError),
        ("logit", np.zeros((), np.float32), TypeError),
        ("dlogit", 0.5, TypeError),
        ("stream", 3, TypeError),
        ("temprature", 0.5, AttributeError),
    ],
)
def test_a_bad_option_is_refused_by_name(refused: Any, name: str, value: Any, error: type[Exception]) -> None:
    refused(SimpleNamespace(layer=made()), lambda s: setattr(s.layer, name, value), error, name)
    if name in ("p", "temperature", "weight_regularizer", "dropout_regularizer"):
        with pytest.raises(error, match=name):
            ConcreteDropout(**{name: value})


def test_a_logit_that_an_optimizer_led_too_far_is_refused_by_name(refused: Any) -> None:
    for bad in (math.nan, 1e4):
        layer = made()
        layer.logit[...] = bad
        refused(SimpleNamespace(layer=layer), lambda s: s.layer(X), ValueError, "logit")


def test_state_goes_into_a_dictionary_a_file_and_another_layer(tmp_path: Path) -> None:
    layer = made(0.2)
    layer(X)
    other = ConcreteDropout()
    other.load_state_dict(layer.state_dict())
    layer.save(tmp_path / "state.npz")
    third = ConcreteDropout()
    third.load(tmp_path / "state.npz")
    expected = layer(X)
    for twin in (other, third):
        assert float(twin.logit) == float(layer.logit)
        np.testing.assert_array_equal(twin(X), expected)
    assert [(n, v.shape, v.dtype.name) for n, v in layer.state_dict().items()] == [
        ("logit", (), "float64"),
        ("key", (2,), "uint32"),
        ("call", (), "int64"),
    ]
    assert not np.shares_memory(layer.state_dict()["logit"], layer.logit)


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"logit": np.zeros(1)}, ValueError, "logit"),
        ({"logit": np.array(1)}, TypeError, "logit"),
        ({"logit": np.array(math.nan)}, ValueError, "logit"),
        ({"logit": np.array(1e3)}, ValueError, "logit"),
        ({"call": np.array(-1)}, ValueError, "call"),
        ({"key": np.zeros(3, np.uint32)}, ValueError, "key"),
        ({"more": np.zeros(1)}, ValueError, "more"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    refused: Any, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    state = made(0.7).state_dict() | changes
    refused(SimpleNamespace(layer=made()), lambda s: s.layer.load_state_dict(state), error, word)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_draw_the_same_and_share_nothing_and_children_draw_others(duplicate: Any) -> None:
    layer = made()
    layer(X)
    twin, child = duplicate(layer), layer.spawn(1)[0]
    layer.stream.call -= 1  # spawning took one
    expected = layer(X)
    np.testing.assert_array_equal(twin(X), expected)
    assert not np.shares_memory(twin.logit, layer.logit)
    assert not np.array_equal(child(X), expected)
    assert child.p == layer.p


def test_repr_says_what_the_layer_is() -> None:
    assert repr(made(0.25)).startswith("ConcreteDropout(p=0.25, temperature=0.1, weight_regularizer=1e-06")
    assert "call=3" in repr(made())


# Regularization.


def test_regularization_is_the_papers_formula_and_its_gradients_are_the_derivatives() -> None:
    weight = np.random.default_rng(2).normal(size=(5, 3))
    options = {"weight_regularizer": 0.02, "dropout_regularizer": 0.3}
    for p in (1e-6, 0.1, 0.5, 0.8, 1 - 1e-6):
        layer = made(p, **options)
        entropy = p * math.log(p) + (1 - p) * math.log(1 - p)
        for axis, n_inputs in ((0, 5), (-1, 3)):
            expected = 0.02 * (weight**2).sum() / (1 - p) + 0.3 * n_inputs * entropy
            assert layer.regularization(weight, input_axis=axis) == pytest.approx(expected, rel=1e-9)
            dweight, dlogit = layer.regularization_gradients(weight, input_axis=axis)
            values = []
            for step in (1e-5, -1e-5):
                moved = made(p, **options)
                moved.logit[...] = layer.logit + step
                values.append(moved.regularization(weight, input_axis=axis))
            assert dlogit == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-9)
            np.testing.assert_allclose(dweight, 2 * 0.02 * weight / (1 - p), rtol=1e-9)


def test_gradients_of_the_regularization_keep_the_weights_dtype_and_leave_them_unchanged() -> None:
    weight = np.ones((4, 2), np.float32)
    dweight, _ = made().regularization_gradients(weight)
    assert dweight.dtype == np.float32
    np.testing.assert_array_equal(weight, 1)
    with pytest.raises(ValueError, match="input_axis"):
        made().regularization(weight, input_axis=2)
    with pytest.raises(TypeError, match="weight"):
        made().regularization([[1.0]])  # type: ignore[arg-type]


@pytest.mark.jit
def test_p_is_learned_noise_that_hurts_falls_and_noise_that_is_free_grows_to_a_half() -> None:
    """Regression on inputs of which every one counts, and on such of which none does."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(256, 8))
    found = []
    for weight in (np.ones((8, 1)), np.zeros((8, 1))):
        layer = made(0.2, weight_regularizer=0.0, dropout_regularizer=1e-2)
        for _ in range(300):
            error = layer(x) @ weight - x @ weight
            layer.backward(2 * error / len(x) @ weight.T)
            assert layer.dlogit is not None
            layer.logit -= 0.5 * (layer.dlogit + layer.regularization_gradients(weight)[1])
        found.append(layer.p)
    assert found[0] < 0.02
    assert found[1] == pytest.approx(0.5, abs=0.05)


def test_the_name_is_public() -> None:
    assert normdrop.ConcreteDropout.__module__ == "normdrop"
    assert "ConcreteDropout" in normdrop.__all__
