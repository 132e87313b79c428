"""The layer of DropConnect: modes, contexts, gradients that are handed out, state, and many passes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import DropConnect, MaskStream, fast, functional

_RNG = np.random.default_rng(0)
X, WEIGHT, BIAS, DY = (_RNG.normal(size=shape).astype(np.float32) for shape in [(30, 7), (4, 7), (4,), (30, 4)])


def made(p: float = 0.3, **options: Any) -> DropConnect:
    return DropConnect(p, rng=MaskStream.from_key((1, 2), 3), **options)


@pytest.mark.parametrize("masks", ["sample", "batch"])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_training_and_backward_are_the_functions(backend: Any, masks: Any, scaling: Any) -> None:
    layer = made(masks=masks, scaling=scaling)
    options: dict[str, Any] = {"p": 0.3, "masks": masks, "scaling": scaling}
    y, context = functional.drop_connect(X, WEIGHT, BIAS, rng=layer.stream.copy(), **options)
    np.testing.assert_array_equal(layer(X, WEIGHT, BIAS), y)
    for given, expected in zip(layer.backward(DY), functional.drop_connect_backward(DY, context), strict=True):
        np.testing.assert_array_equal(given, expected)
    assert layer.stream.call == 4
    with pytest.raises(RuntimeError, match="forward pass"):
        layer.backward(DY)


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_inference_is_the_mean_network_draws_nothing_and_displaces_no_training_pass(scaling: Any) -> None:
    layer = made(scaling=scaling)
    layer(X, WEIGHT, BIAS)
    y = layer.eval()(X, WEIGHT, BIAS)
    factor = 1.0 if scaling == "inverted" else 1.0 - round(0.3 * 2**32) / 2**32
    np.testing.assert_allclose(y, factor * (X @ WEIGHT.T) + BIAS, rtol=1e-5, atol=1e-5)
    assert layer.stream.call == 4
    twin = made(scaling=scaling)
    twin(X, WEIGHT, BIAS)
    for given, expected in zip(layer.train().backward(DY), twin.backward(DY), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_several_passes_have_contexts_that_can_be_used_again() -> None:
    layer = made()
    first, second = (layer.forward(X, WEIGHT, BIAS, return_context=True)[1] for _ in range(2))
    gradients = [layer.backward(DY, context=context)[1] for context in (first, second, first)]
    np.testing.assert_array_equal(gradients[0], gradients[2])
    assert not np.array_equal(gradients[0], gradients[1])
    layer(X, WEIGHT)
    layer(X, WEIGHT)
    with pytest.raises(RuntimeError, match="2 forward passes"):
        layer.backward(DY)


def test_a_pass_without_connections_is_not_waited_for_and_takes_no_call() -> None:
    layer = made()
    y = layer(X[:0], WEIGHT, BIAS)
    assert (y.shape, layer.stream.call) == ((0, 4), 3)


def test_copies_pickles_and_files_go_on_with_the_same_masks(tmp_path: Path) -> None:
    layer = made(masks="batch", scaling="original")
    layer(X, WEIGHT)
    layer.save(tmp_path / "layer.npz")
    other = DropConnect(0.3, masks="batch", scaling="original")
    other.load(tmp_path / "layer.npz")
    twins = [copy.copy(layer), pickle.loads(pickle.dumps(layer)), other]
    assert {repr(twin) for twin in twins} == {repr(layer)}
    expected = layer(X, WEIGHT)
    for twin in twins:
        np.testing.assert_array_equal(twin(X, WEIGHT), expected)


def test_a_context_survives_pickling() -> None:
    layer = made()
    context = layer.forward(X, WEIGHT, BIAS, return_context=True)[1]
    again = pickle.loads(pickle.dumps(context))
    for given, expected in zip(layer.backward(DY, context=again), layer.backward(DY, context=context), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_passes_with_connections_dropped_scatter_as_fast_dropouts_moments_say() -> None:
    layer = made().eval()
    with normdrop.sampling([layer]):
        passes = np.stack([layer(X[:2], WEIGHT, BIAS) for _ in range(600)])
    assert not layer.training
    moments, _ = fast.linear(fast.Moments(X[:2]), WEIGHT.T, BIAS, p=0.3)
    assert moments.var is not None
    assert np.abs(passes.mean(axis=0) - moments.mean).max() < 5 * np.sqrt(moments.var.max() / 600)
    np.testing.assert_allclose(passes.var(axis=0), moments.var, rtol=0.35)


def test_a_bad_call_changes_neither_layer_nor_stream(refused: Any) -> None:
    layer = made()
    layer(X, WEIGHT, BIAS)
    things = SimpleNamespace(layer=layer, x=X.copy(), weight=WEIGHT.copy())
    refused(things, lambda s: s.layer(s.x, s.weight.T), ValueError, "weight")
    refused(things, lambda s: s.layer(s.x, s.weight, s.x), ValueError, "bias")
    refused(things, lambda s: s.layer.backward(DY[1:]), ValueError, "dy")
    refused(things, lambda s: setattr(s.layer, "p", -0.1), ValueError, "p must be")
    refused(things, lambda s: setattr(s.layer, "masks", "batch"), AttributeError, "masks is fixed")
    refused(things, lambda s: DropConnect(masks="samples"), ValueError, "masks")
