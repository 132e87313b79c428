"""A p for each element: the mask law with a T of its own, exact factors, and the same bits from every backend."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _reference, functional

from ..gradcheck import check_pass

KEY, CALL = (3, 4), 5
X = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


def uniform(*shape: int) -> Any:
    return np.random.default_rng(1).choice([0.0, 0.2, 0.5, 0.9, 1.0], shape)


@pytest.mark.simulated
@pytest.mark.parametrize("shape", [(4, 6, 5), (6, 1), (4, 1, 1), (5,), (4, 1, 5)], ids=str)
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_elements_are_kept_where_their_number_is_t_or_more(backend: Any, shape: Any, scaling: Any) -> None:
    p = uniform(*shape)
    y, context, mask = functional.dropout(X, p, rng=stream(), scaling=scaling, return_mask=True)
    thresholds = np.broadcast_to(np.rint(p * 2.0**32), X.shape)
    kept = _reference.numbers(X.size, KEY, CALL).reshape(X.shape) > thresholds
    with np.errstate(divide="ignore"):
        scale = np.float32(1 / (1 - thresholds / 2**32)) if scaling == "inverted" else np.float32(1)
    np.testing.assert_array_equal(mask, kept)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y, np.where(kept, X * scale, 0))
    np.testing.assert_array_equal(functional.dropout_backward(X, context), y)


@pytest.mark.parametrize("axes", [(), (2,), (0,)], ids=str)
def test_the_same_p_everywhere_has_the_bits_of_the_number(backend: Any, axes: Any) -> None:
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(X.shape))
    for order, ids in (("C", None), ("F", None), ("C", np.arange(4))):
        x, ids = np.asarray(X, order=order), None if 0 in axes else ids
        given = {"shared_axes": axes, "sample_ids": ids, "return_mask": True}
        y, _, mask = functional.dropout(x, 0.3, rng=stream(), **given)
        z, _, same = functional.dropout(x, np.full(shape, 0.3), rng=stream(), **given)
        assert y.tobytes() == z.tobytes()
        np.testing.assert_array_equal(mask, same)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_kernels_have_the_bits_of_the_reference(backend: Any, dtype: Any) -> None:
    for shape in ((1, 300, 1), (7, 3, 1), (5, 4, 17), (1, 3, 700)):
        x, t = np.random.default_rng(2).normal(size=shape).astype(dtype), np.rint(uniform(shape[1]) * 2.0**32)
        for inverted in (True, False):
            y, expected = np.empty_like(x), np.empty_like(x)
            backend.dropout_varied(y, x, t, KEY, CALL, inverted)
            _reference.dropout_varied(expected, x, t, KEY, CALL, inverted)
            assert y.tobytes() == expected.tobytes(), shape


def test_gradients_are_the_derivatives_of_the_same_mask() -> None:
    def run(inputs: Any) -> Any:
        y, context = functional.dropout(inputs["x"], uniform(6, 1), rng=stream())
        return y, lambda dy: {"x": functional.dropout_backward(dy, context)}

    check_pass(run, {"x": X.astype(np.float64)})


def test_a_schedule_moves_with_training_passes_alone_and_is_saved() -> None:
    layer = normdrop.Dropout(lambda step: step / 8, rng=0)
    layer(X)
    layer(X)
    with pytest.raises(TypeError):
        layer(X, out=X.astype(np.float64))
    layer.eval()(X)
    with normdrop.sampling(layer):
        layer(X)
    assert (layer.step, layer.realized_p) == (2, 0.25)
    other = normdrop.Dropout(lambda step: step / 8, rng=1)
    other.load_state_dict(layer.state_dict())
    assert other.step == 2
    assert set(normdrop.Dropout(0.5).state_dict()) == {"key", "call"}


def test_a_layer_keeps_its_own_array_and_channels_have_one_number_each() -> None:
    p = np.array([0.0, 0.5, 1.0])
    layer = pickle.loads(pickle.dumps(normdrop.Dropout2d(p, rng=0)))
    p[:] = 1.0
    y = layer(np.ones((8, 3, 2, 2)))
    assert y[:, 0].all()
    assert not y[:, 2].any()
    np.testing.assert_array_equal(layer.realized_p, [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="channels"):
        layer(np.ones((8, 4, 2, 2)))


BAD = [
    (np.array([0.1, np.nan, 0.1, 0.1, 0.1]), ValueError, "(1,)"),
    (np.full(5, 1.5), ValueError, "1.5"),
    (np.full(4, 0.5), ValueError, "broadcast"),
    (np.ones(5, np.int64), TypeError, "p must have dtype"),
    (lambda step: 0.5, TypeError, "layers"),
]


@pytest.mark.parametrize(("p", "error", "word"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_bad_p_is_refused_and_changes_nothing(refused: Any, p: Any, error: Any, word: str) -> None:
    things = SimpleNamespace(x=X, rng=stream())
    refused(things, lambda s: functional.dropout(s.x, p, rng=s.rng), error, word)
