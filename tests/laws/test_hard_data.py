"""Every pass on data made to break statistics, in every dtype and layout, against float64 on the stored values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

from ..exact import HARD, TINY, VARIANCE_BOUND, Array, along, exact_channels, hard_values, layouts, relative_error

pytestmark = pytest.mark.same

# Half a unit in the last place, of |y|, and a reserve for what float64 loses before the rounding.
ROUNDING = {"float16": 5.0e-4, "bfloat16": 4.0e-3, "float32": 1e-7, "float64": 1e-9}
SMALLEST = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150, "float64": 0.0}
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234e38, "float64": math.inf}
N, C, LENGTH = 259, 3, 37


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def _close(computed: Array, exact: Array, scale: Array | float, what: str) -> None:
    """|computed - exact| within the rounding of the dtype, of |exact|, and 1e-9 of `scale`; beyond the dtype, equal."""
    name = computed.dtype.name
    with np.errstate(over="ignore"):
        rounded = exact.astype(computed.dtype).astype(np.float64)
    wide = computed.astype(np.float64)
    bound = ROUNDING[name] * np.abs(exact) + SMALLEST[name] + 1e-9 * scale
    fine = (wide == rounded) | (np.abs(wide - exact) <= bound)
    assert fine.all(), f"{what}: {wide[~fine][:3]} instead of {np.broadcast_to(exact, wide.shape)[~fine][:3]}"


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("name", list(HARD))
def test_every_pass_is_exact_on_hard_data_in_every_layout(name: str, dtype: str) -> None:
    rows = hard_values(name, N, C, _dtype(dtype), LARGEST[dtype])
    eps = TINY.get(name, 1e-5)
    mean, var = exact_channels(rows, 1)
    rng = np.random.default_rng(4)
    gamma, beta = rng.normal(size=C), rng.normal(size=C)
    all_dy = rng.normal(size=rows.shape).astype(rows.dtype)
    for (layout, x, axis), (_, dy, _) in zip(layouts(rows, LENGTH), layouts(all_dy, LENGTH), strict=True):
        others = tuple(k for k in range(x.ndim) if k != axis % x.ndim)

        def wide(vector: Array, ndim: int = x.ndim, axis: int = axis) -> Array:
            return along(vector, ndim, axis)

        inv_std = 1.0 / np.sqrt(var + eps)
        x_hat, wide_dy = (x.astype(np.float64) - wide(mean)) * wide(inv_std), dy.astype(np.float64)
        y, context = functional.batch_norm(x, gamma, beta, eps=eps, channel_axis=axis)
        assert relative_error(context.var, var) <= VARIANCE_BOUND, layout
        assert np.all(np.abs(context.mean - mean) <= 1e-9 * np.sqrt(var) + 1e-15 * np.abs(mean)), layout
        exact, scale = wide(gamma) * x_hat + wide(beta), 1.0 + np.abs(wide(gamma) * x_hat)
        _close(y, exact, scale, f"y, {layout}")
        frozen = functional.batch_norm_inference(x, mean, var, gamma, beta, eps=eps, channel_axis=axis, keep_x=True)
        _close(frozen[0], exact, scale, f"y of inference, {layout}")

        sums = [np.array(values) for values in (np.sum(wide_dy * x_hat, axis=others), np.sum(wide_dy, axis=others))]
        scale = np.sum(np.abs(wide_dy) * (1.0 + np.abs(x_hat)), axis=others)
        n = rows.shape[0]
        residuals = wide_dy, wide(sums[1] / n), x_hat * wide(sums[0] / n)
        exact_dx = (residuals[0] - residuals[1] - residuals[2]) * wide(gamma * inv_std)
        dx_scale = sum(np.abs(part) for part in residuals) * np.abs(wide(gamma * inv_std))
        dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
        _close(dgamma, sums[0], scale, f"dgamma, {layout}")
        _close(dbeta, sums[1], scale, f"dbeta, {layout}")
        _close(dx, exact_dx, dx_scale, f"dx, {layout}")
        dx, dgamma, dbeta = functional.batch_norm_inference_backward(dy, frozen[1])
        assert dgamma is not None
        assert dbeta is not None
        _close(dgamma, sums[0], scale, f"dgamma of inference, {layout}")
        _close(dbeta, sums[1], scale, f"dbeta of inference, {layout}")
        _close(dx, wide_dy * wide(gamma * inv_std), 0.0, f"dx of inference, {layout}")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(HARD))
def test_running_statistics_are_the_batch_rounded_once(name: str, dtype: type) -> None:
    rows = hard_values(name, N, C, np.dtype(np.float32), LARGEST["float32"])
    mean, var = exact_channels(rows, 1)
    layer = normdrop.BatchNorm(C, momentum=0.0, dtype=dtype)
    layer(rows)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    _close(layer.running_mean, mean, np.sqrt(var) + 1e-6 * np.abs(mean), "mean")
    _close(layer.running_var, var * (N / (N - 1)), var, "variance")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("magnitude", [1e150, 1e155, 1e300])
def test_float64_variances_overflow_where_their_squares_do(magnitude: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2)) * np.array([magnitude, 1.0])
    with np.errstate(over="ignore", invalid="ignore"):
        y, context = functional.batch_norm(x)
    assert np.isfinite(context.var[0]) == (magnitude == 1e150)
    assert relative_error(context.var[1:], exact_channels(x[:, 1:], 1)[1]) <= VARIANCE_BOUND
    assert np.isfinite(y[:, 1]).all()
