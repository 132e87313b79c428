"""Scale and shift that come with the batch, for all samples or for each; gradients with respect to what was given."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import BatchNorm, ConditionalBatchNorm, functional
from normdrop.convert import to_torch

from ..gradcheck import check_pass

pytestmark = pytest.mark.usefixtures("backend")

RNG = np.random.default_rng(0)
X, DY = RNG.normal(2.0, 3.0, (4, 3, 5)), RNG.normal(size=(4, 3, 5))
SAMPLES = RNG.normal(size=(2, 4, 3))
SAMPLES[0, 1, 2] = 0.0
ALL = RNG.normal(size=(2, 3))
VAR, MEAN = np.array([4.0, 9.0, 0.5]), np.array([1.0, 2.0, 3.0])
GIVEN = {"mean": MEAN, "var": VAR}


def reference(x: Any, gamma: Any, beta: Any, mean: Any = None, var: Any = None) -> Any:
    mean = x.mean(axis=(0, 2)) if mean is None else mean
    var = x.var(axis=(0, 2)) if var is None else var
    x_hat = (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
    return np.broadcast_to(gamma, (4, 3))[..., None] * x_hat + np.broadcast_to(beta, (4, 3))[..., None]


@pytest.mark.parametrize("statistics", [{}, GIVEN], ids=["batch", "given"])
@pytest.mark.parametrize(("gamma", "beta"), [(SAMPLES[0], SAMPLES[1]), (ALL[0], SAMPLES[1]), (SAMPLES[0], ALL[1])])
@pytest.mark.parametrize("axis", [1, 2])
def test_each_sample_has_its_own_scale_and_shift(axis: int, gamma: Any, beta: Any, statistics: Any) -> None:
    x = np.moveaxis(X, 1, axis)
    y, _ = functional.conditional_batch_norm(x, gamma, beta, channel_axis=axis, **statistics)
    np.testing.assert_allclose(np.moveaxis(y, axis, 1), reference(X, gamma, beta, **statistics), rtol=1e-11, atol=1e-12)


def test_one_scale_and_shift_for_all_is_batch_norm() -> None:
    y, context = functional.conditional_batch_norm(X, *ALL)
    plain, plain_context = functional.batch_norm(X, *ALL)
    np.testing.assert_array_equal(y, plain)
    for ours, theirs in zip(
        functional.conditional_batch_norm_backward(DY, context),
        functional.batch_norm_backward(DY, plain_context),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.bool_)
WEIGHTS = np.where(MASK, RNG.uniform(0.5, 2.0, MASK.shape), 0.0)
COUNTED = {"mask": {"mask": MASK}, "weights": {"weights": WEIGHTS}, "nothing": {"mask": np.zeros_like(MASK)}}


@pytest.mark.parametrize("masked", ["zero", "normalize", "keep"])
@pytest.mark.parametrize("which", COUNTED)
@pytest.mark.parametrize("axis", [1, 2])
def test_with_a_mask_or_weights_one_scale_and_shift_for_all_is_batch_norm(axis: int, which: str, masked: Any) -> None:
    how: dict[str, Any] = {"channel_axis": axis, "masked": masked} | COUNTED[which]
    x = X if masked == "normalize" else np.where(MASK[:, None] & (which != "nothing"), X, np.nan)
    x, dy = np.moveaxis(x, 1, axis), np.moveaxis(DY, 1, axis)
    y, context = functional.conditional_batch_norm(x, *ALL, **how)
    expected, plain = functional.batch_norm(x, *ALL, **how)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
    gradients, of_plain = (
        functional.conditional_batch_norm_backward(dy, context), functional.batch_norm_backward(dy, plain)
    )  # fmt: skip
    in_place = dy.copy()
    assert functional.conditional_batch_norm_backward(in_place, context, out=in_place)[0] is in_place
    np.testing.assert_array_equal(in_place, gradients[0])
    if which == "nothing" and masked == "normalize":
        assert np.isnan(y).all()
        return
    for ours, theirs in zip(gradients, of_plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    if which != "weights":
        y, context = functional.conditional_batch_norm(x, *ALL, mean=MEAN, var=VAR, **how)
        expected, by_given = functional.batch_norm_inference(x, MEAN, VAR, *ALL, keep_x=True, **how)
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
        gradients = functional.conditional_batch_norm_backward(dy, context)
        for ours, theirs in zip(gradients, functional.batch_norm_inference_backward(dy, by_given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_padding_and_weights_enter_the_layer_as_they_enter_batch_norm_and_its_scale_is_that_of_each_sample() -> None:
    layer, plain = ConditionalBatchNorm(3), BatchNorm(3, affine=False)
    for which in COUNTED.values():
        y = layer(X, gamma=SAMPLES[0], **which)
        expected = plain(X, **which) * SAMPLES[0][..., None]
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        layer.forget()
        plain.forget()
    assert all(np.array_equal(values, plain.state_dict()[name]) for name, values in layer.state_dict().items())


@pytest.mark.once
@pytest.mark.parametrize("statistics", [{}, GIVEN], ids=["batch", "given"])
@pytest.mark.parametrize("axis", [1, 2])
def test_gradients_are_central_differences_inputs_stay_and_nothing_is_aliased(axis: int, statistics: Any) -> None:
    which = {"mask": MASK[:, :2], "masked": "keep"} if statistics else {"weights": WEIGHTS[:, :2]}

    def run(inputs: Any) -> Any:
        y, context = functional.conditional_batch_norm(*inputs.values(), channel_axis=axis, **statistics)
        return y, lambda dy: dict(zip(inputs, functional.conditional_batch_norm_backward(dy, context), strict=True))

    x = np.moveaxis(X[..., :2], 1, axis).copy()
    check_pass(run, {"x": x, "gamma": SAMPLES[0], "beta": SAMPLES[1]})
    check_pass(run, {"x": x, "gamma": SAMPLES[0], "beta": ALL[1]})
    statistics = statistics | which
    check_pass(run, {"x": x, "gamma": SAMPLES[0], "beta": SAMPLES[1]})


@pytest.mark.parametrize("order", ["C", "F", "reversed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, 2])
def test_every_dtype_and_layout_in_place_and_into_out(axis: int, dtype: Any, order: str) -> None:
    x, dy = (np.moveaxis(v, 1, axis).astype(dtype) for v in (X, DY))
    x, dy = (v[::-1] if order == "reversed" else np.array(v, order=order) for v in (x, dy))
    layer, parameters = ConditionalBatchNorm(3, channel_axis=axis), dict(zip(("gamma", "beta"), SAMPLES, strict=True))
    y = layer(x, **parameters)
    dx, dgamma, dbeta = layer.backward(dy)
    bound = {np.float16: 2e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(np.moveaxis(y, axis, 1).astype(float), reference(
        np.moveaxis(x, axis, 1).astype(float), *SAMPLES), rtol=bound, atol=bound)  # fmt: skip
    assert y.dtype == dx.dtype == dtype
    assert dgamma.dtype == dbeta.dtype == np.float64
    inside, gradient = x.copy(order="K"), dy.copy(order="K")
    assert layer.forward(inside, out=inside, **parameters) is inside
    assert layer.backward(gradient, out=gradient)[0] is gradient
    np.testing.assert_array_equal(inside, y)
    np.testing.assert_array_equal(gradient, dx)


@pytest.mark.parametrize("how", [{}, {"momentum": None}, {"momentum": "population"}, {"debias": True}])
def test_running_statistics_are_those_of_batch_norm_and_inference_is_by_them(how: Any) -> None:
    layer, plain = ConditionalBatchNorm(3, **how), BatchNorm(3, affine=False, **how)
    for x in (X, X[::-1] + 1.0, X[:0]):
        layer.forward(x, gamma=SAMPLES[0, : len(x)], return_context=True)
        plain.forward(x, return_context=True)
    assert all(np.array_equal(values, plain.state_dict()[name]) for name, values in layer.state_dict().items())
    twin = pickle.loads(pickle.dumps(layer)).eval()
    expected = reference(X, *SAMPLES, layer.running_mean, layer.running_var)
    np.testing.assert_allclose(twin(X, gamma=SAMPLES[0], beta=SAMPLES[1]), expected, rtol=1e-11, atol=1e-12)
    dx, dgamma, dbeta = twin.backward(DY)
    assert (dgamma, dbeta) == (None, None)
    twin(X, gamma=SAMPLES[0], beta=SAMPLES[1], keep_x=True)
    np.testing.assert_array_equal(twin.backward(DY)[0], dx)
    layer.freeze()(X, gamma=SAMPLES[0], beta=SAMPLES[1])
    frozen = layer.backward(DY)
    np.testing.assert_array_equal(frozen[0], dx)
    np.testing.assert_allclose(frozen[2], DY.sum(axis=2), rtol=1e-12)
    assert list(layer.parameters()) == []


def test_an_empty_batch_has_gradients_of_zero() -> None:
    layer = ConditionalBatchNorm(3)
    y, context = layer.forward(X[:0], gamma=ALL[0], return_context=True)
    dx, dgamma, dbeta = layer.backward(DY[:0], context=context)
    assert y.shape == dx.shape == (0, 3, 5)
    assert not dgamma.any()
    assert not dbeta.any()
    assert layer.num_batches == 0


CALLS = [
    (lambda s: s.layer(X, gamma=SAMPLES[0, :2]), ValueError, "gamma must have shape (3,) or (4, 3)"),
    (lambda s: s.layer(X, beta=3.0), TypeError, "beta must be"),
    (lambda s: s.layer(X[:, :2]), ValueError, "num_features = 3"),
    (lambda s: s.layer(X[:1, :, :1]), ValueError, "one value per channel"),
    (lambda s: s.layer(s.bad, out=s.bad), FloatingPointError, "no finite mean"),
    (lambda s: s.layer(X, mask=MASK[:3]), ValueError, "mask must have the shape of x without its channels"),
    (lambda s: s.layer(X, mask=MASK & (np.arange(20).reshape(4, 5) == 0)), ValueError, "one position counts"),
    (lambda s: s.layer(X, mask=MASK, masked="drop"), ValueError, "masked must be"),
    (lambda s: s.frozen(X, weights=WEIGHTS), ValueError, "weights must be None by given statistics"),
    (lambda s: s.layer.backward(DY[:3], context=s.context), ValueError, "dy must have"),
    (lambda s: s.layer.backward(DY, context=s.context._replace(x=None)), ValueError, "context has no x"),
    (lambda s: s.layer.backward(DY, context=s.other), ValueError, "context is of a pass over 2 channels"),
    (lambda s: s.layer.backward(DY, context=3), TypeError, "context must be what"),
    (lambda s: setattr(s.layer, "reduce", len), ValueError, "reduce must be None"),
    (lambda s: functional.conditional_batch_norm(X, mean=MEAN), ValueError, "mean and var must both be given"),
    (lambda s: functional.conditional_batch_norm(X, mean=MEAN, var=-VAR), ValueError, "var must not be negative"),
    (lambda s: functional.conditional_batch_norm(X, channel_axis=0), ValueError, "must not be 0"),
    (lambda s: ConditionalBatchNorm(3, affine=True), TypeError, "affine must not be given"),
    (lambda s: to_torch(s.layer), TypeError, "plain BatchNorm"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_call_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: str) -> None:
    things = SimpleNamespace(layer=ConditionalBatchNorm(3, on_nonfinite="raise"))
    _, things.context = things.layer.forward(X, gamma=SAMPLES[0], return_context=True)
    _, things.other = functional.conditional_batch_norm(X[:, :2])
    things.frozen = ConditionalBatchNorm(3).freeze()
    things.bad = np.where(X.max() == X, np.nan, X)
    refused(things, call, error, words)
