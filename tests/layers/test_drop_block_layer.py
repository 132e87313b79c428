"""The layers of DropBlock: modes, contexts, ranks, and the rate of a map."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import DropBlock1d, DropBlock2d, DropBlock3d, MaskStream, functional

X = np.random.default_rng(0).normal(size=(3, 4, 9, 8)).astype(np.float32)
DY = np.random.default_rng(1).normal(size=(3, 4, 9, 8)).astype(np.float32)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"block_size": (2, 3), "rate": "paper"},
    {"block_size": 3, "scaling": "expected", "shared_channels": True},
    {"block_size": 3, "channel_axis": -1},
]


def made(**options: Any) -> DropBlock2d:
    return DropBlock2d(0.3, rng=MaskStream.from_key((1, 2), 3), **options)


@pytest.mark.parametrize("options", OPTIONS, ids=[str(k) for k in range(len(OPTIONS))])
def test_training_and_backward_are_the_functions(options: dict[str, Any]) -> None:
    layer = made(**options)
    y, context = functional.drop_block(X, 0.3, **{"block_size": 7} | options, rng=layer.stream.copy())
    np.testing.assert_array_equal(layer(X), y)
    np.testing.assert_array_equal(layer.backward(DY), functional.drop_block_backward(DY, context))
    assert 0 < np.count_nonzero(y) < y.size
    assert layer.stream.call == 4
    with pytest.raises(RuntimeError, match="forward pass"):
        layer.backward(DY)


def test_inference_passes_on_and_draws_nothing() -> None:
    layer = made().eval()
    y = layer(X)
    np.testing.assert_array_equal(y, X)
    assert not np.shares_memory(y, X)
    assert layer.stream.call == 3
    np.testing.assert_array_equal(layer.backward(DY), DY)


def test_several_passes_have_contexts() -> None:
    layer = made(block_size=3)
    contexts = [layer.forward(X, return_context=True)[1] for _ in range(2)]
    first, second = (layer.backward(DY, context=context) for context in contexts)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layer.backward(DY, context=contexts[0]), first)


def test_p_may_follow_a_schedule() -> None:
    layer = made(block_size=3)
    shares = []
    for p in (0.0, 0.3, 1.0):
        layer.p = p
        shares.append(np.mean(layer.forward(X, return_context=True)[0] == 0))
    assert shares[0] == 0 < shares[1] < shares[2] == 1
    with pytest.raises(ValueError, match="p must"):
        layer.p = 1.5


@pytest.mark.parametrize("rate", ["exact", "paper"])
def test_the_rate_of_a_map_is_that_of_the_pass(rate: Any) -> None:
    layer = made(block_size=(3, 5), rate=rate)
    context = layer.forward(X, return_context=True)[1]
    assert layer.realized_p_of((9, 8)) == context.realized_p
    assert (abs(context.realized_p - 0.3) < 1e-8) == (rate == "exact")
    with pytest.raises(ValueError, match="block_size"):
        layer.realized_p_of((9, 8, 7))


@pytest.mark.parametrize("kind", [DropBlock1d, DropBlock2d, DropBlock3d])
def test_the_number_of_axes_is_checked(kind: Any) -> None:
    layer = kind(0.5, 2, rng=0)
    ndim = int(kind.__name__[-2]) + 2
    assert layer(np.ones((2,) * ndim)).shape == (2,) * ndim
    for wrong in (ndim - 1, ndim + 1):
        with pytest.raises(ValueError, match=f"{kind.__name__}.*DropBlock1d, DropBlock2d"):
            layer(np.ones((2,) * wrong))
    assert layer.stream.call == 1


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"p": -0.1}, ValueError, "p must"),
        ({"block_size": (2, 2, 2)}, ValueError, "block_size"),
        ({"block_size": -1}, ValueError, "block_size"),
        ({"channel_axis": 2}, ValueError, "channel_axis"),
        ({"rate": "gamma"}, ValueError, "rate"),
        ({"scaling": "inverted"}, ValueError, "scaling"),
        ({"shared_channels": None}, TypeError, "shared_channels"),
        ({"rng": "0"}, TypeError, "rng"),
    ],
    ids=[str(k) for k in range(8)],
)
def test_a_bad_option_is_refused_by_name(options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        DropBlock2d(**options)


def test_copies_and_pickles_and_saved_state_draw_the_same_masks() -> None:
    layer = made(block_size=3)
    layer(X)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), made(block_size=3)]
    twins[2].load_state_dict(layer.state_dict())
    expected = layer(X)
    for twin in twins:
        np.testing.assert_array_equal(twin(X), expected)
    assert "block_size=(3, 3)" in repr(layer)


def test_sampling_leaves_it_on() -> None:
    layer = made(block_size=3)
    layer.eval()
    with normdrop.sampling([layer]):
        assert np.any(layer(X) == 0)
    np.testing.assert_array_equal(layer(X), X)
