"""Batch norm as functions: forward, inference and backward, their outputs, contexts and edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normdrop import functional

from ..exact import along, exact_channels, exact_output, output_error

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.simulated]

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]
SHAPES = [
    ((6, 3), 1),
    ((6, 3), -1),
    ((4, 3, 5), 1),
    ((4, 5, 3), -1),
    ((2, 3, 4, 5), 1),
    ((3, 4, 17), 0),
    ((2, 3, 2, 3, 2), 2),
]
EPS = 1e-5


def _bound(dtype: Any) -> float:
    return 1e-6 if np.dtype(dtype) == np.float32 else 1e-12


def _made(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(dtype)


def _parameters(n_channels: int, dtype: Any) -> tuple[Array, Array]:
    return _made((n_channels,), dtype, 1), _made((n_channels,), dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES, ids=str)
def test_forward_is_the_formula(shape: tuple[int, ...], channel_axis: int, dtype: type) -> None:
    x = _made(shape, dtype)
    gamma, beta = _parameters(shape[channel_axis], dtype)
    exact = exact_output(x, exact_channels(x, channel_axis), channel_axis, EPS)
    y, context = functional.batch_norm(x, channel_axis=channel_axis)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    assert output_error(y, exact) <= _bound(dtype)
    assert context.n == x.size // shape[channel_axis]
    y, _ = functional.batch_norm(x, gamma, beta, channel_axis=channel_axis)
    g, b = along(gamma, x.ndim, channel_axis), along(beta, x.ndim, channel_axis)
    assert output_error(y, exact * g + b) <= _bound(dtype)
    assert output_error(functional.batch_norm(x, gamma, channel_axis=channel_axis)[0], exact * g) <= _bound(dtype)
    assert output_error(functional.batch_norm(x, None, beta, channel_axis=channel_axis)[0], exact + b) <= _bound(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES, ids=str)
def test_inference_is_the_formula(shape: tuple[int, ...], channel_axis: int, dtype: type) -> None:
    x = _made(shape, dtype)
    n_channels = shape[channel_axis]
    gamma, beta = _parameters(n_channels, dtype)
    mean, var = _made((n_channels,), dtype, 3), np.abs(_made((n_channels,), dtype, 4))
    var[0] = 0
    statistics = mean.astype(np.float64), var.astype(np.float64)
    exact = exact_output(x, statistics, channel_axis, EPS)
    exact = exact * along(gamma.astype(np.float64), x.ndim, channel_axis)
    exact += along(beta.astype(np.float64), x.ndim, channel_axis)
    y, _ = functional.batch_norm_inference(x, mean, var, gamma, beta, channel_axis=channel_axis)
    assert y.dtype == x.dtype
    assert output_error(y, exact) <= _bound(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES, ids=str)
def test_backward_is_the_formula(shape: tuple[int, ...], channel_axis: int, dtype: type) -> None:
    x, dy = _made(shape, dtype), _made(shape, dtype, 5)
    gamma, beta = _parameters(shape[channel_axis], dtype)
    mean, var = exact_channels(x, channel_axis)
    x_hat = exact_output(x, (mean, var), channel_axis, EPS)
    others = tuple(axis for axis in range(x.ndim) if axis != channel_axis % x.ndim)
    wide = dy.astype(np.float64)
    _, context = functional.batch_norm(x, gamma, beta, channel_axis=channel_axis)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    scale = along(gamma / np.sqrt(var + EPS), x.ndim, channel_axis)
    centered_dy = wide - wide.mean(axis=others, keepdims=True)
    exact_dx = scale * (centered_dy - x_hat * (wide * x_hat).mean(axis=others, keepdims=True))
    assert dx.dtype == x.dtype
    assert output_error(dx, exact_dx) <= _bound(dtype)
    np.testing.assert_allclose(dgamma, (wide * x_hat).sum(axis=others), rtol=_bound(dtype), atol=10 * _bound(dtype))
    np.testing.assert_allclose(dbeta, wide.sum(axis=others), rtol=_bound(dtype), atol=10 * _bound(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES, ids=str)
def test_frozen_backward_is_dy_times_gamma_over_the_standard_deviation(
    shape: tuple[int, ...], channel_axis: int, dtype: type
) -> None:
    x, dy = _made(shape, dtype), _made(shape, dtype, 5)
    n_channels = shape[channel_axis]
    gamma, beta = _parameters(n_channels, dtype)
    mean, var = _made((n_channels,), dtype, 3), np.abs(_made((n_channels,), dtype, 4))
    inv_std = 1.0 / np.sqrt(var.astype(np.float64) + EPS)
    others = tuple(axis for axis in range(x.ndim) if axis != channel_axis % x.ndim)
    for keep_x in (False, True):
        _, context = functional.batch_norm_inference(
            x, mean, var, gamma, beta, channel_axis=channel_axis, keep_x=keep_x
        )
        dx, dgamma, dbeta = functional.batch_norm_inference_backward(dy, context)
        exact_dx = dy * along(gamma * inv_std, x.ndim, channel_axis)
        assert dx.dtype == x.dtype
        assert output_error(dx, exact_dx) <= _bound(dtype)
        if keep_x:
            x_hat = (x.astype(np.float64) - along(mean, x.ndim, channel_axis)) * along(inv_std, x.ndim, channel_axis)
            exact_dgamma = (dy * x_hat).sum(axis=others)
            np.testing.assert_allclose(dgamma, exact_dgamma, rtol=_bound(dtype), atol=1e2 * _bound(dtype))
            exact_dbeta = dy.astype(np.float64).sum(axis=others)
            np.testing.assert_allclose(dbeta, exact_dbeta, rtol=_bound(dtype), atol=1e2 * _bound(dtype))
        else:
            assert dgamma is None
            assert dbeta is None
            assert context.x is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameter_dtype", DTYPES)
def test_parameters_of_the_other_dtype_are_taken_and_their_gradients_have_it(
    dtype: type, parameter_dtype: type
) -> None:
    x, dy = _made((8, 3, 4), dtype), _made((8, 3, 4), dtype, 5)
    gamma, beta = _parameters(3, parameter_dtype)
    y, context = functional.batch_norm(x, gamma, beta)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    frozen_y, frozen = functional.batch_norm_inference(x, context.mean, context.var, gamma, beta, keep_x=True)
    frozen_dx, frozen_dgamma, frozen_dbeta = functional.batch_norm_inference_backward(dy, frozen)
    assert y.dtype == dx.dtype == frozen_y.dtype == frozen_dx.dtype == dtype
    assert dgamma.dtype == dbeta.dtype == frozen_dgamma.dtype == frozen_dbeta.dtype == parameter_dtype
    wide = functional.batch_norm(x.astype(np.float64), gamma.astype(np.float64), beta.astype(np.float64))[0]
    assert output_error(y, wide) <= 1e-7
    assert output_error(frozen_y, wide) <= 1e-7


def test_float64_parameters_of_float32_input_are_not_rounded() -> None:
    x = np.ones((4, 1), np.float32)
    gamma, beta = np.array([2.0**30 + 1]), np.array([-(2.0**30)])
    y, _ = functional.batch_norm_inference(x, np.zeros(1), np.ones(1), gamma, beta, eps=1e-30)
    np.testing.assert_array_equal(y, 1.0)


def test_gradients_without_gamma_have_the_dtype_of_x() -> None:
    for dtype in DTYPES:
        x = _made((5, 2), dtype)
        y, context = functional.batch_norm(x)
        _, dgamma, dbeta = functional.batch_norm_backward(y, context)
        assert dgamma.dtype == dbeta.dtype == dtype


def test_backward_may_be_called_twice_on_a_context() -> None:
    x, dy, other = _made((4, 3, 5), np.float32), _made((4, 3, 5), np.float32, 1), _made((4, 3, 5), np.float32, 2)
    gamma, beta = _parameters(3, np.float32)
    _, training = functional.batch_norm(x, gamma, beta)
    _, frozen = functional.batch_norm_inference(x, training.mean, training.var, gamma, beta, keep_x=True)
    for backward, context in (
        (functional.batch_norm_backward, training),
        (functional.batch_norm_inference_backward, frozen),
    ):
        first = [result.copy() for result in backward(dy, context)]
        backward(other, context)
        for expected, result in zip(first, backward(dy, context), strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 0, 2), (4, 0), (0, 0)], ids=str)
def test_empty_batch_gives_empty_output_and_zero_gradients(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    gamma, beta = _parameters(shape[1], np.float32)
    y, context = functional.batch_norm(x, gamma, beta)
    assert y.shape == shape
    assert y.dtype == np.float32
    assert context.mean.shape == context.var.shape == (shape[1],)
    dx, dgamma, dbeta = functional.batch_norm_backward(y, context)
    assert dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, shape[1])))
    statistics = np.zeros(shape[1]), np.ones(shape[1])
    y, frozen = functional.batch_norm_inference(x, *statistics, gamma, beta, keep_x=True)
    assert y.shape == shape
    dx, dgamma, dbeta = functional.batch_norm_inference_backward(y, frozen)
    assert dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, shape[1])))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1), (1, 1)], ids=str)
def test_one_value_per_channel_is_a_value_error_in_training_alone(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    with pytest.raises(ValueError, match="one value per channel"):
        functional.batch_norm(x)
    y, _ = functional.batch_norm_inference(x, np.zeros(shape[1]), np.ones(shape[1]))
    np.testing.assert_allclose(y, 1.0, atol=1e-5)


def test_context_keeps_the_statistics_that_were_used() -> None:
    x = _made((40, 3), np.float64)
    _, context = functional.batch_norm(x, eps=0.5)
    np.testing.assert_allclose(context.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(context.var, x.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(context.inv_std, 1.0 / np.sqrt(x.var(axis=0) + 0.5), rtol=1e-12)
