"""The statistics law, on data made to break statistics."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from normdrop import functional

from ..exact import (
    HARD,
    OUTPUT_BOUND,
    TINY,
    VARIANCE_BOUND,
    Array,
    exact_channels,
    exact_moments,
    exact_output,
    hard_rows,
    layouts,
    output_error,
    relative_error,
)

SMALL = (259, 37)
LARGE = (20020, 1001)
SIZES = [pytest.param(SMALL, id="259"), pytest.param(LARGE, id="20020", marks=pytest.mark.jit)]


def _check(x: Array, moments: tuple[Array, Array], channel_axis: int, eps: float, what: str) -> None:
    y, context = functional.batch_norm(x, eps=eps, channel_axis=channel_axis)
    mean, var = moments
    assert context.mean.dtype == context.var.dtype == np.float64, what
    assert relative_error(context.var, var) <= VARIANCE_BOUND, what
    assert np.all(np.abs(context.mean - mean) <= 1e-9 * np.sqrt(var) + 1e-15 * np.abs(mean)), what
    assert output_error(y, exact_output(x, moments, channel_axis, eps)) <= OUTPUT_BOUND[x.dtype], what


def test_oracle_is_the_exact_rational_variance() -> None:
    values = hard_rows("mean 1e6 sd 1", 500, 1)
    numbers = [Fraction(float(value)) for value in values.reshape(-1)]
    mean = sum(numbers) / 500
    var = sum((number - mean) ** 2 for number in numbers) / 500
    assert exact_moments(values) == pytest.approx((float(mean), float(var)), rel=1e-15)


@pytest.mark.usefixtures("backend")
def test_statistics_are_those_of_fifty_digits() -> None:
    x = hard_rows("huge first value", 200, 2)
    with mpmath.workdps(50):
        for channel in range(2):
            numbers = [mpmath.mpf(float(value)) for value in x[:, channel]]
            mean = mpmath.fsum(numbers) / 200
            var = mpmath.fsum((number - mean) ** 2 for number in numbers) / 200
            _, context = functional.batch_norm(x)
            assert abs(context.var[channel] / var - 1) <= 1e-12
            assert abs(context.mean[channel] / mean - 1) <= 1e-12


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(HARD))
def test_variance_and_output_are_exact_on_hard_data_in_every_layout(name: str, size: tuple[int, int]) -> None:
    rows = hard_rows(name, size[0], 3)
    moments = exact_channels(rows, 1)
    for layout, x, channel_axis in layouts(rows, size[1]):
        _check(x, moments, channel_axis, TINY.get(name, 1e-5), layout)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ratio", [1e4, 1e6, 1e8])
def test_float64_statistics_are_exact_far_from_zero(ratio: float, size: tuple[int, int]) -> None:
    rows = np.random.default_rng(3).normal(ratio, 1.0, (size[0], 3))
    moments = exact_channels(rows, 1)
    for layout, x, channel_axis in layouts(rows, size[1]):
        y, context = functional.batch_norm(x, channel_axis=channel_axis)
        assert relative_error(context.var, moments[1]) <= VARIANCE_BOUND, layout
        # The mean itself, stored in float64, is off by up to 1e-16 of the ratio.
        assert output_error(y, exact_output(x, moments, channel_axis, 1e-5)) <= 1e-15 * ratio, layout


@pytest.mark.jit
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean 300 sd 0.1", "mean 1e6 sd 1"])
def test_variance_of_a_million_rows_is_exact(name: str) -> None:
    rows = hard_rows(name, 1_000_000, 8)
    moments = exact_channels(rows, 1)
    for layout, x, channel_axis in layouts(rows, 10_000):
        _check(x, moments, channel_axis, 1e-5, layout)


@pytest.mark.jit
@pytest.mark.parametrize("name", ["one hot on zeros", "one hot on a large mean"])
def test_one_outlier_in_a_million_is_seen(name: str) -> None:
    rows = hard_rows(name, 1_000_000, 1)
    moments = exact_channels(rows, 1)
    assert moments[1][0] == pytest.approx(1e-6 - 1e-12, rel=1e-9)
    for layout, x, channel_axis in layouts(rows, 10_000):
        _check(x, moments, channel_axis, 1e-12, layout)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, -0.1, 300.1, 1e6 + 0.5, 3.3e38, 1e-45])
def test_constant_channel_gives_exactly_beta(value: float, dtype: type, size: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(0.0, 1.0, (size[0], 3)).astype(dtype)
    rows[:, 1] = value
    gamma, beta = np.array([1.0, 1e8, 1.0], dtype), np.array([0.0, 0.3, 0.0], dtype)
    for layout, x, channel_axis in layouts(rows, size[1]):
        y, context = functional.batch_norm(x, gamma, beta, channel_axis=channel_axis)
        assert context.var[1] == 0.0, layout
        assert context.mean[1] == dtype(value), layout
        assert np.all(np.moveaxis(y, channel_axis, 0)[1] == beta[1]), layout


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 150, -1])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of plain NumPy; compiled kernels are silent
def test_nan_and_infinity_stay_within_their_channel(place: int, bad: float, size: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).normal(2.0, 1.0, (size[0], 5)).astype(np.float32)
    dirty = rows.copy()
    dirty[place, 2] = bad
    clean = [0, 1, 3, 4]
    pairs = zip(layouts(rows, size[1]), layouts(dirty, size[1]), strict=True)
    for (layout, x, channel_axis), (_, x_dirty, _) in pairs:
        y, context = functional.batch_norm(x, channel_axis=channel_axis)
        y_dirty, context_dirty = functional.batch_norm(x_dirty, channel_axis=channel_axis)
        results = [(y, context), (y_dirty, context_dirty)]
        gradients = [functional.batch_norm_backward(y_, context_) for y_, context_ in results]
        (dx, dgamma, dbeta), (dx_dirty, dgamma_dirty, dbeta_dirty) = gradients
        assert not np.isfinite(context_dirty.var[2]), layout
        assert np.all(np.isnan(np.moveaxis(y_dirty, channel_axis, 0)[2])), layout
        assert np.all(np.isnan(np.moveaxis(dx_dirty, channel_axis, 0)[2])), layout
        for tensor, tensor_dirty in ((y, y_dirty), (dx, dx_dirty)):
            expected, computed = np.moveaxis(tensor, channel_axis, 0), np.moveaxis(tensor_dirty, channel_axis, 0)
            np.testing.assert_array_equal(computed[clean], expected[clean], err_msg=layout)
        vectors = [(context.mean, context_dirty.mean), (context.var, context_dirty.var)]
        for vector, vector_dirty in [*vectors, (dgamma, dgamma_dirty), (dbeta, dbeta_dirty)]:
            np.testing.assert_array_equal(vector_dirty[clean], vector[clean], err_msg=layout)
