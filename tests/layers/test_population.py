"""Running statistics of a whole population: fit, partial_fit, set_statistics."""

from __future__ import annotations

import builtins
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import BatchNorm, ChannelStatistics

pytestmark = pytest.mark.same


def ordered(n=200, c=3, seed=0):
    return np.sort(np.random.default_rng(seed).normal(300.0, 0.1, (n, c)), axis=0)


def errors(layer, x, unbiased=True):
    return (
        np.max(np.abs(layer.running_mean - x.mean(axis=0))),
        np.max(np.abs(layer.running_var / x.var(axis=0, ddof=int(unbiased)) - 1)),
    )


@pytest.mark.parametrize("unbiased", [True, False])
def test_chunks_of_any_size_give_the_mean_and_variance_of_all_values(unbiased):
    x = ordered()
    chunks = np.split(x, [0, 1, 5, 5, 120])
    layer = BatchNorm(3, unbiased=unbiased).fit(chunks)
    assert max(errors(layer, x, unbiased)) < 1e-12
    assert (layer.num_values, layer.num_batches) == (200, 4)
    whole = BatchNorm(3, unbiased=unbiased).fit(iter([x]), progress=False)
    assert np.allclose(whole.running_var, layer.running_var, rtol=1e-12, atol=0)


def test_the_average_of_training_lacks_what_the_means_of_batches_differ_by():
    x = ordered()
    trained, fitted = BatchNorm(3, momentum=None), BatchNorm(3).fit(np.split(x, 20))
    for chunk in np.split(x, 20):
        trained(chunk)
    assert (trained.running_var < 0.2 * fitted.running_var).all()


def test_what_was_there_before_is_forgotten_and_parameters_mode_and_momentum_stay():
    x = ordered()
    layer = BatchNorm(3, momentum=0.3, dtype=np.float64)
    layer(x + 7)
    layer.gamma[:] = 2.0
    for mode in (True, False):
        layer.training = mode
        layer.fit([x])
        assert (layer.training, layer.momentum, layer.num_batches) == (mode, 0.3, 1)
        assert max(errors(layer, x)) < 1e-12
        assert layer.gamma.tolist() == [2.0] * 3
    y = layer(x)
    assert np.allclose(y.std(axis=0, ddof=1), 2.0, rtol=1e-3)


def test_partial_fit_goes_on_where_a_saved_layer_was():
    x = ordered()
    layer = BatchNorm(3)
    for k, chunk in enumerate(np.split(x, [0, 1, 2, 50, 199])):
        layer.partial_fit(chunk)
        if k % 2:
            state, layer = layer.state_dict(), BatchNorm(3)
            layer.load_state_dict(state)
    assert max(errors(layer, x)) < 1e-12
    assert (layer.num_values, layer.num_batches) == (200, 5)


def test_partial_fit_of_one_value_at_a_time():
    x = ordered(30, 2)
    layer = BatchNorm(2)
    for row in x:
        layer.partial_fit(row[None])
    assert max(errors(layer, x)) < 1e-12


def test_statistics_from_elsewhere_become_the_running_ones():
    x = ordered()
    mask = np.random.default_rng(1).random(x.shape) < 0.7
    parts = [ChannelStatistics.of(x[k::3], mask=mask[k::3], exact=True) for k in range(3)]
    layer = BatchNorm(3).set_statistics(sum(parts))
    assert np.allclose(layer.running_var, [x[mask[:, c], c].var(ddof=1) for c in range(3)], rtol=1e-12, atol=0)
    assert (layer.num_batches, layer.num_values) == (1, mask.sum(axis=0).min())


def test_every_rank_and_dtype_is_fitted_on_its_own_channel_axis():
    x = np.random.default_rng(0).normal(3, 2, (6, 2, 4, 5)).astype(np.float32)
    first = normdrop.BatchNorm2d(2).fit([x])
    last = BatchNorm(2, channel_axis=-1).fit([np.moveaxis(x, 1, -1)])
    assert np.allclose(first.running_var, x.astype(np.float64).var(axis=(0, 2, 3), ddof=1), rtol=1e-12, atol=0)
    assert np.allclose(first.running_var, last.running_var, rtol=1e-12, atol=0)


def test_one_value_a_channel_has_variance_zero():
    layer = BatchNorm(2).fit([np.array([[1.0, 5.0]])])
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([1.0, 5.0], [0.0, 0.0])


X = np.ones((4, 3))


def _breaks():
    yield X
    raise RuntimeError("no more data")


CALLS = [
    (lambda layer: layer.fit(X), TypeError, "Pass [x]"),
    (lambda layer: layer.fit(3), TypeError, "chunks must be an iterable"),
    (lambda layer: layer.fit([]), ValueError, "channel 0 has no values"),
    (lambda layer: layer.fit([X, X[:, :2]]), ValueError, "num_features = 3"),
    (lambda layer: layer.fit([X, X.astype(int)]), TypeError, "x must have dtype"),
    (lambda layer: layer.fit([X, X * np.nan]), FloatingPointError, "channel 0 and 2 more"),
    (lambda layer: layer.fit([X], progress=1), TypeError, "progress must be True or False"),
    (lambda layer: layer.fit(_breaks()), RuntimeError, "no more data"),
    (lambda layer: layer.partial_fit(X[0]), ValueError, "num_features = 3"),
    (lambda layer: layer.partial_fit(X * np.inf), FloatingPointError, "no finite mean"),
    (lambda layer: layer.set_statistics(X), TypeError, "statistics must be a ChannelStatistics"),
    (lambda layer: layer.set_statistics(ChannelStatistics(2)), ValueError, "num_features = 3"),
    (lambda layer: layer.set_statistics(ChannelStatistics.of(X * np.nan)), FloatingPointError, "NaN"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_fit_that_fails_changes_nothing(refused, call, error, words):
    layer = BatchNorm(3, on_nonfinite="raise")
    layer(ordered())
    refused(SimpleNamespace(layer=layer), lambda things: call(things.layer), error, words)


def test_statistics_that_cannot_be_written_change_nothing():
    layer = BatchNorm(3)
    layer(ordered())
    layer.running_var.flags.writeable = False
    before = layer.state_dict()
    with pytest.raises(ValueError, match="read-only"):
        layer.fit([X])
    assert all(np.array_equal(layer.state_dict()[name], values) for name, values in before.items())


def test_chunks_that_are_not_finite_do_as_the_layer_says():
    x = ordered()
    bad = x.copy()
    bad[3, 1] = np.inf
    skipping = (
        BatchNorm(3, on_nonfinite="skip")
        .fit([x[:50], bad, x[50:]])
        .partial_fit(bad)
        .set_statistics(ChannelStatistics.of(bad))
    )
    assert max(errors(skipping, x)) < 1e-12
    assert np.isfinite(BatchNorm(3).fit([bad]).running_var).tolist() == [True, False, True]


def test_a_layer_without_running_statistics_says_so():
    layer = BatchNorm(3, track_running_stats=False)
    for method, argument in (("fit", [X]), ("partial_fit", X), ("set_statistics", ChannelStatistics.of(X))):
        with pytest.raises(ValueError, match="track_running_stats=True"):
            getattr(layer, method)(argument)


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_shown_on_stderr_if_rich_is_there(capsys, monkeypatch, rich):
    pytest.importorskip("rich")
    if not rich:
        plain = builtins.__import__

        def without(name, *args, **options):
            if name.partition(".")[0] == "rich":
                raise ImportError(name)
            return plain(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", without)
    BatchNorm(3).fit([X, X], progress=True)
    BatchNorm(3).fit(iter([X, X]), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("statistics" in shown.err, "2/2" in shown.err) == (rich, rich)
