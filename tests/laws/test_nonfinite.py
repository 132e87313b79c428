"""NaN, infinity and overflow: what is dropped vanishes, what is kept stays within its channel, and who decides."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.same]

Array = np.ndarray[Any, np.dtype[Any]]
CHOICES = ["propagate", "raise", "skip"]
BAD = [np.nan, np.inf, -np.inf]

# NumPy warns of invalid operations in the reference; compiled kernels are silent, and so are the same as plain Python.
invalid_in_reference = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")


def _x(seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).normal(2.0, 3.0, (8, 3)).astype(dtype)


def _dirty(value: float, channel: int = 1, dtype: Any = np.float32) -> Array:
    x = _x(1, dtype)
    x[4, channel] = value
    return x


def _layer(on_nonfinite: str = "propagate", **options: Any) -> normdrop.BatchNorm:
    """A layer that has seen a batch, in the middle of training."""
    layer = normdrop.BatchNorm(3, on_nonfinite=on_nonfinite, **options)
    layer(_x())
    layer.forget()
    return layer


def _everything(layer: normdrop.BatchNorm) -> bytes:
    return pickle.dumps(layer)


@invalid_in_reference
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("momentum", [0.9, None])
def test_by_default_a_nonfinite_batch_reaches_the_running_statistics_of_its_channel_alone(momentum, value) -> None:
    layer, clean = _layer(momentum=momentum), _layer(momentum=momentum)
    layer(_dirty(value))
    clean(_x(1))
    assert not np.isfinite(layer.running_mean[1])
    assert np.isnan(layer.running_var[1])
    for name in ("running_mean", "running_var"):
        assert np.array_equal(getattr(layer, name)[[0, 2]], getattr(clean, name)[[0, 2]])
    assert (layer.num_batches, layer.num_values) == (2, 16)


@invalid_in_reference
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("momentum", [0.9, None, 0.0, 1.0])
def test_skip_normalizes_and_leaves_running_statistics_and_counts_as_they_were(momentum, value) -> None:
    layer, propagating = _layer("skip", momentum=momentum), _layer(momentum=momentum)
    before = layer.state_dict()
    x = _dirty(value)
    assert layer(x).tobytes() == propagating(x).tobytes()
    after = layer.state_dict()
    assert {name: array.tobytes() for name, array in after.items()} == {n: a.tobytes() for n, a in before.items()}
    dy = _x(2)
    assert layer.backward(dy).tobytes() == propagating.backward(dy).tobytes()
    layer(_x(3))
    assert layer.num_batches == 2
    assert np.isfinite(layer.running_var).all()


@invalid_in_reference
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", ["new", "out", "in place", "in place, strided"])
def test_raise_names_channel_and_remedy_and_changes_nothing(place, value) -> None:
    layer = _layer("raise")
    layer(_x())
    x = _dirty(value, channel=2)
    if place == "in place, strided":
        x = np.repeat(x, 2, axis=1)[:, ::2]
    bits, before = x.tobytes(), _everything(layer)
    out = {"new": None, "out": np.empty_like(x)}.get(place, x)
    with pytest.raises(FloatingPointError) as caught:
        layer(x, out=out)
    for words in ("channel 2 (mean", "variance nan", "on_nonfinite='skip'", "unchanged"):
        assert words in str(caught.value)
    assert _everything(layer) == before
    assert x.tobytes() == bits
    layer.backward(_x(2))  # the forward pass before is still the last one


@invalid_in_reference
def test_raise_says_how_many_channels() -> None:
    with pytest.raises(FloatingPointError, match=r"in channel 0 and 2 more \(mean nan, variance nan\)"):
        _layer("raise")(np.full((4, 3), np.nan, np.float32))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_variance_beyond_float32_is_finite_in_the_running_statistics(choice) -> None:
    x = np.full((4, 3), -3e38, np.float32)
    x[::2, 1] = 3e38
    layer = _layer(choice)
    assert np.isfinite(layer(x)).all()
    assert layer.num_batches == 2
    assert layer.running_var[1] == pytest.approx(0.1 * 9e76 * 4 / 3, rel=1e-6)


@invalid_in_reference
@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_a_variance_beyond_float64_counts_as_not_finite(choice) -> None:
    x = np.full((4, 3), -1e160)
    x[::2, 1] = 1e160
    layer = _layer(choice)
    if choice == "skip":
        layer(x)
    else:
        with pytest.raises(FloatingPointError, match=r"no finite mean and variance in channel 1 \("):
            layer(x)
    assert layer.num_batches == 1


@invalid_in_reference
def test_an_infinite_running_variance_makes_inference_give_beta() -> None:
    x = np.full((4, 3), -1e160)
    x[::2, 1] = 1e160
    layer = _layer()
    layer.beta[...] = 0.5
    layer(x)
    assert np.array_equal(np.isinf(layer.running_var), [False, True, False])
    assert np.array_equal(layer.eval()(_x())[:, 1], np.full(8, 0.5, np.float32))


@pytest.mark.parametrize("choice", CHOICES)
def test_finite_batches_are_all_the_same_to_every_choice(choice) -> None:
    layer, default = _layer(choice), _layer()
    for seed in range(3):
        assert layer(_x(seed)).tobytes() == default(_x(seed)).tobytes()
    assert all(np.array_equal(a, default.state_dict()[name]) for name, a in layer.state_dict().items())
    assert layer.num_batches == 4


@invalid_in_reference
@pytest.mark.parametrize("choice", CHOICES)
def test_where_there_are_no_running_statistics_to_change_every_choice_propagates(choice) -> None:
    untracked = normdrop.BatchNorm(3, track_running_stats=False, on_nonfinite=choice)
    assert np.isnan(untracked(_dirty(np.nan))[:, 1]).all()
    inference = _layer(choice).eval()
    y = inference(_dirty(np.nan))
    assert np.array_equal(np.isnan(y), np.isnan(_dirty(np.nan)))
    assert inference.num_batches == 1


@invalid_in_reference
def test_a_nan_that_is_already_in_the_running_statistics_raises_nothing() -> None:
    """The batch decides, not the old value: a layer that holds a NaN goes on learning in the other channels."""
    layer = _layer()
    layer(_dirty(np.nan))
    layer.on_nonfinite = "raise"
    layer(_x(5))
    assert layer.num_batches == 3


def test_the_choice_is_an_attribute_and_part_of_repr_copies_and_pickles() -> None:
    layer = _layer("skip")
    assert layer.on_nonfinite == "skip"
    assert "on_nonfinite='skip'" in repr(layer)
    assert copy.deepcopy(layer).on_nonfinite == pickle.loads(pickle.dumps(layer)).on_nonfinite == "skip"
    layer.on_nonfinite = "raise"
    assert layer.on_nonfinite == "raise"
    assert normdrop.BatchNorm2d(3).on_nonfinite == "propagate"
    assert set(layer.state_dict()) == set(_layer().state_dict())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", BAD)
def test_a_dropped_value_vanishes_and_a_kept_one_passes(value, dtype) -> None:
    x = np.full((64, 33), value, dtype)
    y, context, mask = functional.dropout(x, 0.5, rng=1, return_mask=True)
    dx = functional.dropout_backward(x, context)
    for result in (y, dx):
        assert np.array_equal(result[mask], x[mask], equal_nan=True)
        assert not result[~mask].any()
        assert not np.signbit(result[~mask]).any()


@invalid_in_reference
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("value", BAD)
def test_inference_and_gradients_keep_a_bad_value_where_it_belongs(value, channel_axis, dtype) -> None:
    """Inference: the element alone. Gradients of dy: in training the channel, in inference the element."""
    rng = np.random.default_rng(2)
    shape = (4, 5, 7) if channel_axis == 1 else (4, 7, 5)
    x, dy = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    place = (2, 3, 4)
    channel = np.zeros(shape, np.bool_)
    channel[(slice(None), place[1], slice(None)) if channel_axis == 1 else (..., place[2])] = True
    mean, var = rng.normal(size=5), rng.uniform(0.5, 2.0, 5)

    def inference(x: Array) -> Array:
        return functional.batch_norm_inference(x, mean, var, channel_axis=channel_axis)[0]

    dirty = x.copy()
    dirty[place] = value
    alone = np.arange(x.size).reshape(shape) == np.ravel_multi_index(place, shape)
    assert np.array_equal(inference(dirty)[~alone], inference(x)[~alone])
    assert not np.isfinite(inference(dirty)[place])

    _, context = functional.batch_norm(x, channel_axis=channel_axis)
    bad_dy = dy.copy()
    bad_dy[place] = value
    clean, spoiled = functional.batch_norm_backward(dy, context)[0], functional.batch_norm_backward(bad_dy, context)[0]
    assert np.array_equal(spoiled[~channel], clean[~channel])
    assert not np.isfinite(spoiled[channel]).any()
