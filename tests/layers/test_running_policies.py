"""How running statistics follow batches: debiased, of the population, frozen, updated alone, reset."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import BatchNorm, BatchNormAct, functional

pytestmark = pytest.mark.same

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (6, 3, 5))
DY = RNG.normal(size=X.shape)
MASK = np.arange(5) < np.array([5, 3, 1, 4, 0, 2])[:, None]
WEIGHTS = RNG.random((6, 5)).astype(np.float32)


def layer_of(kind: Any = BatchNorm, **options: Any) -> Any:
    layer = kind(3, dtype=np.float64, **options)
    layer.gamma[:], layer.beta[:] = [1.0, 2.0, -3.0], [0.0, 1.0, 2.0]
    layer.running_mean[:], layer.running_var[:] = [1.0, 2.0, 3.0], [4.0, 9.0, 16.0]
    return layer


def batches(n: int = 12) -> Any:
    """Sorted values, whose batches have other means; the last batches are shorter."""
    return np.array_split(np.sort(np.random.default_rng(1).normal(300.0, 0.1, (100, 3)), axis=0), n)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(a[name], values) for name, values in b.items())


# The average that starts with the first batch.


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0, 1 - 1e-9])
def test_a_debiased_average_is_the_weighted_mean_of_the_batches_so_far(momentum: float) -> None:
    layer = layer_of(momentum=momentum, debias=True, unbiased=False)
    for t, x in enumerate(batches(), start=1):
        layer(x)
        weights = np.power(momentum, np.arange(t - 1, -1.0, -1.0))
        for running, of in ((layer.running_mean, np.mean), (layer.running_var, np.var)):
            expected = np.average([of(b, axis=0) for b in batches()[:t]], axis=0, weights=weights)
            np.testing.assert_allclose(running, expected, rtol=1e-9)


def test_a_debiased_average_is_that_of_adam_divided_by_its_sum_of_weights() -> None:
    layer, moment = layer_of(momentum=0.8, debias=True), np.zeros(3)
    for t, x in enumerate(batches(), start=1):
        layer(x)
        moment = 0.8 * moment + 0.2 * x.mean(axis=0)
        np.testing.assert_allclose(layer.running_mean, moment / (1 - 0.8**t), rtol=1e-13)


def test_a_momentum_of_one_learns_nothing_and_the_averages_by_counts_have_no_bias() -> None:
    for momentum in (1.0, None, "population"):
        plain, debiased = layer_of(momentum=momentum), layer_of(momentum=momentum, debias=True)
        for x in batches():
            plain(x)
            debiased(x)
        assert same(plain.state_dict(), debiased.state_dict())
        assert (plain.running_mean[0] == 1.0) == (momentum == 1.0)


# All values so far.


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_population_is_that_of_all_values_and_the_average_of_batches_is_not(unbiased: bool) -> None:
    layer, average = (layer_of(momentum=m, unbiased=unbiased) for m in ("population", None))
    for k, x in enumerate(batches()):
        layer(x)
        average(x)
        if k == 3:
            layer = pickle.loads(pickle.dumps(layer))
    everything = np.concatenate(batches())
    np.testing.assert_allclose(layer.running_mean, everything.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, everything.var(axis=0, ddof=int(unbiased)), rtol=1e-11)
    assert (average.running_var < 0.2 * layer.running_var).all()
    assert (layer.num_batches, layer.num_values) == (12, 100)
    fitted = layer_of(unbiased=unbiased).fit(batches())
    np.testing.assert_allclose(layer.running_var, fitted.running_var, rtol=1e-12)


def test_the_population_takes_what_counts_and_leaves_out_what_is_not_finite() -> None:
    layer = layer_of(momentum="population", on_nonfinite="skip")
    layer(X, mask=MASK)
    layer(np.full_like(X, np.nan))
    layer(X[:2] + 5.0)
    rows = np.concatenate([X.swapaxes(1, 2)[MASK], X[:2].swapaxes(1, 2).reshape(-1, 3) + 5.0])
    np.testing.assert_allclose(layer.running_mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, rows.var(axis=0, ddof=1), rtol=1e-12)
    assert (layer.num_batches, layer.num_values) == (2, len(rows))


def test_update_running_merges_as_the_layer_does() -> None:
    layer, mean, var = layer_of(momentum="population"), np.zeros(3), np.ones(3)
    n = 0
    for x in batches():
        _, context = functional.batch_norm(x)
        assert functional.update_running(mean, var, context, momentum="population", num_values=n)
        n += len(x)
        layer(x)
    assert mean.tobytes() == layer.running_mean.tobytes()
    assert var.tobytes() == layer.running_var.tobytes()


def test_a_bad_momentum_is_refused_with_its_three_kinds() -> None:
    for momentum in ("populations", "", 2.0, True):
        with pytest.raises((TypeError, ValueError), match=r"None.*'population'"):
            BatchNorm(3, momentum=momentum)


# Frozen.


def test_a_frozen_layer_trains_by_the_running_statistics_and_leaves_them() -> None:
    layer, inference = layer_of().freeze(), layer_of().eval()
    before = layer.state_dict()
    np.testing.assert_array_equal(layer(X), inference(X, keep_x=True))
    np.testing.assert_array_equal(layer.backward(DY), inference.backward(DY))
    x_hat = (X - inference.running_mean[:, None]) / np.sqrt(inference.running_var[:, None] + layer.eps)
    np.testing.assert_allclose(layer.dgamma, (DY * x_hat).sum(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(layer.dbeta, DY.sum(axis=(0, 2)), rtol=1e-12)
    assert same(layer.state_dict(), before)


def test_gradients_of_a_frozen_layer_are_the_differences_of_its_outputs() -> None:
    layer, h = layer_of().freeze(), 1e-5
    layer(X)
    dx = layer.backward(DY)
    for place in ((0, 0, 0), (5, 2, 4), (3, 1, 2)):
        step = np.zeros_like(X)
        step[place] = h
        up, down = (layer.forward(X + sign * step, return_context=True)[0] for sign in (1, -1))
        assert dx[place] == pytest.approx(((up - down) * DY).sum() / (2 * h), rel=1e-7)
    for name in ("gamma", "beta"):
        for c in range(3):
            sums = []
            for sign in (1, -1):
                moved = copy.deepcopy(layer)
                getattr(moved, name)[c] += sign * h
                sums.append((moved(X) * DY).sum())
            assert getattr(layer, f"d{name}")[c] == pytest.approx((sums[0] - sums[1]) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("kind", [BatchNorm, BatchNormAct])
def test_a_layer_stays_frozen_through_modes_copies_and_pickles_until_it_is_not(kind: Any, again: Any) -> None:
    layer = again(layer_of(kind).freeze().eval().train())
    assert layer.frozen
    assert "frozen=True" in repr(layer)
    layer(X)
    assert layer.num_batches == 0
    assert not layer.unfreeze().frozen
    assert "frozen" not in repr(layer)
    layer(X)
    assert layer.num_batches == 1


def test_a_frozen_layer_takes_a_mask_and_no_weights() -> None:
    layer = layer_of().freeze()
    y = layer(X, mask=MASK)
    np.testing.assert_array_equal(y, np.where(MASK[:, None], layer_of().eval()(X), 0))
    assert not layer.backward(DY)[~MASK.repeat(3, 0).reshape(6, 3, 5)].any()
    with pytest.raises(ValueError, match="weights must be None in training of a frozen layer"):
        layer(X, weights=WEIGHTS)


def test_a_frozen_fused_layer_does_what_it_does_in_inference_and_drops() -> None:
    layer, inference = layer_of(BatchNormAct, rng=1).freeze(), layer_of(BatchNormAct, rng=1).eval()
    for p in (0.0, 0.5):
        layer.p = inference.p = p
        inference.sampling = True
        np.testing.assert_array_equal(layer(X, DY), inference(X, DY, keep_x=True))
        for ours, theirs in zip(layer.backward(DY), inference.backward(DY), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(layer.dgamma, inference.dgamma)
        assert same(layer.state_dict(), inference.state_dict())
    assert layer.stream.call == 1
    assert layer.num_batches == 0


def test_a_layer_without_running_statistics_cannot_be_frozen_reset_or_updated() -> None:
    layer = BatchNorm(3, track_running_stats=False)
    for call in (layer.freeze, layer.reset_running_stats, lambda: layer.update_running_stats(X)):
        with pytest.raises(ValueError, match="track_running_stats=True"):
            call()
    assert not layer.unfreeze().frozen
    with pytest.raises(TypeError, match="frozen must be True or False"):
        BatchNorm(3).frozen = 1


# Updates alone, and the beginning.


@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"weights": WEIGHTS}, {"mask": MASK, "weights": WEIGHTS}])
@pytest.mark.parametrize("how", [{}, {"momentum": None}, {"momentum": "population"}, {"debias": True}])
def test_an_update_alone_is_that_of_a_training_pass(backend: Any, how: Any, options: Any) -> None:
    trained, updated = layer_of(**how), layer_of(**how).eval()
    for x in (X, X[::-1, :, ::-1] + 1.0, X[:, ::-1]):
        trained.forward(x, **options, return_context=True)
        assert updated.update_running_stats(x, **options) is updated
        for name in ("running_mean", "running_var", "num_batches", "num_values"):
            np.testing.assert_allclose(getattr(updated, name), getattr(trained, name), rtol=1e-13)
    with pytest.raises(RuntimeError, match="forward pass"):
        updated.backward(X)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, -1])
def test_an_update_alone_takes_every_dtype_and_channel_axis_and_shared_batches(dtype: Any, axis: int) -> None:
    x = (X if axis == 1 else X.swapaxes(1, 2)).astype(dtype)
    trained, updated = (BatchNorm(3, channel_axis=axis, reduce=lambda part: part + part) for _ in range(2))
    trained(x)
    updated.update_running_stats(x)
    np.testing.assert_allclose(updated.running_var, trained.running_var, rtol=1e-13)
    assert updated.num_values == trained.num_values == 60
    with pytest.raises(ValueError, match="mask and weights must be None where reduce is given"):
        updated.update_running_stats(x, mask=MASK)


def test_an_update_of_nothing_changes_nothing() -> None:
    layer = layer_of()
    layer(X)
    before = layer.state_dict()
    layer.update_running_stats(X[:0])
    layer.update_running_stats(X, mask=np.zeros_like(MASK))
    assert same(layer.state_dict(), before)


ONE = np.zeros_like(MASK)
ONE[0, 0] = True
CALLS = [
    (lambda layer: layer.update_running_stats(X.tolist()), TypeError, "x must be"),
    (lambda layer: layer.update_running_stats(X[:, :2]), ValueError, "num_features = 3"),
    (lambda layer: layer.update_running_stats(X[:1, :, :1]), ValueError, "one value per channel"),
    (lambda layer: layer.update_running_stats(X, mask=ONE), ValueError, "one position counts"),
    (lambda layer: layer.update_running_stats(X, mask=MASK[:2]), ValueError, "mask must have the shape of x"),
    (lambda layer: layer.update_running_stats(X, weights=-WEIGHTS), ValueError, "weights must be finite"),
    (lambda layer: layer.update_running_stats(X * np.nan), FloatingPointError, "no finite mean"),
]


@pytest.mark.parametrize("momentum", [0.9, "population"])
@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_an_update_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: str, momentum: Any) -> None:
    layer = layer_of(on_nonfinite="raise", momentum=momentum)
    refused(SimpleNamespace(layer=layer), lambda things: call(things.layer), error, words)


@pytest.mark.parametrize("momentum", [0.9, "population"])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_statistics_that_cannot_be_written_change_nothing(name: str, momentum: Any) -> None:
    layer = layer_of(momentum=momentum)
    getattr(layer, name).flags.writeable = False
    before = layer.state_dict()
    for call in (layer, layer.update_running_stats, lambda _: layer.reset_running_stats()):
        with pytest.raises(ValueError, match="read-only"):
            call(X)
        assert same(layer.state_dict(), before)


@pytest.mark.parametrize("momentum", [0.9, None, "population"])
def test_a_reset_layer_starts_anew_and_keeps_what_it_has_learned(momentum: Any) -> None:
    layer = layer_of(momentum=momentum)
    layer(X)
    assert layer.reset_running_stats() is layer
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0] * 3, [1.0] * 3)
    assert (layer.num_batches, layer.num_values, layer.gamma.tolist()) == (0, 0, [1.0, 2.0, -3.0])
    new = normdrop.BatchNorm(3, momentum=momentum, dtype=np.float64)
    layer(X)
    new(X)
    assert layer.running_var.tobytes() == new.running_var.tobytes()
