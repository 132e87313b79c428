"""The batch norm layer where not all positions count: running statistics, counts, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import ChannelStatistics

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.once]

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (6, 3, 5))
MASK = np.arange(5) < np.array([5, 3, 1, 4, 0, 2])[:, None]
WEIGHTS = RNG.random((6, 5)).astype(np.float32)


def of(x: Any) -> tuple[Any, Any]:
    """The values that count, a row for each position."""
    return x.swapaxes(1, 2)[MASK], WEIGHTS[MASK].astype(float)


@pytest.mark.parametrize("momentum", [0.9, None])
def test_running_statistics_take_what_counts(momentum: float | None) -> None:
    layer, plain = (normdrop.BatchNorm(3, momentum=momentum, dtype=np.float64) for _ in range(2))
    rows, _ = of(X)
    y = layer(X, mask=MASK)
    np.testing.assert_allclose(of(y)[0], plain(rows), rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, plain.running_mean, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, plain.running_var, rtol=1e-13)
    assert (layer.num_batches, layer.num_values) == (1, 15)
    dy = RNG.normal(size=X.shape)
    np.testing.assert_allclose(of(layer.backward(dy))[0], plain.backward(of(dy)[0]), rtol=0, atol=1e-12)
    np.testing.assert_allclose([layer.dgamma, layer.dbeta], [plain.dgamma, plain.dbeta], rtol=1e-12)


def test_weights_say_how_often_a_value_counts() -> None:
    layer, plain = (normdrop.BatchNorm(3, dtype=np.float64) for _ in range(2))
    twice = np.where(MASK, 2.0, 0.0)
    layer(X, weights=twice)
    plain(np.concatenate([of(X)[0]] * 2))
    np.testing.assert_allclose(layer.running_var, plain.running_var, rtol=1e-13)
    assert layer.num_values == plain.num_values == 30


def test_inference_writes_zeros_where_nothing_counts_and_takes_no_weights() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64).eval()
    y = layer(X, mask=MASK)
    np.testing.assert_array_equal(y, np.where(MASK[:, None], layer(X), 0))
    with pytest.raises(ValueError, match="weights must be None in inference"):
        layer(X, weights=WEIGHTS)


@pytest.mark.parametrize("masked", ["zero", "normalize", "keep"])
def test_a_batch_of_which_nothing_counts_changes_no_state(masked: Any) -> None:
    layer = normdrop.BatchNorm(3)
    layer(X.astype(np.float32), mask=MASK)
    before = layer.state_dict()
    layer(X.astype(np.float32), mask=np.zeros_like(MASK), masked=masked)
    after = layer.state_dict()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_failed_call_changes_nothing() -> None:
    layer = normdrop.BatchNorm(3, on_nonfinite="raise", dtype=np.float64)
    before = layer.state_dict()
    x = np.where(MASK[:, None], np.inf, X)
    for options in ({"mask": MASK[:4]}, {"mask": MASK, "masked": "no"}, {"weights": -WEIGHTS}):
        with pytest.raises(ValueError, match="must"):
            layer(X, **options)
    with pytest.raises(FloatingPointError):
        layer(x, mask=MASK)
    assert all(np.array_equal(values, before[name]) for name, values in layer.state_dict().items())
    layer(np.where(MASK[:, None], X, np.nan), mask=MASK)  # what does not count may be anything


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["mask", "weights"])
@pytest.mark.parametrize("axis", [1, 2])
def test_statistics_of_positions_are_those_of_the_values_that_count(axis: int, weights: Any) -> None:
    x = np.where(MASK[:, None], X, np.nan)
    along = (slice(None), None) if axis == 1 else (slice(None), slice(None), None)
    given = {"mask": MASK[along]} if weights is None else {"mask": MASK[along], "weights": weights[along]}
    found = ChannelStatistics.of(x if axis == 1 else x.swapaxes(1, 2), axis, **given)
    rows, w = of(X)
    w = np.ones(len(rows)) if weights is None else w
    mean = np.average(rows, axis=0, weights=w)
    np.testing.assert_allclose(found.n, w.sum(), rtol=1e-15)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(found.var(), np.average((rows - mean) ** 2, axis=0, weights=w), rtol=1e-12)
    assert not ChannelStatistics.of(X, mask=np.zeros((6, 1, 5), np.bool_)).n.any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras's own conversion
def test_a_mask_is_that_of_keras_where_keras_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras normalizes what does not count by the statistics of the rest, and keeps biased variances."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    theirs = keras.layers.BatchNormalization(axis=-1, epsilon=1e-5, momentum=0.9)
    ours = normdrop.BatchNorm(3, channel_axis=-1, unbiased=False)
    x = X.swapaxes(1, 2).astype(np.float32)
    expected = keras.ops.convert_to_numpy(theirs(x, training=True, mask=MASK))
    np.testing.assert_allclose(ours(x, mask=MASK, masked="normalize"), expected, rtol=0, atol=2e-6)
    for name, values in (("moving_mean", ours.running_mean), ("moving_variance", ours.running_var)):
        np.testing.assert_allclose(values, keras.ops.convert_to_numpy(getattr(theirs, name)), rtol=1e-5)
