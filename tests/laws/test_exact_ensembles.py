"""Averages over all masks of a small network: closed forms, the weight-scaling rule, Monte Carlo."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normdrop
from normdrop import _backend, _reference, exact_ensemble, functional

pytestmark = pytest.mark.kinds


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def random_net(n, seed=0):
    """A batch, and weights of a network with n hidden units and three classes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(5, 4)), rng.normal(size=(4, n)), rng.normal(size=(n, 3)), rng.normal(size=3)


def hidden(masks, seed=0):
    """Class probabilities (m, N, C) of a network with dropout of its hidden ReLU units, not scaled."""
    x, first, second, bias = random_net(masks.shape[-1], seed)
    return softmax((np.maximum(x @ first, 0) * masks[:, None, :]) @ second + bias)


@pytest.mark.simulated
@pytest.mark.parametrize(("n", "first", "m"), [(1, 0, 2), (3, 0, 8), (5, 7, 20), (16, 65_000, 536), (9, 3, 0)])
def test_masks_are_the_bits_of_their_numbers_and_weights_their_probabilities(backend, n, first, m):
    p = np.random.default_rng(n).uniform(size=n)
    masks, weights = np.ones((m, n), np.bool_), np.full(m, 7.0)
    backend.enumerate_masks(masks, weights, p, first)
    for r in range(m):
        assert masks[r].tolist() == [bool((first + r) >> j & 1) for j in range(n)]
        product = 1.0
        for j in range(n):
            product *= 1 - p[j] if masks[r, j] else p[j]
        assert weights[r] == product


@pytest.mark.jit
def test_serial_and_parallel_enumerations_have_the_same_bits():
    from normdrop._cpu.kernels import enumeration

    p, results = np.random.default_rng(1).uniform(size=16), []
    for parallel in (False, True):
        masks, weights = np.empty(16 << 16, np.bool_), np.empty(1 << 16)
        enumeration.enumerate_masks.compile(np.dtype(np.float64), parallel=parallel)(masks, weights, p, 0)
        results.append(masks.tobytes() + weights.tobytes())
    assert results[0] == results[1]


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_weights_sum_to_one(backend, p):
    masks, weights = np.empty((2 ** len(p), len(p)), np.bool_), np.empty(2 ** len(p))
    backend.enumerate_masks(masks, weights, np.array(p), 0)
    assert abs(weights.sum() - 1) < 1e-14
    kept = weights @ masks
    assert np.abs(kept - (1 - np.array(p))).max() < 1e-14


@pytest.mark.parametrize("n", [1, 5, 12])
def test_mean_and_variance_of_a_linear_layer_are_the_closed_forms(n):
    rng = np.random.default_rng(n)
    x, w, p = rng.normal(3, 1, size=(6, n)), rng.normal(size=(n, 2)), rng.uniform(size=n)
    ensemble = exact_ensemble(lambda masks: (masks[:, None, :] * x) @ w, n, p)
    assert np.allclose(ensemble.mean, (x * (1 - p)) @ w, rtol=1e-12, atol=1e-12)
    assert np.allclose(ensemble.var, (x**2 * p * (1 - p)) @ w**2, rtol=1e-11, atol=1e-12)
    assert np.array_equal(ensemble.std, np.sqrt(ensemble.var))


@pytest.mark.parametrize("p", [0.5, 0.2, np.linspace(0.05, 0.9, 10)], ids=["0.5", "0.2", "of each unit"])
def test_for_softmax_regression_weight_scaling_is_the_renormalized_geometric_mean(p):
    rng = np.random.default_rng(4)
    x, w, bias = rng.normal(size=(7, 10)), rng.normal(size=(10, 4)), rng.normal(size=4)
    ensemble = exact_ensemble(lambda m: softmax((m[:, None, :] * x) @ w + bias), 10, p, geometric=True)
    scaled = softmax((x * (1 - p)) @ w + bias)
    assert np.abs(ensemble.geometric_mean - scaled).max() < 1e-13
    assert np.abs(ensemble.mean - scaled).max() > 1e-3, "the arithmetic mean is another one"


def test_weight_scaling_is_exact_before_the_last_linear_layer_and_not_before_others():
    ensemble = exact_ensemble(hidden, 9, 0.5, geometric=True)
    scaled = hidden(np.full((1, 9), 0.5))[0]
    assert np.abs(ensemble.geometric_mean - scaled).max() < 1e-13

    x, first, second, bias = random_net(8)

    def deeper(masks):
        return softmax(np.maximum((masks[:, None, :4] * x) @ first, 0) * masks[:, None, 4:] @ second + bias)

    ensemble = exact_ensemble(deeper, 12, 0.5, geometric=True)
    assert np.abs(ensemble.geometric_mean - deeper(np.full((1, 12), 0.5))[0]).max() > 1e-2


def test_means_are_those_of_a_plain_loop_over_all_masks():
    p = np.array([0.1, 0.5, 0.7, 0.9, 0.3])
    masks = np.array(list(itertools.product((False, True), repeat=5)))
    weights = np.where(masks, 1 - p, p).prod(axis=1)[:, None, None]
    y = hidden(masks)
    mean, logs = (weights * y).sum(axis=0), (weights * np.log(y)).sum(axis=0)
    ensemble = exact_ensemble(hidden, 5, p, geometric=True)
    assert np.allclose(ensemble.mean, mean, rtol=1e-13)
    assert np.allclose(ensemble.var, (weights * (y - mean) ** 2).sum(axis=0), rtol=1e-12)
    assert np.allclose(ensemble.log_geometric_mean, logs, rtol=1e-13)
    assert np.allclose(ensemble.geometric_mean, np.exp(logs) / np.exp(logs).sum(axis=-1, keepdims=True), rtol=1e-13)


def test_monte_carlo_converges_to_the_enumeration_as_one_over_the_root_of_its_draws():
    n, repeats = 6, 150
    ensemble = exact_ensemble(hidden, n, 0.25)
    for draws in (4, 16, 64):
        masks = np.empty((repeats * draws, n), np.bool_)
        _backend.keep_mask(masks.reshape(-1), (7, draws), 0, 1 << 30)
        means = hidden(masks).reshape(repeats, draws, 5, 3).mean(axis=1)
        error = np.sqrt(((means - ensemble.mean) ** 2).mean(axis=0))
        assert abs((error * np.sqrt(draws) / ensemble.std).mean() - 1) < 0.08


def test_masks_come_once_each_in_blocks_and_the_result_does_not_depend_on_them():
    expected = exact_ensemble(hidden, 7, 0.4, geometric=True, block_size=1000)
    for block_size in (1, 3, 64, 127):
        blocks = []

        def function(masks, blocks=blocks):
            blocks.append(masks)
            return hidden(masks)

        ensemble = exact_ensemble(function, 7, 0.4, geometric=True, block_size=block_size)
        assert max(map(len, blocks)) == block_size
        assert (np.concatenate(blocks) @ 2 ** np.arange(7)).tolist() == list(range(128))
        for one, other in zip(ensemble, expected, strict=True):
            assert np.allclose(one, other, rtol=1e-12)


def test_masks_of_weight_zero_are_left_out():
    seen = []

    def function(masks):
        seen.extend(masks.tolist())
        return np.ones(len(masks))

    ensemble = exact_ensemble(function, 4, np.array([0.0, 1.0, 0.5, 0.0]), block_size=2)
    assert sorted(seen) == [[True, False, False, True], [True, False, True, True]]
    assert (ensemble.mean, ensemble.var) == (1.0, 0.0)


@pytest.mark.parametrize("dtype", ["bool", "float32", "float64"])
def test_masks_have_the_dtype_asked_for(dtype):
    kinds = set()

    def function(masks):
        kinds.add(masks.dtype.name)
        return masks.sum(axis=1)

    assert exact_ensemble(function, 4, dtype=dtype).mean == 2.0
    assert kinds == {dtype}


def test_outputs_of_any_real_dtype_are_averaged_in_float64():
    for dtype in (np.float16, np.float32, np.int32, np.bool_):
        ensemble = exact_ensemble(lambda m, dtype=dtype: m.astype(dtype), 3, 0.25)
        assert ensemble.mean.dtype == np.float64
        assert ensemble.mean.tolist() == [0.75] * 3


def test_a_probability_of_zero_makes_the_geometric_mean_zero():
    def function(masks):
        sure = np.array([0.5, 0.5, 0.0])
        return np.where(masks[:, :1], sure, [0.25, 0.5, 0.25])

    ensemble = exact_ensemble(function, 2, geometric=True, block_size=1)
    assert ensemble.log_geometric_mean[2] == -np.inf
    assert ensemble.geometric_mean[2] == 0
    assert ensemble.geometric_mean.sum() == pytest.approx(1)
    contrary = exact_ensemble(lambda m: np.stack([m[:, 0], ~m[:, 0]], axis=1), 1, geometric=True)
    assert np.isnan(contrary.geometric_mean).all()


def test_probabilities_too_small_for_their_product_are_renormalized():
    def function(masks):
        return np.repeat([[1e-300, 3e-300]], len(masks), axis=0) ** np.ones((1, 2))

    assert np.allclose(exact_ensemble(function, 3, geometric=True).geometric_mean, [0.25, 0.75])


def test_an_infinite_output_gives_an_infinite_mean_without_a_warning():
    ensemble = exact_ensemble(lambda m: np.where(m[:, 0], np.inf, 1.0), 2, block_size=1)
    assert ensemble.mean == np.inf
    assert np.isnan(ensemble.var)


def test_columns_of_several_layers_serve_as_given_masks_of_dropout():
    x = np.arange(1.0, 6.0)

    def function(masks):
        first, second = np.split(masks, [2], axis=1)
        y = [functional.dropout(x[:2], 0.5, mask=mask)[0].sum() for mask in first]
        return np.array(y) * [functional.dropout(x[2:], 0.25, mask=mask)[0].sum() for mask in second]

    p = np.array([0.5, 0.5, 0.25, 0.25, 0.25])
    assert exact_ensemble(function, 5, p).mean == pytest.approx(3 * 12)


def test_more_than_16_units_are_refused_with_the_remedy(refused):
    things = SimpleNamespace()
    refused(things, lambda _: exact_ensemble(hidden, 17), ValueError, "n must", "17", "16", "2**17", "Monte Carlo")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3, 4), {}, TypeError, ("function", "int")),
        ((hidden, 0), {}, ValueError, ("n must", "0")),
        ((hidden, 2.0), {}, TypeError, ("n must", "float")),
        ((hidden, 3, 1.5), {}, ValueError, ("p must", "1.5")),
        ((hidden, 3, np.array([0.5, 0.5])), {}, ValueError, ("p must", "(3,)", "(2,)")),
        ((hidden, 3, np.array([0, 1, 1])), {}, TypeError, ("p must", "int64", "astype")),
        ((hidden, 2, np.array([0.5, -0.5])), {}, ValueError, ("p must", "-0.5")),
        ((hidden, 2, np.array([0.5, np.nan])), {}, ValueError, ("p must", "nan")),
        ((hidden, 3), {"dtype": np.int8}, TypeError, ("dtype", "float64")),
        ((hidden, 3), {"dtype": "no dtype"}, TypeError, ("dtype", "no dtype")),
        ((hidden, 3), {"block_size": 0}, ValueError, ("block_size", "0")),
        ((hidden, 3), {"geometric": 1}, TypeError, ("geometric",)),
        ((lambda m: m[:1], 3), {}, ValueError, ("function", "m = 8", "(1, 3)")),
        ((lambda m: 1.0, 3), {}, ValueError, ("function", "m = 8", "()")),
        ((lambda m: m * 1j, 3), {}, TypeError, ("function", "complex")),
        ((lambda m: np.ones((len(m), m[0, -1] + 1)), 3), {"block_size": 4}, ValueError, ("(m, 1)", "(4, 2)")),
        ((lambda m: m.sum(axis=1), 3), {"geometric": True}, ValueError, ("geometric", "last axis", "(8,)")),
        ((lambda m: m - 0.5, 3), {"geometric": True}, ValueError, ("geometric", "-0.5", "softmax")),
    ],
)
def test_bad_arguments_and_outputs_are_refused(refused, arguments, options, error, words):
    refused(SimpleNamespace(), lambda _: exact_ensemble(*arguments, **options), error, *words)


def test_without_the_option_there_is_no_geometric_mean_and_the_error_says_so():
    with pytest.raises(ValueError, match="geometric=True"):
        _ = exact_ensemble(hidden, 2).geometric_mean


def test_an_error_of_the_function_goes_through():
    with pytest.raises(ZeroDivisionError):
        exact_ensemble(lambda m: 1 // 0, 2)


def test_progress_is_shown_where_it_is_asked_for(capsys):
    pytest.importorskip("rich")
    exact_ensemble(hidden, 4, block_size=2)
    assert capsys.readouterr().err == ""
    exact_ensemble(hidden, 4, block_size=2, progress=True)
    assert "8/8" in capsys.readouterr().err


def test_launchers_are_refused_arrays_that_do_not_fit():
    masks, weights = np.empty((4, 2), np.bool_), np.empty(4)
    with pytest.raises(ValueError, match="p does not fit"):
        _backend.enumerate_masks(masks, weights, np.empty((2, 1)), 0)
    with pytest.raises(ValueError, match="masks does not fit"):
        _backend.enumerate_masks(masks, weights[:3], np.empty(2), 0)
    with pytest.raises(ValueError, match="sample_ids does not fit"):
        _backend.keep_samples(masks, np.arange(3), (1, 2), 3, 4)
    with pytest.raises(TypeError, match="sample_ids does not fit"):
        _backend.keep_samples(masks, np.arange(4.0), (1, 2), 3, 4)
    assert normdrop.exact_ensemble is exact_ensemble
    assert _reference.enumerate_masks.__doc__
