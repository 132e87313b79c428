"""Expected probabilities and losses are integrals over normal logits, whatever their number and spread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, roots_hermitenorm, softmax

from normdrop import fast
from normdrop.fast import _logits

from ..gradcheck import check_pass

pytestmark = pytest.mark.same


def integrals(mean, s, n_nodes=40):
    """E p, E p² and E log Σ exp z of one row, by a product of Gauss-Hermite rules."""
    nodes, weights = roots_hermitenorm(n_nodes)
    k = mean.size
    z = mean + s * np.array(list(itertools.product(nodes, repeat=k)))
    w = np.prod(list(itertools.product(weights / weights.sum(), repeat=k)), axis=1)
    p = softmax(z, axis=1)
    return w @ p, w @ p**2, w @ logsumexp(z, axis=1)


def loss_and_logsumexp(mean, var):
    labels = np.zeros(len(mean), int)
    loss, gradients = fast.cross_entropy(fast.Moments(mean, var), labels)
    return loss, loss + mean[:, 0].mean(), gradients


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("mean", [[0.0, 0.0, 0.0], [2.0, -1.0, 0.5], [9.0, 0.0, 8.0]])
def test_moments_of_three_classes_are_the_integrals_over_three_variables(mean, spread):
    mean, s = np.array(mean), spread * np.array([0.4, 1.0, 0.7])
    first, second, expected_loss = integrals(mean, s)
    result, _ = fast.softmax(fast.Moments(mean[np.newaxis], s[np.newaxis] ** 2))
    np.testing.assert_allclose(result.mean[0], first, atol=2e-6)
    np.testing.assert_allclose(result.var[0], second - first**2, atol=2e-6)
    assert loss_and_logsumexp(mean[np.newaxis], s[np.newaxis] ** 2)[1] == pytest.approx(expected_loss, abs=2e-6)


@pytest.mark.parametrize("var", [0.0, 0.1, 4.0, 100.0, 3000.0])
def test_two_classes_are_the_sigmoid_of_the_difference(var):
    mean = np.array([[0.0, 0.0], [2.0, 0.5], [-3.0, 4.0], [20.0, 0.0]])
    variances = np.full(mean.shape, var) * [0.2, 0.8]
    result, _ = fast.softmax(fast.Moments(mean, variances))
    expected, _ = fast.activation(fast.Moments(mean[:, 0] - mean[:, 1], variances.sum(axis=1)), "sigmoid")
    np.testing.assert_allclose(result.mean[:, 0], expected.mean, atol=1e-6)
    np.testing.assert_allclose(result.mean.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(result.var, np.stack([expected.var] * 2, axis=1), atol=2e-6)


@pytest.mark.parametrize("spread", [0.5, 2.0, 10.0, 50.0])
def test_ten_classes_are_the_average_of_samples(spread):
    rng = np.random.default_rng(1)
    mean, s, n = rng.normal(0, 2, size=10), spread * rng.uniform(0, 1, size=10), 100_000
    result, _ = fast.softmax(fast.Moments(mean[np.newaxis], s[np.newaxis] ** 2))
    z = mean + s * rng.standard_normal((n, 10))
    p = softmax(z, axis=1)
    assert np.all(np.abs(result.mean[0] - p.mean(axis=0)) < 5 * p.std(axis=0) / np.sqrt(n) + 2e-6)
    squares = (p - p.mean(axis=0)) ** 2
    assert np.all(np.abs(result.var[0] - p.var(axis=0)) < 5 * squares.std(axis=0) / np.sqrt(n) + 2e-6)
    values = logsumexp(z, axis=1)
    _, got, gradients = loss_and_logsumexp(mean[np.newaxis], s[np.newaxis] ** 2)
    assert abs(got - values.mean()) < 5 * values.std() / np.sqrt(n)
    curvature = p * (1 - p)
    assert np.all(np.abs(2 * gradients.var[0] - curvature.mean(axis=0)) < 5 * curvature.std(axis=0) / np.sqrt(n) + 2e-6)


def test_very_wide_logits_choose_as_the_largest_of_normal_variables_does():
    mean, s = np.array([0.0, 500.0, -1000.0]), np.array([1000.0, 800.0, 2000.0])
    z = mean + s * np.random.default_rng(2).standard_normal((100_000, 3))
    expected = np.bincount(z.argmax(axis=1)) / len(z)
    result, _ = fast.softmax(fast.Moments(mean[np.newaxis], s[np.newaxis] ** 2))
    np.testing.assert_allclose(result.mean[0], expected, atol=0.01)
    _, got, gradients = loss_and_logsumexp(mean[np.newaxis], s[np.newaxis] ** 2)
    assert got == pytest.approx(z.max(axis=1).mean(), rel=0.02)
    assert np.isfinite(np.stack(gradients)).all()
    piece = next(_logits.pieces(mean[np.newaxis], s[np.newaxis] ** 2))
    np.testing.assert_allclose(np.sqrt(piece.var), s[np.newaxis] * 64 / 2000)  # which bounds the number of nodes


@pytest.mark.parametrize("var", [None, 0.0, 1e-300, 1e-14])
def test_without_variance_it_is_the_softmax_and_its_ordinary_loss(var):
    rng = np.random.default_rng(3)
    mean, labels = rng.normal(0, 5, size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
    moments = fast.Moments(mean, None if var is None else np.full(mean.shape, var))
    result, context = fast.softmax(moments)
    p = softmax(mean, axis=1)
    np.testing.assert_allclose(result.mean, p, atol=1e-8)
    np.testing.assert_allclose(result.var, 0, atol=1e-6)
    assert result.var.min() >= 0
    loss, gradients = fast.cross_entropy(moments, labels)
    assert loss == pytest.approx(-log_softmax(mean, axis=1)[range(6), labels].mean(), abs=2e-6)
    np.testing.assert_allclose(gradients.mean, (p - np.eye(4)[labels]) / 6, atol=1e-8)
    np.testing.assert_allclose(gradients.var, p * (1 - p) / 12, atol=1e-6)
    d = rng.normal(size=p.shape)
    by_mean = fast.softmax_backward(d, None, context).mean
    np.testing.assert_allclose(by_mean, p * (d - np.sum(d * p, axis=1, keepdims=True)), atol=1e-6)


def test_variance_of_the_probabilities_of_known_logits_is_exactly_zero():
    assert not fast.softmax(fast.Moments(np.random.default_rng(0).normal(size=(5, 3))))[0].var.any()


def run_softmax(inputs):
    moments, context = fast.softmax(fast.Moments(**inputs))
    return np.stack(moments), lambda dy: fast.softmax_backward(dy[0], dy[1], context)._asdict()


def run_cross_entropy(inputs):
    labels = np.array([2, 0, 1])
    loss, gradients = fast.cross_entropy(fast.Moments(**inputs), labels)
    return np.array([loss]), lambda dy: {name: dy[0] * one for name, one in gradients._asdict().items()}


@pytest.mark.parametrize("run", [run_softmax, run_cross_entropy])
@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_gradients_of_softmax_and_loss_are_central_differences(run, spread, monkeypatch):
    monkeypatch.setattr("normdrop.fast._logits._DEPTH", 26.0)  # so that differences are of the same integrals
    monkeypatch.setattr("normdrop.fast._logits._REACH", 8.0)
    from .. import gradcheck

    monkeypatch.setattr(gradcheck, "BOUND", 1e-5)
    rng = np.random.default_rng(4)
    check_pass(run, {"mean": rng.normal(size=(3, 4)), "var": spread**2 * rng.uniform(0.3, 1, size=(3, 4))})


def test_rows_do_not_depend_on_their_batch_and_classes_not_on_their_order():
    rng = np.random.default_rng(5)
    mean, var = rng.normal(0, 3, size=(700, 7)), rng.uniform(0.01, 1, size=(700, 7))
    var[13] = 900.0  # one row that needs many more nodes
    whole, context = fast.softmax(fast.Moments(mean, var))
    d = rng.normal(size=(2, 700, 7))
    gradients = fast.softmax_backward(*d, context)
    order = rng.permutation(7)
    for i in (0, 13, 699):
        one, context = fast.softmax(fast.Moments(mean[i : i + 1], var[i : i + 1]))
        np.testing.assert_allclose(one.mean[0], whole.mean[i], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.var[0], whole.var[i], rtol=1e-9, atol=1e-12)
        alone = fast.softmax_backward(*d[:, i : i + 1], context)
        np.testing.assert_allclose(alone.mean[0], gradients.mean[i], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.var[0], gradients.var[i], rtol=1e-9, atol=1e-12)
        turned, _ = fast.softmax(fast.Moments(mean[i : i + 1, order] + 100, var[i : i + 1, order]))
        np.testing.assert_allclose(turned.mean[0], whole.mean[i, order], atol=1e-11)


def test_a_nan_or_an_infinity_stays_in_its_row_and_makes_the_loss_a_nan():
    mean, var = np.zeros((4, 3)), np.ones((4, 3))
    mean[1, 0], var[2, 2] = np.nan, np.inf
    result, context = fast.softmax(fast.Moments(mean, var))
    gradients = fast.softmax_backward(np.ones((4, 3)), np.ones((4, 3)), context)
    loss, of_loss = fast.cross_entropy(fast.Moments(mean, var), np.zeros(4, int))
    assert np.isnan(loss)
    for values in (*result, *gradients, *of_loss):
        assert np.isnan(values[1:3]).all()
        assert np.isfinite(values[[0, 3]]).all()


def test_empty_batches_and_one_class_are_taken():
    result, context = fast.softmax(fast.Moments(np.empty((0, 3)), np.empty((0, 3))))
    assert result.mean.shape == fast.softmax_backward(None, None, context).var.shape == (0, 3)
    loss, gradients = fast.cross_entropy(fast.Moments(np.empty((0, 3))), np.empty(0, int))
    assert loss == 0
    assert gradients.mean.shape == (0, 3)
    result, _ = fast.softmax(fast.Moments(np.array([[3.0]]), np.array([[2.0]])))
    np.testing.assert_allclose(np.ravel(result), [1, 0], atol=2e-6)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_float32_comes_back_as_float32_and_is_off_by_its_rounding(spread):
    rng = np.random.default_rng(6)
    mean = rng.normal(size=(5, 3)).astype(np.float32)
    var = (spread**2 * rng.uniform(size=(5, 3))).astype(np.float32)
    narrow, context = fast.softmax(fast.Moments(mean, var))
    wide, _ = fast.softmax(fast.Moments(mean.astype(np.float64), var.astype(np.float64)))
    for got, expected in zip(narrow, wide, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)
    _, gradients = fast.cross_entropy(fast.Moments(mean, var), np.zeros(5, int))
    for values in (*fast.softmax_backward(mean, var, context), *gradients):
        assert values.dtype == np.float32
