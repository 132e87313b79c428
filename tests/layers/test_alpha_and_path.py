"""The layers AlphaDropout, FeatureAlphaDropout and DropPath."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

X = np.random.default_rng(0).normal(size=(6, 5, 4, 4)).astype(np.float32)
LAYERS: dict[str, Any] = {
    "AlphaDropout": lambda: normdrop.AlphaDropout(0.4, mean=0.1, var=2.0, rng=1),
    "FeatureAlphaDropout": lambda: normdrop.FeatureAlphaDropout(0.4, channel_axis=-1, rng=1),
    "DropPath": lambda: normdrop.DropPath(0.4, rng=1),
    "DropPath, batch": lambda: normdrop.DropPath(0.4, mode="batch", scaling="original", rng=1),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_copies_draw_the_same_masks_and_inference_draws_none(name: str) -> None:
    layer = LAYERS[name]()
    copy = pickle.loads(pickle.dumps(layer))
    y = layer(X)
    np.testing.assert_array_equal(copy(X), y)
    np.testing.assert_array_equal(layer.backward(X), copy.backward(X))
    call = layer.stream.call
    factor = np.float32(0.6) if name.endswith("batch") else np.float32(1)
    np.testing.assert_allclose(layer.eval()(X), factor * X, rtol=1e-6)
    assert layer.stream.call == call
    other = LAYERS[name]()
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(X), layer.train()(X))
    assert repr(layer).startswith(name.split(",", maxsplit=1)[0] + "(p=0.4")


def test_alpha_dropout_is_the_function() -> None:
    layer = LAYERS["AlphaDropout"]()
    y, context = functional.alpha_dropout(X, 0.4, mean=0.1, var=2.0, rng=layer.stream.copy())
    np.testing.assert_array_equal(layer(X), y)
    np.testing.assert_array_equal(layer.backward(X), functional.alpha_dropout_backward(X, context))


def test_features_are_dropped_whole_along_their_axis() -> None:
    y = normdrop.FeatureAlphaDropout(0.5, channel_axis=-1, rng=2)(X)
    constant = np.float32(functional._alpha_dropout.law_of(0.5, 0.0, 1.0)[2][2])
    dropped = y == constant
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1, :1], X.shape))


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_paths_are_dropped_by_rows_at_the_rate_p_and_the_expectation_stays(scaling: Any) -> None:
    layer = normdrop.DropPath(0.25, scaling=scaling, rng=3)
    y = layer(np.ones((40_000, 2), np.float32))
    kept = y[:, 0] != 0
    np.testing.assert_array_equal(y[:, 0], y[:, 1])
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 40_000)
    factor = 1 / 0.75 if scaling == "inverted" else 1.0
    np.testing.assert_allclose(y[kept], factor, rtol=1e-6)


def test_a_path_is_dropped_for_the_whole_batch_or_not_at_all() -> None:
    layer = normdrop.DropPath(0.5, mode="batch", rng=4)
    seen = [np.unique(layer(np.ones((8, 3)))).tolist() for _ in range(20)]
    assert sorted(map(tuple, {tuple(one) for one in seen})) == [(0.0,), (2.0,)]


def test_rows_have_the_masks_of_their_ids() -> None:
    ids = np.arange(100)
    layer = normdrop.DropPath(0.5, rng=MaskStream.from_key((1, 2)))
    y = layer.forward(np.ones((100, 2)), sample_ids=ids)
    layer.stream.call = 0
    np.testing.assert_array_equal(layer.forward(np.ones((50, 2)), sample_ids=ids[50:]), y[50:])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: normdrop.DropPath(0.5, mode="rows"), ValueError, "mode must"),
        (lambda: normdrop.DropPath(0.5)(np.array(1.0)), ValueError, "no axis"),
        (lambda: normdrop.AlphaDropout(0.5, var=-1.0), ValueError, "var must be positive"),
        (
            lambda: normdrop.DropPath(0.5, mode="batch").forward(np.ones((2, 2)), sample_ids=np.arange(2)),
            ValueError,
            "all samples at once",
        ),
        (
            lambda: normdrop.FeatureAlphaDropout(0.5, channel_axis=0).forward(np.ones((2, 2)), sample_ids=np.arange(2)),
            ValueError,
            "channels",
        ),
    ],
    ids=["mode", "rank", "var", "ids", "channels"],
)
def test_bad_input_is_refused(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()
