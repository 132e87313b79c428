"""Moments through dropout and a linear map, and through batch norm, are those over all masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import normdrop
from normdrop import fast

from ..gradcheck import check_pass

pytestmark = pytest.mark.same


def over_all_masks(values, weight, bias, p):
    """Mean and variance of (mask · values / q) · weight + bias, with inputs that take each of two values at a half.

    `values` has shape (2, D); p is a multiple of 2**-32.
    """
    n = values.shape[1]
    mean, second = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for mask in itertools.product((0, 1), repeat=n):
        chance = math.prod(1 - p if kept else p for kept in mask) / 2**n
        for which in itertools.product((0, 1), repeat=n):
            y = (values[which, range(n)] * mask / (1 - p)) @ weight + bias
            mean, second = mean + chance * y, second + chance * y * y
    return mean, second - mean**2


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_moments_of_a_linear_map_are_those_over_all_masks(p):
    rng = np.random.default_rng(1)
    x, spread = rng.normal(size=4), rng.uniform(0.1, 2, size=4)
    weight, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    realized = round(p * 2**32) / 2**32
    moments, _ = fast.linear(fast.Moments(x[np.newaxis], spread[np.newaxis] ** 2), weight, bias, p=p)
    mean, var = over_all_masks(np.stack([x - spread, x + spread]), weight, bias, realized)
    np.testing.assert_allclose(moments.mean[0], mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var[0], var, rtol=1e-12)
    moments, _ = fast.linear(fast.Moments(x[np.newaxis]), weight, bias, p=p)
    mean, var = over_all_masks(np.stack([x, x]), weight, bias, realized)
    np.testing.assert_allclose(moments.mean[0], mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var[0], var, rtol=1e-11, atol=1e-15)


def test_p_is_rounded_as_the_masks_are():
    x, weight = fast.Moments(np.array([[3.0]])), np.array([[1.0]])
    assert fast.linear(x, weight, p=1e-10)[0].var.tolist() == [[0.0]]  # no mask drops anything
    p = 0.3
    realized = round(p * 2**32) / 2**32
    assert fast.linear(x, weight, p=p)[0].var.item() == pytest.approx(9 * realized / (1 - realized), rel=1e-15)


def test_with_p_of_one_only_the_bias_is_left():
    x = fast.Moments(np.ones((2, 3)), np.ones((2, 3)))
    moments, context = fast.linear(x, np.ones((3, 2)), np.array([1.0, 2.0]), p=1.0)
    np.testing.assert_array_equal(moments.mean, [[1, 2], [1, 2]])
    np.testing.assert_array_equal(moments.var, np.zeros((2, 2)))
    gradients = fast.linear_backward(np.ones((2, 2)), np.ones((2, 2)), context)
    assert not any(np.any(one) for one in (gradients.mean, gradients.var, gradients.weight, gradients.p))
    np.testing.assert_array_equal(gradients.bias, [2, 2])


def stacked(moments):
    """Both moments as one array, so that one check of gradients serves both."""
    return np.stack([moments.mean, moments.var])


def run_linear(inputs):
    p = float(inputs["p"][0]) if "p" in inputs else 0.25
    moments, context = fast.linear(
        fast.Moments(inputs["mean"], inputs.get("var")), inputs["weight"], inputs.get("bias"), p=p
    )

    def backward(dy):
        found = fast.linear_backward(dy[0], dy[1], context)._asdict() | {"p": np.array([0.0])}
        return {name: found[name] for name in inputs if name != "p"}

    return stacked(moments), backward


@pytest.mark.parametrize("names", ["mean weight", "mean var weight bias"])
def test_gradients_of_a_linear_map_are_central_differences(names):
    rng = np.random.default_rng(2)
    shapes = {"mean": (3, 4), "var": (3, 4), "weight": (4, 2), "bias": (2,)}
    inputs = {name: rng.normal(size=shapes[name]) for name in names.split()}
    if "var" in inputs:
        inputs["var"] **= 2
    check_pass(run_linear, inputs)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.875])
def test_gradient_of_p_is_the_central_difference(p):
    rng = np.random.default_rng(3)
    x = fast.Moments(rng.normal(size=(3, 4)), rng.uniform(size=(3, 4)))
    weight, d_mean, d_var = rng.normal(size=(4, 2)), rng.normal(size=(3, 2)), rng.normal(size=(3, 2))

    def loss(p):
        moments, _ = fast.linear(x, weight, p=p)
        return np.sum(moments.mean * d_mean) + np.sum(moments.var * d_var)

    step = 2.0**-14  # p stays a multiple of 2**-32
    expected = (loss(p + step) - loss(p - step)) / (2 * step) if p else (loss(step) - loss(0.0)) / step
    found = fast.linear_backward(d_mean, d_var, fast.linear(x, weight, p=p)[1]).p
    assert found == pytest.approx(expected, rel=1e-5 if p else 1e-3)


def run_batch_norm(inputs):
    moments, context = fast.batch_norm_inference(
        fast.Moments(inputs["mean"], inputs["var"]),
        np.array([0.5, -1.0]),
        np.array([2.0, 0.1]),
        inputs["gamma"],
        inputs["beta"],
    )

    def backward(dy):
        return fast.batch_norm_inference_backward(dy[0], dy[1], context)._asdict()

    return stacked(moments), backward


@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 4)])
def test_gradients_through_batch_norm_are_central_differences(shape):
    rng = np.random.default_rng(4)
    inputs = {"mean": rng.normal(size=shape), "var": rng.uniform(size=shape), "gamma": rng.normal(size=2)}
    check_pass(run_batch_norm, inputs | {"beta": rng.normal(size=2)})


def test_batch_norm_of_known_values_is_that_of_the_layer_and_scales_variances():
    rng = np.random.default_rng(5)
    x = rng.normal(2, 3, size=(6, 4, 5))
    layer = normdrop.BatchNorm(5, channel_axis=-1, dtype=np.float64)
    layer.gamma[:], layer.beta[:] = rng.normal(size=5), rng.normal(size=5)
    layer.running_mean[:], layer.running_var[:] = rng.normal(size=5), rng.uniform(1, 9, size=5)
    var = rng.uniform(size=x.shape)
    moments, context = fast.batch_norm_inference(
        fast.Moments(x, var), layer.running_mean, layer.running_var, layer.gamma, layer.beta, channel_axis=-1
    )
    np.testing.assert_allclose(moments.mean, layer.eval()(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.var, var * layer.gamma**2 / (layer.running_var + 1e-5), rtol=1e-12)
    plain, context = fast.batch_norm_inference(fast.Moments(x), layer.running_mean, layer.running_var, channel_axis=2)
    assert not plain.var.any()
    gradients = fast.batch_norm_inference_backward(np.ones_like(x), None, context)
    assert gradients.var is None
    assert gradients.gamma.dtype == gradients.mean.dtype == np.float64


def test_float32_is_rounded_once():
    rng = np.random.default_rng(6)
    x = rng.normal(100, 1, size=(2, 5000)).astype(np.float32)
    var = rng.uniform(size=x.shape).astype(np.float32)
    weight, bias = rng.normal(size=(5000, 3)).astype(np.float32), np.float32([1, 2, 3])
    narrow, context = fast.linear(fast.Moments(x, var), weight, bias, p=0.25)
    wide = fast.Moments(x.astype(np.float64), var.astype(np.float64))
    exact, exact_context = fast.linear(wide, weight.astype(np.float64), bias.astype(np.float64), p=0.25)
    for got, expected in zip(narrow, exact, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected.astype(np.float32))
    sums = [math.fsum(float(a) * float(w) for a, w in zip(x[0], weight[:, k], strict=True)) for k in range(3)]
    np.testing.assert_allclose(narrow.mean[0], np.array(sums) + bias, rtol=2.0**-23)
    d_mean, d_var = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    for got, expected in zip(
        fast.linear_backward(d_mean, d_var, context)[:4],
        fast.linear_backward(d_mean.astype(np.float64), d_var.astype(np.float64), exact_context)[:4],
        strict=True,
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected.astype(np.float32))
