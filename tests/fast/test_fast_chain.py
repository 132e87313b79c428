"""Chains of passes: moments beside sampled masks, gradients, and a classifier that is trained by them."""

from __future__ import annotations

import numpy as np
import pytest

from normdrop import fast, functional

from ..gradcheck import check_pass

pytestmark = pytest.mark.same
N = 100_000


def network(n_in=20, n_hidden=30, n_out=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "first": rng.normal(0, n_in**-0.5, size=(n_in, n_hidden)),
        "shift": rng.normal(size=n_hidden),
        "mean": rng.normal(size=n_hidden),
        "var": rng.uniform(0.5, 2, size=n_hidden),
        "gamma": rng.uniform(0.5, 1.5, size=n_hidden),
        "beta": rng.normal(size=n_hidden),
        "second": rng.normal(0, (2 / n_hidden) ** 0.5, size=(n_hidden, n_out)),
        "bias": rng.normal(size=n_out),
    }


def through(net, moments, p=(0.2, 0.5), activation="relu"):
    """Moments after each step of the network."""
    first, _ = fast.linear(moments, net["first"], net["shift"], p=p[0])
    normalized, _ = fast.batch_norm_inference(first, net["mean"], net["var"], net["gamma"], net["beta"])
    activated, _ = fast.activation(normalized, activation)
    last, _ = fast.linear(activated, net["second"], net["bias"], p=p[1])
    return first, normalized, activated, last


def within(moments, samples, n_errors=5.0):
    """Whether moments are those of samples to so many of their standard errors, or 1e-4, which rare values hide in."""
    mean, var = samples.mean(axis=0), samples.var(axis=0)
    squares = (samples - mean) ** 2
    near = np.abs(moments.mean[0] - mean) <= n_errors * np.sqrt(var / len(samples)) + 1e-4
    bound = n_errors * squares.std(axis=0) / np.sqrt(len(samples)) + 1e-4
    return near.all() and np.all(np.abs(moments.var[0] - var) <= bound)


@pytest.mark.jit
@pytest.mark.once
def test_a_chain_agrees_with_a_hundred_thousand_masks():
    """The first linear map exactly; the rest for values that are normal and independent, as they are taken to be."""
    net, rng = network(), np.random.default_rng(1)
    x = rng.normal(size=(1, 20))
    first, normalized, activated, last = through(net, fast.Moments(x))
    masked, _ = functional.dropout(np.repeat(x, N, axis=0), 0.2, rng=2)
    assert within(first, masked @ net["first"] + net["shift"])
    drawn = first.mean + np.sqrt(first.var) * rng.standard_normal((N, 30))
    drawn, _ = functional.batch_norm_inference(drawn, net["mean"], net["var"], net["gamma"], net["beta"])
    assert within(normalized, drawn)
    drawn = np.maximum(drawn, 0)
    assert within(activated, drawn)
    masked, _ = functional.dropout(drawn, 0.5, rng=3)
    assert within(last, masked @ net["second"] + net["bias"])
    assert not within(fast.Moments(last.mean, 1.05 * last.var), masked @ net["second"] + net["bias"])


@pytest.mark.jit
@pytest.mark.once
def test_masks_of_a_whole_network_differ_from_the_limit_by_a_fraction_of_their_spread():
    """What the normal and independent values of the limit are not, measured: less with more inputs."""
    worst = {}
    for n_in in (4, 64):
        net, x = network(n_in, 64, seed=3), np.random.default_rng(4).normal(size=(1, n_in))
        *_, last = through(net, fast.Moments(x))
        masked, _ = functional.dropout(np.repeat(x, N, axis=0), 0.2, rng=5)
        hidden = masked @ net["first"] + net["shift"]
        hidden, _ = functional.batch_norm_inference(hidden, net["mean"], net["var"], net["gamma"], net["beta"])
        masked, _ = functional.dropout(np.maximum(hidden, 0), 0.5, rng=6)
        samples = masked @ net["second"] + net["bias"]
        off = np.abs(last.mean[0] - samples.mean(axis=0)) / samples.std(axis=0)
        ratio = np.sqrt(last.var[0] / samples.var(axis=0))
        worst[n_in] = max(off.max(), np.abs(ratio - 1).max())
        assert off.max() < 0.1
        assert np.all((ratio > 0.75) & (ratio < 1.25))
    assert worst[64] < worst[4]


def run_network(inputs):
    labels = np.array([0, 2, 1, 2])
    moments, one = fast.linear(fast.Moments(inputs["x"], inputs["v"]), inputs["first"], inputs["shift"], p=0.25)
    moments, two = fast.batch_norm_inference(moments, RUNNING[0], RUNNING[1], inputs["gamma"], inputs["beta"])
    moments, three = fast.activation(moments, "tanh")
    moments, four = fast.linear(moments, inputs["second"], p=0.5)
    loss, gradients = fast.cross_entropy(moments, labels)

    def backward(dy):
        last = fast.linear_backward(*gradients, four)
        activated = fast.activation_backward(last.mean, last.var, three)
        normalized = fast.batch_norm_inference_backward(*activated, two)
        first = fast.linear_backward(normalized.mean, normalized.var, one)
        found = {"x": first.mean, "v": first.var, "first": first.weight, "shift": first.bias, "second": last.weight}
        found |= {"gamma": normalized.gamma, "beta": normalized.beta}
        return {name: dy[0] * values for name, values in found.items()}

    return np.array([loss]), backward


RUNNING = np.array([0.1, -0.2, 0.3, 0.0]), np.array([1.0, 2.0, 0.5, 1.5])


def test_gradients_through_a_network_are_central_differences(monkeypatch):
    from .. import gradcheck

    monkeypatch.setattr(gradcheck, "BOUND", 2e-6)
    rng = np.random.default_rng(7)
    shapes = {"x": (4, 3), "v": (4, 3), "first": (3, 4), "shift": (4,), "gamma": (4,), "beta": (4,), "second": (4, 3)}
    inputs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    inputs["v"] **= 2
    check_pass(run_network, inputs)


def test_known_inputs_and_p_of_zero_make_it_the_ordinary_network():
    net, x = network(), np.random.default_rng(8).normal(size=(5, 20))
    *_, last = through(net, fast.Moments(x), p=(0.0, 0.0))
    hidden, _ = functional.batch_norm_inference(
        x @ net["first"] + net["shift"], net["mean"], net["var"], net["gamma"], net["beta"]
    )
    np.testing.assert_allclose(last.mean, np.maximum(hidden, 0) @ net["second"] + net["bias"], rtol=1e-12, atol=1e-13)
    assert not last.var.any()


def test_a_classifier_is_trained_by_fast_dropout():
    """Three classes on rings, which no linear map divides; steps are along the gradient of the expected loss alone."""
    rng = np.random.default_rng(9)

    def rings(n):
        labels = rng.integers(3, size=n)
        angle, radius = rng.uniform(0, 2 * np.pi, n), 0.5 + labels + rng.normal(0, 0.1, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), labels

    (x, labels), (test, test_labels) = rings(150), rings(500)
    weights = [rng.normal(0, (2 / d) ** 0.5, size=(d, k)).astype(np.float32) for d, k in ((2, 48), (48, 3))]
    biases = [np.zeros(48, np.float32), np.zeros(3, np.float32)]
    losses = []
    for _ in range(150):
        moments, one = fast.linear(fast.Moments(x), weights[0], biases[0])
        moments, two = fast.activation(moments, "relu")
        moments, three = fast.linear(moments, weights[1], biases[1], p=0.3)
        loss, gradients = fast.cross_entropy(moments, labels)
        losses.append(loss)
        last = fast.linear_backward(*gradients, three)
        first = fast.linear_backward(*fast.activation_backward(last.mean, last.var, two), one)
        for value, gradient in zip(weights + biases, (first.weight, last.weight, first.bias, last.bias), strict=True):
            value -= 0.5 * gradient
    predicted = (np.maximum(test @ weights[0] + biases[0], 0) @ weights[1] + biases[1]).argmax(axis=1)
    assert losses[-1] < 0.5 * losses[0]
    assert np.mean(predicted != test_labels) < 0.1
