"""Fused passes at the edges: nothing, everything, one value, NaN where it is dropped, and slopes of 0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, functional

from ..unfused import arrays, stream

pytestmark = pytest.mark.usefixtures("backend")


def _is_plus_zero(values: Any) -> bool:
    return bool(np.all(values == 0.0)) and not np.signbit(values).any()


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (0, 3, 2, 2)])
def test_an_empty_batch_gives_empty_results_and_moves_no_stream(shape: tuple[int, ...]) -> None:
    x, one, moved = np.empty(shape, np.float32), np.ones(3, np.float32), stream()
    y, context = functional.batch_norm_act(x, one, one, residual=x, p=0.5, rng=moved)
    dx, dresidual, dgamma, dbeta = functional.batch_norm_act_backward(x, context)
    assert dresidual is not None
    assert [each.shape for each in (y, dx, dresidual)] == [shape] * 3
    assert _is_plus_zero(dgamma)
    assert _is_plus_zero(dbeta)
    y, context = functional.batch_norm_act_inference(x, np.zeros(3), np.ones(3), one, one, residual=x, keep_x=True)
    dx, dresidual, dgamma, dbeta = functional.batch_norm_act_inference_backward(x, context)
    assert [each.shape for each in (y, dx, dresidual)] == [shape] * 3
    assert _is_plus_zero(dgamma)
    y, context = functional.act_dropout(x, residual=x, p=0.5, rng=moved)
    assert y.shape == functional.act_dropout_backward(x, context).shape == shape
    assert moved == stream()


def test_without_dropout_the_stream_stays_and_with_it_moves_by_one_call() -> None:
    given = arrays((4, 3), np.float32)
    dy = given.pop("dy")
    for p, calls in ((0.0, 0), (0.4, 1), (1.0, 1)):
        moved = stream()
        y, context = functional.batch_norm_act(**given, p=p, rng=moved)
        assert moved == MaskStream.from_key((1, 2), 3 + calls)
        again = stream()
        functional.act_dropout(given["x"], p=p, rng=again)
        assert moved == again
        if p == 1.0:
            dx, dresidual, dgamma, dbeta = functional.batch_norm_act_backward(dy, context)
            assert all(_is_plus_zero(each) for each in (y, dresidual, dgamma, dbeta))
            assert not dx.any()
            assert dx.shape == dy.shape


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel_is_refused_in_training_and_taken_in_inference(
    shape: tuple[int, ...], refused: Any
) -> None:
    things = SimpleNamespace(x=np.ones(shape, np.float32), stream=stream())
    words = "one value per channel", "batch_norm_act_inference"
    refused(things, lambda s: functional.batch_norm_act(s.x, p=0.5, rng=s.stream), ValueError, *words)
    y, _ = functional.batch_norm_act_inference(things.x, np.zeros(3), np.ones(3))
    np.testing.assert_allclose(y, 1.0, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_dropped_is_plus_zero_whatever_it_was(bad: float) -> None:
    given = arrays((8, 6), np.float32)
    x, residual, dy = given["x"], given["residual"], given["dy"]
    kept = functional.dropout(np.ones((8, 6), np.float32), 0.4, rng=stream())[0] != 0
    at = tuple(np.argwhere(~kept)[0])
    x[at] = bad
    for activation in ("relu", "leaky_relu"):
        how = {"activation": (activation, -1.0) if activation == "leaky_relu" else activation, "p": 0.4}
        y, context = functional.act_dropout(x, **how, rng=stream())
        dx = functional.act_dropout_backward(dy, context)
        assert _is_plus_zero(y[~kept])
        assert _is_plus_zero(dx[~kept])
        assert np.isfinite(y).all()
        assert np.isfinite(dx).all()
    y, _ = functional.act_dropout(x, residual=residual, p=0.4, rng=stream())
    np.testing.assert_array_equal(y[~kept], residual[~kept])
    given = arrays((8, 6), np.float32)
    y, context = functional.batch_norm_act(given["x"], residual=x, p=0.4, rng=stream())
    assert _is_plus_zero(y[~kept])
    assert all(np.isfinite(each).all() for each in functional.batch_norm_act_backward(given["dy"], context))
    context = functional.batch_norm_act(given["x"], residual=residual, p=0.4, rng=stream())[1]
    dy[~kept] = bad
    dx, dresidual, dgamma, dbeta = functional.batch_norm_act_backward(dy, context)
    assert dresidual is not None
    assert _is_plus_zero(dresidual[~kept])
    assert all(np.isfinite(each).all() for each in (dx, dgamma, dbeta))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_where_the_slope_is_zero_the_gradient_is_plus_zero_whatever_dy_is(bad: float) -> None:
    x = np.array([[-2.0, 3.0], [3.0, -2.0], [-1.0, -1.0]])
    dy = np.where(x < 0, bad, 1.0)
    dx = functional.act_dropout_backward(dy, functional.act_dropout(x)[1])
    assert _is_plus_zero(dx[x < 0])
    np.testing.assert_array_equal(dx[x > 0], 1.0)
    statistics = np.zeros(2), np.ones(2)
    for y, context, backward in (
        (*functional.batch_norm_act(x, residual=x), functional.batch_norm_act_backward),
        (
            *functional.batch_norm_act_inference(x, *statistics, residual=x, keep_x=True),
            functional.batch_norm_act_inference_backward,
        ),
    ):
        dx, dresidual, _, dbeta = backward(np.where(y > 0, 1.0, bad), context)
        assert _is_plus_zero(dresidual[y == 0])
        assert np.isfinite(dx).all()
        np.testing.assert_array_equal(dbeta, (y > 0).sum(axis=0))


def test_a_nan_in_a_channel_reaches_no_other() -> None:
    x = arrays((8, 3, 4), np.float32)["x"]
    x[2, 1, 1] = np.nan
    y, context = functional.batch_norm_act(x, activation="leaky_relu")
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, ::2]).all()
    dx = functional.batch_norm_act_backward(np.ones_like(x), context)[0]
    assert np.isfinite(dx[:, ::2]).all()


def test_a_constant_channel_gives_the_activation_of_beta_exactly() -> None:
    x, beta = np.full((5, 2, 3), 0.1, np.float32), np.array([-0.3, 0.7], np.float32)
    y, _ = functional.batch_norm_act(x, None, beta, activation="relu")
    np.testing.assert_array_equal(y, np.broadcast_to(np.maximum(beta, 0)[:, None], x.shape))
