"""Dropout, forward and backward: values, modes, scalings, and when the stream moves (laws 2.3 and 2.4)."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

DTYPES = [np.float32, np.float64]
RATES = [0.0, 2.0**-32, 0.1, 0.25 + 2.0**-20, 0.5, 0.9, 1.0]


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def exact_scale(p):
    threshold = round(p * 2**32)
    return 1 / (1 - threshold / 2**32) if threshold < 2**32 else 0.0


def is_plus_zero(values):
    return bool(np.all(values == 0)) and not np.signbit(values).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", RATES)
def test_inverted_training_scales_what_is_kept_and_zeroes_the_rest(backend, p, dtype):
    x = normal(37, 11, dtype=dtype)
    y, context, mask = functional.dropout(x, p, rng=1, return_mask=True)
    assert y.dtype == dtype
    assert mask.dtype == np.bool_
    assert context.scale == exact_scale(p)
    assert np.array_equal(y, np.where(mask, x * dtype(exact_scale(p)), dtype(0)))
    assert is_plus_zero(y[~mask])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", RATES)
def test_original_training_only_masks(backend, p, dtype):
    x = normal(37, 11, dtype=dtype)
    y, _, mask = functional.dropout(x, p, scaling="original", rng=1, return_mask=True)
    assert np.array_equal(y, np.where(mask, x, dtype(0)))
    assert is_plus_zero(y[~mask])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", RATES)
def test_inverted_inference_is_the_identity_in_a_new_array(backend, p, dtype):
    x = normal(37, 11, dtype=dtype)
    x[0, :3] = np.nan, -0.0, np.inf
    y = normdrop.Dropout(p).eval()(x)
    assert y.tobytes() == x.tobytes()
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", RATES)
def test_original_inference_multiplies_by_the_realized_probability_of_keeping(backend, p, dtype):
    x = normal(37, 11, dtype=dtype)
    keep_prob = 1 - round(p * 2**32) / 2**32
    layer = normdrop.Dropout(p, scaling="original").eval()
    y = layer(x)
    assert np.array_equal(y, x * dtype(keep_prob))
    assert not np.shares_memory(x, y)
    assert np.array_equal(layer.backward(x), y)


@pytest.mark.parametrize("scaling", ["inverted", "original"])
@pytest.mark.parametrize("shared_axes", [(), (1,), (0,), (0, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_nan_and_inf_disappear_forward_and_backward(backend, dtype, shared_axes, scaling):
    x = np.empty((6, 50, 7), dtype)
    x[...] = np.array([np.nan, np.inf, -np.inf, -0.0, -1.0, np.finfo(dtype).max, -np.finfo(dtype).tiny], dtype)
    stream = MaskStream(2)
    options = {"shared_axes": shared_axes, "scaling": scaling}
    with np.errstate(over="ignore"):
        y, context, mask = functional.dropout(x, 0.5, rng=stream, return_mask=True, **options)
        by_caller, by_context = functional.dropout(x, 0.5, mask=mask, **options)
        results = y, by_caller, functional.dropout_backward(x, context), functional.dropout_backward(x, by_context)
        expected = x * dtype(1 if scaling == "original" else 2)
    dropped = ~np.broadcast_to(mask, x.shape)
    for result in results:
        assert is_plus_zero(result[dropped])
        assert np.array_equal(result[~dropped], expected[~dropped], equal_nan=True)
        assert np.array_equal(np.signbit(result[~dropped]), np.signbit(expected[~dropped]))


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_p_1_gives_plus_zero_everywhere_forward_and_backward(backend, scaling):
    x = np.array([np.nan, np.inf, -1.0, -0.0], np.float32)
    layer = normdrop.Dropout(1.0, scaling=scaling)
    assert is_plus_zero(layer(x))
    assert is_plus_zero(layer.backward(x))


@pytest.mark.parametrize("p", RATES)
def test_backward_applies_the_mask_and_scale_of_the_forward_pass(backend, p):
    for scaling in ("inverted", "original"):
        layer = normdrop.Dropout(p, scaling=scaling, rng=4)
        mask = layer(np.ones((40, 9))) != 0
        dy = normal(40, 9, dtype=np.float64)
        scale = exact_scale(p) if scaling == "inverted" else 1.0
        assert np.array_equal(layer.backward(dy), np.where(mask, dy * scale, 0))


def test_backward_is_the_vector_jacobian_product_of_the_forward_pass(backend):
    for shared_axes in ((), (1,), (0, 2)):
        x, dy = normal(4, 3, 5, dtype=np.float64), normal(4, 3, 5, dtype=np.float64, seed=1)
        stream = MaskStream(9)
        dx = functional.dropout_backward(dy, functional.dropout(x, 0.4, shared_axes=shared_axes, rng=stream.copy())[1])
        for place in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[place] = 0.5
            after, before = (
                functional.dropout(x + sign * step, 0.4, shared_axes=shared_axes, rng=stream.copy())[0]
                for sign in (1, -1)
            )
            assert np.sum((after - before) * dy) == pytest.approx(dx[place], rel=1e-12, abs=1e-12)


def test_backward_of_a_context_can_be_repeated_and_keeps_no_mask(backend):
    x = normal(64, 64)
    y, context = functional.dropout(x, 0.5, rng=3)
    assert context.mask is None
    assert np.array_equal(functional.dropout_backward(x, context), y)
    assert np.array_equal(functional.dropout_backward(x, context), y)


def test_every_training_pass_takes_a_new_mask(backend):
    layer, x = normdrop.Dropout(0.5, rng=0), np.ones(200, np.float32)
    results = [layer(x).tobytes() for _ in range(20)]
    assert len(set(results)) == 20
    assert layer.stream.call == 20


def test_backward_uses_the_forward_pass_after_those_that_were_forgotten(backend):
    layer, x = normdrop.Dropout(0.5, rng=0), np.ones(200, np.float32)
    layer(x)
    layer.forget()
    y = layer(x)
    assert np.array_equal(layer.backward(x), y)


def test_backward_belongs_to_the_mode_and_p_of_its_forward_pass(backend):
    layer, x = normdrop.Dropout(0.5, rng=0), np.ones(200, np.float32)
    y = layer(x)
    layer.eval()
    layer.p = 0.1
    assert np.array_equal(layer.backward(x), y)
    layer(x)
    layer.train()
    assert np.array_equal(layer.backward(x), x)


def test_inference_draws_nothing_and_moves_nothing(backend):
    layer, x = normdrop.Dropout(0.5, rng=0), np.ones(200, np.float32)
    first = layer(x)
    layer.forget()
    layer.eval()
    for _ in range(3):
        np.testing.assert_array_equal(layer.backward(layer(x)), x)
    assert layer.stream == MaskStream.from_key(MaskStream(0).key, 1)
    layer.stream.call = 0
    assert np.array_equal(layer.train()(x), first)


def test_p_0_and_p_1_take_a_call_like_any_other_p(backend):
    layer = normdrop.Dropout(0.5, rng=0)
    for p in (0.0, 1.0):
        layer.p = p
        layer(np.ones(5))
    assert layer.stream.call == 2


def test_p_may_be_any_real_number_and_changed_later(backend):
    from fractions import Fraction

    x = np.ones(100)
    expected = functional.dropout(x, 0.25, rng=0)[0]
    for p in (np.float32(0.25), np.float64(0.25), Fraction(1, 4)):
        assert np.array_equal(functional.dropout(x, p, rng=0)[0], expected)
    layer = normdrop.Dropout(1, rng=0)
    layer.p = Fraction(1, 4)
    assert layer.p == 0.25
    assert np.array_equal(layer(x), expected)


def test_a_pass_that_fails_leaves_the_stream_and_the_layer_as_they_were(monkeypatch):
    layer, x = normdrop.Dropout(0.5, rng=0), np.ones(200, np.float32)
    y = layer(x)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(normdrop._backend.contracts, "select", fail)
        with pytest.raises(MemoryError):
            layer(x)
        assert layer.stream.call == 1
        with pytest.raises(MemoryError):
            layer.backward(x)
    assert np.array_equal(layer.backward(x), y)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_an_empty_input_gives_an_empty_output_and_takes_no_call(backend, shape):
    for scaling in ("inverted", "original"):
        for shared_axes in ((), (0,)):
            layer = normdrop.Dropout(0.5, shared_axes=shared_axes, scaling=scaling, rng=0)
            x = np.empty(shape, np.float32)
            y = layer(x)
            assert (y.shape, y.dtype) == (shape, x.dtype)
            assert layer.backward(x).shape == shape
            assert layer.eval()(x).shape == shape
            assert layer.stream.call == 0
            out = np.empty(shape, np.float32)
            assert layer.train()(x, out=out) is out


def test_a_0_d_input_is_one_element(backend):
    for dtype in DTYPES:
        seen = set()
        layer = normdrop.Dropout(0.5, rng=0)
        for _ in range(20):
            y = layer(np.array(3.0, dtype))
            assert isinstance(y, np.ndarray)
            assert (y.shape, y.dtype) == ((), dtype)
            seen.add(float(y))
            assert layer.backward(np.array(1.0, dtype)) * 3 == y
        assert seen == {0.0, 6.0}


def test_modes_are_switched_by_train_and_eval_which_return_the_layer():
    layer = normdrop.Dropout()
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert list(layer.parameters()) == []


def test_calling_a_layer_is_forward(backend):
    x, out = np.ones(50), np.empty(50)
    first, second = normdrop.Dropout(rng=0), normdrop.Dropout(rng=0)
    assert np.array_equal(first(x), second.forward(x))
    assert first(x, out=out) is out
    assert np.array_equal(out, second.forward(x))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copied_layer_goes_on_alike_and_apart(backend, clone):
    layer, x = normdrop.Dropout2d(0.4, channel_axis=-1, scaling="original", rng=3), np.ones((3, 2, 2, 50))
    layer(x)
    twin = clone(layer)
    assert np.array_equal(twin(x), layer(x))
    twin(x)
    assert (layer.stream.call, twin.stream.call) == (2, 3)


def test_a_layer_may_be_used_twice_in_a_model(backend):
    """Backward of the last use first, as in any chain; the first use keeps its context through the functional form."""
    x, stream = normal(30, dtype=np.float64), MaskStream(0)
    hidden, first = functional.dropout(x, 0.5, rng=stream)
    y, second = functional.dropout(hidden, 0.5, rng=stream)
    dx = functional.dropout_backward(functional.dropout_backward(np.ones(30), second), first)
    assert (first.call, second.call) == (0, 1)
    assert np.array_equal(dx * x, y)
    layer = normdrop.Dropout(0.5, rng=0)
    assert np.array_equal(layer(layer(x)), y)
