"""What `mc_predict` says of many passes is what NumPy says of them all, with masks that do not depend on batches."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

import normdrop
from normdrop import MaskStream, mc_predict
from normdrop.ensembles import Prediction

from ..thinned import Net, X, state

pytestmark = pytest.mark.same

RNG = np.random.default_rng(1)
MOMENTS = ("mean", "var", "std", "standard_error", "quantiles")


def test_mean_spread_and_quantiles_are_those_of_numpy_over_the_stored_samples() -> None:
    net, wanted = Net(), (0.9, 0.05, 0.5)
    answer = mc_predict(net, X, 40, rng=1, quantiles=wanted)
    samples = np.stack(net.seen).astype(np.float64)
    assert (answer.n_samples, len(samples)) == (40, 40)
    np.testing.assert_allclose(answer.mean, samples.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(answer.var, samples.var(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(answer.std, samples.std(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(answer.standard_error, stats.sem(samples, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(answer.quantiles, np.quantile(samples, wanted, axis=0))
    assert mc_predict(net, X, 2).quantiles.shape == (0, *X.shape)
    assert repr(answer) == "Prediction(n_samples=40, shape=(4, 3))"


def test_of_a_linear_layer_mean_and_variance_are_the_known_ones() -> None:
    p, n = 0.3, 4000
    drop = normdrop.Dropout(p)
    x, w = RNG.normal(size=(5, 40)), RNG.normal(size=(40, 2))
    answer = mc_predict(lambda x: drop(x) @ w, x, n, model=drop, rng=0)
    var = p / (1 - p) * x**2 @ w**2
    assert (np.abs(answer.mean - x @ w) < 5 * np.sqrt(var / n)).all()
    np.testing.assert_allclose(answer.var, var, rtol=5 * np.sqrt(2 / n))
    np.testing.assert_allclose(answer.standard_error, np.sqrt(var / n), rtol=0.1)


def test_far_from_zero_the_variance_loses_nothing() -> None:
    drop = normdrop.Dropout(0.5)
    spread: list[Any] = []

    def function(x: Any) -> Any:
        spread.append(drop(x))
        return 1e9 + 1e-3 * spread[-1]

    answer = mc_predict(function, np.ones(3), 50, model=drop, rng=0)
    np.testing.assert_allclose(answer.var, np.var(1e9 + 1e-3 * np.stack(spread), axis=0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("reduce", ["arithmetic", "geometric"])
def test_means_and_entropies_of_probabilities_are_those_of_scipy(reduce: Any) -> None:
    net = Net()
    answer = mc_predict(net.probabilities, X, 30, rng=1, reduce=reduce)
    logits = np.stack(net.seen).astype(np.float64)
    p = special.softmax(np.stack(net.seen), axis=-1).astype(np.float64)
    mean = p.mean(axis=0) if reduce == "arithmetic" else stats.gmean(p, axis=0)
    np.testing.assert_allclose(answer.mean, mean / mean.sum(axis=-1, keepdims=True), rtol=1e-6)
    if reduce == "geometric":  # the softmax of the mean of logits
        np.testing.assert_allclose(answer.mean, special.softmax(logits.mean(axis=0), axis=-1), rtol=1e-5)
    predictive, expected = stats.entropy(p.mean(axis=0), axis=-1), stats.entropy(p, axis=-1).mean(axis=0)
    np.testing.assert_allclose(answer.predictive_entropy, predictive, rtol=1e-5)
    np.testing.assert_allclose(answer.expected_entropy, expected, rtol=1e-5)
    np.testing.assert_allclose(answer.mutual_information, predictive - expected, atol=1e-5)
    assert (answer.mutual_information > 0).all()
    np.testing.assert_allclose(answer.var, p.var(axis=0, ddof=1), rtol=1e-9)


def test_a_class_that_a_sample_gave_zero_has_the_geometric_mean_zero() -> None:
    given = iter(np.array([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], [[0.2, 0.8, 0.0], [0.0, 1.0, 0.0]]]))
    answer = mc_predict(lambda x: next(given), None, 2, reduce="geometric")
    np.testing.assert_allclose(answer.mean[0], np.array([1, 2, 0]) / 3)
    assert np.isnan(answer.mean[1]).all()
    np.testing.assert_allclose(answer.predictive_entropy[1], np.log(2))


@pytest.mark.parametrize("options", [{}, {"shared_axes": 0}], ids=["a mask for each row", "a mask for all rows"])
@pytest.mark.parametrize("n_batch", [2, 5, 100, "auto"])
def test_samples_are_the_same_alone_and_in_batches_of_any_size(n_batch: Any, options: Any) -> None:
    alone, batched = Net(**options), Net(**options)
    one = mc_predict(alone, X, 12, rng=5, quantiles=0.3)
    other = mc_predict(batched, X, 12, rng=5, quantiles=0.3, batch_samples=n_batch)
    parts = np.concatenate([y.reshape(-1, *X.shape) for y in batched.seen])
    zero = np.stack(alone.seen) == 0
    assert 0.1 < zero.mean() < 0.9
    np.testing.assert_array_equal(parts == 0, zero)
    np.testing.assert_allclose(parts, np.stack(alone.seen), rtol=1e-4, atol=1e-5)
    for name in MOMENTS:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-5)
    assert len(batched.seen) == 1 + -(-11 // (11 if n_batch == "auto" else n_batch))
    if options:  # within a sample, all rows have one mask
        for sample in zero:
            kept = sample[~sample.all(axis=1)]  # a row of which nothing is left says nothing
            assert (kept == kept[:1]).all()


def test_a_function_that_treats_rows_alike_has_the_same_bits_in_batches() -> None:
    drop = normdrop.Dropout(0.5)
    alone, batched = (mc_predict(drop, X, 300, rng=5, quantiles=(0.5, 0.9), batch_samples=n)
                      for n in (1, 64))  # fmt: skip
    for name in MOMENTS:
        np.testing.assert_array_equal(getattr(alone, name), getattr(batched, name))


def test_with_a_seed_predictions_repeat_and_streams_stay() -> None:
    net = Net()
    before = state(net)
    first, again, other = (mc_predict(net, X, 10, rng=rng) for rng in (3, 3, 4))
    np.testing.assert_array_equal(first.mean, again.mean)
    assert not np.array_equal(first.mean, other.mean)
    assert state(net) == before
    fewer = mc_predict(Net(), X, 5, rng=3)
    np.testing.assert_allclose(fewer.mean, np.mean(net.seen[:5], axis=0, dtype=np.float64), rtol=1e-12)


def test_without_a_seed_streams_go_on_by_one_call() -> None:
    net, twin = Net(), Net()
    calls = net.first.stream.call, net.fused.stream.call
    first, second = mc_predict(net, X, 10), mc_predict(net, X, 10)
    assert not np.array_equal(first.mean, second.mean)
    assert (net.first.stream.call, net.fused.stream.call) == (calls[0] + 2, calls[1] + 2)
    assert net.first.stream is net.last.stream
    np.testing.assert_array_equal(mc_predict(twin, X, 10).mean, first.mean)


def test_a_stream_given_as_rng_goes_on_by_one_call_and_layers_draw_from_children_of_it() -> None:
    stream, drop = MaskStream(1), normdrop.Dropout(0.5)
    child = MaskStream(1).spawn(1)[0]
    seen: list[Any] = []
    mc_predict(lambda x: seen.append(drop(x)) or seen[-1], X, 3, model=drop, rng=stream)  # type: ignore[func-returns-value]
    assert stream.call == 1
    for sample, y in enumerate(seen):
        expected = MaskStream.from_key(child.key, sample * 2**32)
        np.testing.assert_array_equal(y, normdrop.functional.dropout(X, 0.5, rng=expected)[0])


@pytest.mark.parametrize("n_batch", [1, 7])
def test_it_stops_when_the_standard_error_is_small_enough_everywhere(n_batch: int) -> None:
    drop, x = normdrop.Dropout(0.5), np.array([1.0, 2.0])
    answer = mc_predict(drop, x[np.newaxis], 5000, rng=0, stop_at=0.2, batch_samples=n_batch)
    one_less = mc_predict(drop, x[np.newaxis], answer.n_samples - 1, rng=0)
    assert 50 < answer.n_samples < 200  # std of the second is 2
    assert answer.standard_error.max() <= 0.2 < one_less.standard_error.max()
    assert mc_predict(drop, x, 5000, rng=0, stop_at=1e9).n_samples == 16
    assert mc_predict(drop, np.array([np.nan]), 20, rng=0, stop_at=1e9).n_samples == 20


def test_quantiles_of_many_samples_are_off_in_rank_by_less_than_sampling_makes_them() -> None:
    n, size, wanted = 1000, 100, np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    rng = np.random.default_rng(1)
    two_humps = rng.normal(5 * rng.integers(0, 2, (n, size)))
    laws = [stats.norm(), stats.expon(), stats.uniform(), stats.t(3)]
    for samples in [*(law.rvs((n, size), random_state=rng) for law in laws), two_humps]:
        given = iter(samples)
        answer = mc_predict(lambda x, given=given: next(given), None, n, quantiles=wanted)
        ranks = (samples[:, np.newaxis] <= answer.quantiles).mean(axis=0)
        errors = ranks - wanted[:, np.newaxis]
        assert (np.sqrt((errors**2).mean(axis=1)) < np.sqrt(wanted * (1 - wanted) / n)).all()
        assert (np.abs(errors) < 0.05).all()
        assert (np.diff(answer.quantiles, axis=0) > 0).all()


def test_quantiles_of_minimum_maximum_close_ones_and_what_is_not_finite() -> None:
    samples = np.random.default_rng(0).normal(size=(400, 4))
    samples[:, 1] = 7.0
    samples[300, 2] = np.nan
    samples[10, 3] = np.nan
    wanted = (0.0, 1.0, 0.999, 0.998, 0.5)
    given = iter(samples)
    answer = mc_predict(lambda x: next(given), None, 400, quantiles=wanted).quantiles
    np.testing.assert_array_equal(answer[:2, 0], [samples[:, 0].min(), samples[:, 0].max()])
    assert answer[0, 0] < answer[4, 0] < answer[3, 0] <= answer[2, 0] <= answer[1, 0]
    np.testing.assert_array_equal(answer[:, 1], 7.0)
    assert np.isnan(answer[:, 2:]).all()


@pytest.mark.parametrize("wanted", [(), (0.1, 0.9)], ids=["moments", "quantiles"])
def test_memory_does_not_grow_with_the_number_of_samples(wanted: Any) -> None:
    drop, x = normdrop.Dropout(0.5), np.ones(2000, np.float32)

    def peak(n: int) -> int:
        tracemalloc.start()
        try:
            mc_predict(drop, x, n, rng=0, quantiles=wanted)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(3)
    few, many = peak(140), peak(700)
    output = x.size * 8
    assert many < few + 2 * output
    assert few < (128 + 64 if wanted else 40) * output


def test_a_result_can_be_pickled_and_not_changed() -> None:
    answer = mc_predict(Net().probabilities, X, 5, reduce="arithmetic")
    twin = pickle.loads(pickle.dumps(answer))
    np.testing.assert_array_equal(twin.mutual_information, answer.mutual_information)
    assert isinstance(twin, Prediction)
    with pytest.raises(AttributeError):
        answer.mean = 0
