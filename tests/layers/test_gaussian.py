"""The layers of normal noise: modes, contexts and state."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import GaussianDropout, GaussianNoise, MaskStream, functional

X = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
LAYERS: Any = {"gaussian_dropout": GaussianDropout, "gaussian_noise": GaussianNoise}


def made(name: str) -> Any:
    return LAYERS[name](0.3, rng=MaskStream.from_key((1, 2), 3))


@pytest.mark.parametrize("name", list(LAYERS))
def test_training_and_backward_are_the_functions_and_inference_passes_on(backend: Any, name: str) -> None:
    layer = made(name)
    y, context = getattr(functional, name)(X, 0.3, rng=layer.stream.copy())
    np.testing.assert_array_equal(layer(X), y)
    np.testing.assert_array_equal(layer.backward(X), getattr(functional, f"{name}_backward")(X, context))
    assert layer.stream.call == 4
    with pytest.raises(RuntimeError, match="forward pass"):
        layer.backward(X)
    _, given = layer.forward(X, return_context=True)
    assert given.call == 4
    layer.backward(X, context=given)
    passed = layer.eval()(X)
    np.testing.assert_array_equal(passed, X)
    assert not np.shares_memory(passed, X)
    np.testing.assert_array_equal(layer.backward(X), X)
    assert layer.stream.call == 5


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_loaded_state_draw_the_same_and_children_others(name: str, duplicate: Any) -> None:
    layer, other = made(name), LAYERS[name](0.3)
    layer(X)
    other.load_state_dict(layer.state_dict())
    twin = duplicate(layer)
    expected = layer(X)
    np.testing.assert_array_equal(twin(X), expected)
    np.testing.assert_array_equal(other(X), expected)
    assert not np.array_equal(layer.spawn(1)[0](X), expected)


@pytest.mark.parametrize(("name", "option"), [("gaussian_dropout", "p"), ("gaussian_noise", "std")])
def test_options_are_checked_by_name_and_shown(refused: Any, name: str, option: str) -> None:
    assert repr(made(name)).startswith(f"{LAYERS[name].__name__}({option}=0.3, rng=MaskStream(")
    for bad, error in ((-1.0, ValueError), (float("nan"), ValueError), ("much", TypeError)):
        refused(SimpleNamespace(layer=made(name)), lambda s, b=bad: setattr(s.layer, option, b), error, option)
    with pytest.raises(ValueError, match="infinite" if option == "p" else "finite"):
        LAYERS[name](1.0 if option == "p" else float("inf"))
