"""Running statistics are float64 and hold what the data have; `update_running` does what a layer does."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytestmark = pytest.mark.usefixtures("backend")


def _batches(mean: float, sd: float, n_batches: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(mean, sd, (n_batches, 16, 1)).astype(np.float32)


def _trained(layer: normdrop.BatchNorm, batches: Any) -> normdrop.BatchNorm:
    for x in batches:
        layer.forget()
        layer(x)
    return layer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_are_float64_whatever_the_dtype_of_the_parameters(dtype: type) -> None:
    layer = normdrop.BatchNorm(3, dtype=dtype)
    layer(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16))
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float64
    assert layer.state_dict()["running_mean"].dtype == np.float64
    assert layer.gamma.dtype == dtype


@pytest.mark.parametrize("center", [300.0, 1000.0])
def test_a_cumulative_average_of_many_batches_far_from_zero_is_that_of_their_values(center: float) -> None:
    """As float32 it was 0.1 standard deviations off after 20 000 batches; a tenth of them shows it as well."""
    batches = np.concatenate([_batches(center, 0.1, 1000, 1), _batches(center + 0.02, 0.1, 1000, 2)])
    layer = _trained(normdrop.BatchNorm(1, momentum=None), batches)
    assert abs(layer.running_mean[0] - batches.astype(np.float64).mean()) < 1e-9 * center


@pytest.mark.parametrize("momentum", [0.999, 0.9999])
def test_a_momentum_close_to_one_does_not_stall(momentum: float) -> None:
    """The step (1 - momentum) * (batch - running) is lost in float32 where it is less than half an ulp."""
    layer = normdrop.BatchNorm(1, momentum=momentum, affine=False)
    layer.running_mean[...] = 300.0
    x = np.array([[299.9], [300.1], [300.0], [300.2]], np.float32)
    mean = Fraction(0)
    for value in x.ravel():
        mean += Fraction(float(value)) / 4
    _trained(layer, [x] * 2000)
    expected = float(mean) + (300.0 - float(mean)) * momentum**2000
    assert layer.running_mean[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("mean", "sd", "dtype"), [(1e9, 1.0, np.float64), (1e6, 1.0, np.float64), (2e4, 0.02, np.float32)]
)
def test_inference_reproduces_training_far_from_zero(mean: float, sd: float, dtype: type) -> None:
    x = np.random.default_rng(3).normal(mean, sd, (64, 3)).astype(dtype)
    layer = normdrop.BatchNorm(3, momentum=0.0, unbiased=False)
    y = layer(x)
    np.testing.assert_allclose(layer.eval()(x), y, rtol=0, atol=1e-6)


def test_a_state_in_float32_is_loaded_and_one_in_float64_serves_others() -> None:
    layer = _trained(normdrop.BatchNorm(1), _batches(300.0, 0.1, 3, 4))
    state = layer.state_dict()
    narrow = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values for name, values in state.items()
    }
    other = normdrop.BatchNorm(1)
    other.load_state_dict(narrow)
    assert other.running_mean.dtype == np.float64
    np.testing.assert_array_equal(other.running_mean, narrow["running_mean"].astype(np.float64))
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.running_mean, layer.running_mean)


@pytest.mark.parametrize("on_nonfinite", ["propagate", "skip"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0, 1.0, None])
def test_update_running_does_what_the_layer_does(momentum: float | None, unbiased: bool, on_nonfinite: Any) -> None:
    layer = normdrop.BatchNorm(2, momentum=momentum, unbiased=unbiased, on_nonfinite=on_nonfinite)
    mean, var, num_batches, num_values = np.zeros(2), np.ones(2), 0, 0
    rng = np.random.default_rng(5)
    for shape in [(4, 2), (0, 2), (3, 2, 5), (7, 2)]:
        x = rng.normal(2.0, 3.0, shape)
        if shape == (7, 2):
            x[0, 1] = 1e300
        with np.errstate(over="ignore", invalid="ignore"):
            y, context = functional.batch_norm(x, layer.gamma, layer.beta)
            np.testing.assert_array_equal(layer(x), y)
            options: Any = {"momentum": momentum, "unbiased": unbiased, "on_nonfinite": on_nonfinite}
            taken = functional.update_running(mean, var, context, num_values=num_values, **options)
        if taken:
            num_batches, num_values = num_batches + 1, num_values + context.n
    assert (layer.num_batches, layer.num_values) == (num_batches, num_values)
    assert layer.running_mean.tobytes() == mean.tobytes()
    assert layer.running_var.tobytes() == var.tobytes()


def test_update_running_takes_arrays_of_any_strides_and_changes_nothing_beside_them() -> None:
    x = np.random.default_rng(6).normal(2.0, 3.0, (5, 3))
    _, context = functional.batch_norm(x)
    whole, mean, var = np.full((2, 6), 7.0), np.zeros(3), np.ones(3)
    views = whole[0, ::2], whole[1, ::-2]
    views[0][...], views[1][...] = mean, var
    for statistics in (views, (mean, var)):
        assert functional.update_running(*statistics, context)
    np.testing.assert_array_equal(views, (mean, var))
    np.testing.assert_array_equal(whole[0, 1::2], np.full(3, 7.0))
    np.testing.assert_array_equal(whole[1, ::2], np.full(3, 7.0))


BAD = {
    "float32": (
        lambda s: (s.narrow, s.var, s.context),
        {},
        TypeError,
        ("running_mean must have dtype float64", "astype"),
    ),
    "a list": (lambda s: ([0.0] * 3, s.var, s.context), {}, TypeError, ("running_mean", "list")),
    "a number": (lambda s: (s.mean, 1.0, s.context), {}, TypeError, ("running_var", "float")),
    "read-only": (lambda s: (s.mean, s.locked, s.context), {}, ValueError, ("running_var is read-only", "copy()")),
    "context": (lambda s: (s.mean, s.var, s.inference), {}, TypeError, ("context", "batch_norm()", "InferenceContext")),
    "another channel axis": (
        lambda s: (s.mean, s.var, s.context._replace(channel_axis=0)),
        {},
        ValueError,
        ("context.statistics", "(5, 3)", "channel_axis = 0"),
    ),
    "a channel axis that x has not": (
        lambda s: (s.mean, s.var, s.context._replace(channel_axis=7)),
        {},
        ValueError,
        ("channel_axis", "7"),
    ),
    "x of one axis": (lambda s: (s.mean, s.var, s.context._replace(x=np.ones(3))), {}, ValueError, ("axes", "(3,)")),
    "statistics of one axis": (
        lambda s: (s.mean, s.var, s.context._replace(statistics=np.full(3, np.nan))),
        {"on_nonfinite": "skip"},
        ValueError,
        ("context.statistics", "(3,)"),
    ),
    "a statistic without axes": (
        lambda s: (s.mean, s.var, s.context._replace(statistics=np.array(1.0))),
        {},
        ValueError,
        ("context.statistics", "()"),
    ),
    "momentum": (lambda s: (s.mean, s.var, s.context), {"momentum": 1.5}, ValueError, ("momentum", "1.5")),
    "num_values": (lambda s: (s.mean, s.var, s.context), {"num_values": -1}, ValueError, ("num_values", "-1")),
    "unbiased": (lambda s: (s.mean, s.var, s.context), {"unbiased": 1}, TypeError, ("unbiased", "int 1")),
    "on_nonfinite": (
        lambda s: (s.mean, s.var, s.context),
        {"on_nonfinite": "no"},
        ValueError,
        ("on_nonfinite", "'no'"),
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_update_running_refuses_bad_input_and_changes_nothing(refused: Any, case: str) -> None:
    arguments, options, error, words = BAD[case]
    x = np.random.default_rng(7).normal(size=(5, 3))
    s = SimpleNamespace(mean=np.zeros(3), var=np.ones(3), narrow=np.zeros(3, np.float32), locked=np.ones(3))
    s.locked.flags.writeable = False
    s.context = functional.batch_norm(x)[1]
    s.inference = functional.batch_norm_inference(x, s.mean, s.var)[1]
    refused(s, lambda s: functional.update_running(*arguments(s), **options), error, *words)


def test_update_running_refuses_one_array_for_both() -> None:
    _, context = functional.batch_norm(np.array([[1.0], [3.0]]))
    both = np.ones(2)
    for pair in ((both[:1], both[:1]), (both[:1], both[0:2][:1])):
        with pytest.raises(ValueError, match="running_mean and running_var share memory"):
            functional.update_running(*pair, context)


def test_update_running_raises_for_a_batch_that_is_not_finite_and_changes_nothing() -> None:
    mean, var = np.zeros(3), np.ones(3)
    x = np.ones((4, 3))
    x[0, 1] = np.nan
    with np.errstate(invalid="ignore"):
        _, context = functional.batch_norm(x)
    with pytest.raises(FloatingPointError, match="channel 1"):
        functional.update_running(mean, var, context, on_nonfinite="raise")
    np.testing.assert_array_equal([mean, var], [np.zeros(3), np.ones(3)])
