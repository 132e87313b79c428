"""Several channel axes as one, and inputs of one channel that have no axis for it."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import BatchNorm, BatchNorm1d, BatchNormAct, BatchRenorm, GhostBatchNorm, functional

from ..gradcheck import check_pass

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.same]

AXES = [(1, 2), (2, 1), (1, 3), (-1, 0), (0, 1, 2), ()]
SHAPE = (4, 3, 2, 5)


def arrays(shape: Any = SHAPE, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(2.0, 3.0, shape).astype(dtype), rng.normal(size=shape).astype(dtype)


def moved(x: Any, axes: Any) -> Any:
    """The channels as one last axis."""
    last = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return last.reshape(*last.shape[: x.ndim - len(axes)], -1)


def layer_of(n: int, kind: Any = BatchNorm, **options: Any) -> Any:
    layer = kind(n, **{"dtype": np.float64} | options)
    rng = np.random.default_rng(1)
    for values in (layer.gamma, layer.beta, layer.running_mean):
        values[:] = rng.normal(size=n)
    return layer


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
@pytest.mark.parametrize("axes", AXES)
def test_several_axes_are_one_in_c_order(axes: Any, kind: Any) -> None:
    x, dy = arrays()
    n = math.prod(SHAPE[k] for k in axes)
    layer, one = layer_of(n, kind, channel_axis=axes), layer_of(n, kind, channel_axis=-1)
    for frozen in (False, True):
        layer.frozen = one.frozen = frozen
        y, dx = layer(x), layer.backward(dy)
        np.testing.assert_allclose(moved(y, axes), one(moved(x, axes)), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moved(dx, axes), one.backward(moved(dy, axes)), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(layer.dgamma, one.dgamma, rtol=1e-11)
        assert y.shape == dx.shape == x.shape
    for each, given in ((layer, x), (one, moved(x, axes))):
        each.update_running_stats(given).partial_fit(given)
    np.testing.assert_allclose(layer.running_var, one.running_var, rtol=1e-12)
    twin = pickle.loads(pickle.dumps(layer)).eval()
    np.testing.assert_allclose(moved(twin(x), axes), one.eval()(moved(x, axes)), rtol=1e-12, atol=1e-12)
    assert f"channel_axis={axes}" in repr(twin)


@pytest.mark.parametrize("order", ["C", "F", "reversed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("axes", [(1, 2), (1, 3)])
def test_in_place_and_into_out_in_every_dtype_and_layout(axes: Any, dtype: Any, order: str) -> None:
    x, dy = (v[::-1] if order == "reversed" else np.array(v, order=order) for v in arrays(dtype=dtype))
    layer = layer_of(math.prod(SHAPE[k] for k in axes), channel_axis=axes, dtype=np.float32)
    y, context = layer.forward(x, return_context=True)
    dx = layer.backward(dy, context=context)
    for make in (lambda v: v.copy(order="K"), np.array):
        inside, gradient, out = make(x), make(dy), np.empty(x.shape[::-1], dtype).T
        bound = 0 if dtype != np.float64 else 1e-14
        assert layer.forward(inside, out=inside) is inside
        assert layer.backward(gradient, out=gradient) is gradient
        assert layer.forward(x, out=out) is out
        layer.forget()
        for found, expected in ((inside, y), (out, y), (gradient, dx)):
            np.testing.assert_allclose(found, expected, rtol=bound or 2e-3, atol=bound or 2e-3)


def test_adjacent_axes_are_viewed_and_nothing_is_copied() -> None:
    x, _ = arrays()
    layer = layer_of(6, channel_axis=(1, 2))
    y, context = layer.forward(x, return_context=True)
    assert context.x.shape == (4, 6, 5)
    assert np.shares_memory(context.x, x)
    assert y.flags.c_contiguous


def test_a_mask_has_the_axes_that_are_left() -> None:
    x, dy = arrays()
    mask = np.random.default_rng(2).random((4, 5)) < 0.6
    layer, one = layer_of(6, channel_axis=(1, 2)), layer_of(6)
    y = layer(x, mask=mask)
    np.testing.assert_array_equal(y.reshape(4, 6, 5), one(x.reshape(4, 6, 5), mask=mask))
    np.testing.assert_array_equal(layer.backward(dy).reshape(4, 6, 5), one.backward(dy.reshape(4, 6, 5)))


@pytest.mark.once
@pytest.mark.parametrize("axes", [(1, 2), (0, 2), ()])
def test_gradients_are_central_differences_inputs_stay_and_nothing_is_aliased(axes: Any) -> None:
    x, _ = arrays((3, 2, 2))
    n = math.prod(x.shape[k] for k in axes)

    def run(inputs: Any) -> Any:
        y, context = functional.batch_norm(*inputs.values(), channel_axis=axes, eps=1e-3)
        return y, lambda dy: dict(zip(inputs, functional.batch_norm_backward(dy, context), strict=True))

    check_pass(run, {"x": x, "gamma": np.arange(1.0, n + 1), "beta": np.ones(n)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_of_one_channel_takes_samples_of_one_value(dtype: Any) -> None:
    x, dy = arrays((20,), dtype)
    layer, column = layer_of(1, dtype=dtype), layer_of(1, dtype=dtype)
    np.testing.assert_array_equal(layer(x), column(x[:, None])[:, 0])
    np.testing.assert_array_equal(layer.backward(dy), column.backward(dy[:, None])[:, 0])
    mask = x > 0
    np.testing.assert_array_equal(layer(x, mask=mask), column(x[:, None], mask=mask)[:, 0])
    np.testing.assert_array_equal(layer.eval()(x), column.eval()(x[:, None])[:, 0])
    assert layer.fit([x]).running_var.tobytes() == column.fit([x[:, None]]).running_var.tobytes()
    inside = x[::-1].copy()
    assert layer.forward(inside, out=inside) is inside


X, DY = arrays()
CALLS = [
    (lambda s: s.layer(X[..., 0, :]), ValueError, "num_features = 6 channels on channel_axis = (1, 2)"),
    (lambda s: s.layer(X[:, 0, 0]), ValueError, "num_features = 6"),
    (lambda s: s.layer(s.bad, out=s.bad), FloatingPointError, "no finite mean"),
    (lambda s: s.layer(X, out=np.empty((4, 6, 5))), ValueError, "out must have the shape of x"),
    (lambda s: s.layer.backward(DY.swapaxes(1, 2), context=s.context), ValueError, "dy must have"),
    (lambda s: s.layer.backward(DY.reshape(4, 6, 5), context=s.context), ValueError, "dy must have"),
    (lambda s: s.layer.backward(DY, context=s.context._replace(as_one=3)), TypeError, "context.as_one must be"),
    (lambda s: s.layer.backward(DY, context=s.context._replace(as_one=s.other)), ValueError, "must have"),
    (lambda s: s.three(X[:, 0, 0, 0]), ValueError, "num_features = 3"),
    (lambda s: BatchNorm1d(1)(X[:, 0, 0, 0]), ValueError, "x must have 2 or 3 axes"),
    (lambda s: functional.batch_norm(X, channel_axis=(1, 1)), ValueError, "each axis of x once"),
    (lambda s: functional.batch_norm(X, channel_axis=(1, 4)), ValueError, "channel_axis must be an axis of x"),
    (lambda s: BatchNorm(6, channel_axis=(1, 2.0)), TypeError, "channel_axis must be an int"),
    (lambda s: BatchNormAct(6, channel_axis=(1, 2)), TypeError, "channel_axis must be an int"),
    (lambda s: GhostBatchNorm(6, 2, channel_axis=(1, 2)), TypeError, "channel_axis must be an int"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_call_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: str) -> None:
    things = SimpleNamespace(layer=layer_of(6, channel_axis=(1, 2), on_nonfinite="raise"), three=layer_of(3))
    _, things.context = things.layer.forward(X, return_context=True)
    things.other = functional.batch_norm(X, channel_axis=(1, 3))[1].as_one
    things.bad = np.where(X.max() == X, np.nan, X)
    refused(things, call, error, words)
