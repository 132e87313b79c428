"""Fused passes compute their formulas, and their gradients are the derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from normdrop import functional

from ..gradcheck import check_pass
from ..unfused import LAYOUTS, arrays, stream

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.slow]

Array = np.ndarray[Any, np.dtype[Any]]
SHAPE, EPS = (3, 4, 2, 2), 1e-3
HOW: dict[str, Any] = {"activation": "silu", "p": 0.3, "eps": EPS}  # without kinks, which a difference could step over


def _batch_norm_act(inputs: Mapping[str, Array]) -> tuple[Array, Any]:
    y, context = functional.batch_norm_act(**inputs, **HOW, rng=stream())
    names = "x", "residual", "gamma", "beta"
    return y, lambda dy: dict(zip(names, functional.batch_norm_act_backward(dy, context), strict=True))


def _inference(inputs: Mapping[str, Array]) -> tuple[Array, Any]:
    mean, var = np.array([0.1, -2.0, 0.0, 1.0]), np.array([0.5, 1.0, 3.0, 0.1])
    how = {name: HOW[name] for name in ("activation", "eps")}
    y, context = functional.batch_norm_act_inference(**inputs, mean=mean, var=var, **how, keep_x=True)
    names = "x", "residual", "gamma", "beta"
    return y, lambda dy: dict(zip(names, functional.batch_norm_act_inference_backward(dy, context), strict=True))


def _act_dropout(inputs: Mapping[str, Array]) -> tuple[Array, Any]:
    y, context = functional.act_dropout(**inputs, activation="silu", p=0.3, rng=stream())
    return y, lambda dy: {"x": functional.act_dropout_backward(dy, context)}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("run", [_batch_norm_act, _inference, _act_dropout])
def test_gradients_are_central_differences_inputs_stay_and_nothing_is_aliased(run: Any, layout: str) -> None:
    given = arrays(SHAPE, np.float64, layout)
    names = ("x", "residual") if run is _act_dropout else ("x", "residual", "gamma", "beta")
    check_pass(run, {name: given[name] for name in names})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_outputs_are_the_formula_in_float64_within_their_dtype(dtype: Any) -> None:
    given = arrays((6, 5, 4), dtype)
    x, r, gamma, beta = (given[name].astype(np.float64) for name in ("x", "residual", "gamma", "beta"))
    y, context = functional.batch_norm_act(
        given["x"], given["gamma"], given["beta"], residual=given["residual"], activation="relu", p=0.4, rng=stream()
    )
    mean, var = x.mean(axis=(0, 2), keepdims=True), x.var(axis=(0, 2), keepdims=True)
    u = gamma[:, None] * (x - mean) / np.sqrt(var + 1e-5) + beta[:, None] + r
    kept = functional.dropout(np.ones(x.shape), 0.4, rng=stream())[0]
    bound = 4.0 * float(np.finfo(dtype).eps) * (2.0 + np.abs(u) + np.abs(r))
    assert (np.abs(y.astype(np.float64) - np.maximum(u, 0.0) * kept) <= bound * kept).all()
    np.testing.assert_allclose(context.statistics[0], mean.ravel(), rtol=1e-12)
    assert (context.n, context.x is given["x"]) == (24, True)
