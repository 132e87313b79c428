"""Ghost batches: each group is normalized as a batch of its own, and the whole enters the running statistics."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import BatchNorm, GhostBatchNorm, functional

from ..gradcheck import check_pass

pytestmark = pytest.mark.usefixtures("backend")

GAMMA, BETA = np.array([1.0, 2.0, -3.0]), np.array([0.5, 1.0, 2.0])


def data(*shape: int, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(0)
    return (rng.normal(300.0, 3.0, shape)).astype(dtype), rng.normal(size=shape).astype(dtype)


def layer_of(kind: Any, *sizes: int, **options: Any) -> Any:
    layer = kind(3, *sizes, **{"dtype": np.float64} | options)
    layer.gamma[:], layer.beta[:] = GAMMA, BETA
    return layer


GROUPS = [(7, 2, [2, 2, 3]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (5, 9, [5]), (4, 4, [4]), (6, 2, [2, 2, 2])]


@pytest.mark.parametrize(("n", "size", "sizes"), GROUPS)
@pytest.mark.parametrize("last", [False, True])
def test_each_group_is_a_batch_of_its_own(n: int, size: int, sizes: Any, last: bool) -> None:
    for shape in ((n, 3), (n, 3, 2)):
        axis = -1 if last else 1
        x, dy = (np.moveaxis(v, 1, axis) for v in data(*shape))
        layer, plain = layer_of(GhostBatchNorm, size, channel_axis=axis), layer_of(BatchNorm, channel_axis=axis)
        expected = sizes if len(shape) == 2 or n % size != 1 else [size] * (n // size) + [1]
        y, dx, start = layer(x), None, 0
        dx = layer.backward(dy)
        sums = np.zeros((2, 3))
        for length in expected:
            group = slice(start, start + length)
            assert y[group].tobytes() == plain(x[group]).tobytes()
            assert dx[group].tobytes() == plain.backward(dy[group]).tobytes()
            sums += plain.dgamma, plain.dbeta
            start += length
        assert start == n
        np.testing.assert_allclose([layer.dgamma, layer.dbeta], sums, rtol=1e-12)


MASK = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]], np.bool_)
WEIGHTS = np.where(MASK, np.random.default_rng(2).uniform(0.5, 2.0, MASK.shape), 0.0)


@pytest.mark.parametrize("masked", ["zero", "normalize", "keep"])
@pytest.mark.parametrize(
    "which", [{"mask": MASK}, {"weights": WEIGHTS}, {"mask": MASK, "weights": WEIGHTS}], ids=["mask", "weights", "both"]
)
@pytest.mark.parametrize("axis", [1, 2])
def test_in_each_group_its_mask_and_weights_count_and_one_in_which_nothing_does_changes_nothing(
    axis: int, which: Any, masked: Any
) -> None:
    x, dy = (np.moveaxis(v, 1, axis) for v in data(7, 3, 3))
    if masked != "normalize":
        counted = np.broadcast_to(np.expand_dims(next(iter(which.values())) != 0, axis), x.shape)
        x = np.where(counted, x, np.nan)
    layer, plain = layer_of(GhostBatchNorm, 2, channel_axis=axis), layer_of(BatchNorm, channel_axis=axis)
    y = layer(x, masked=masked, **which)
    dx = layer.backward(dy)
    sums = np.zeros((2, 3))
    for start, stop in ((0, 2), (2, 4), (4, 6), (6, 7)):
        part = {name: values[start:stop] for name, values in which.items()}
        assert y[start:stop].tobytes() == plain(x[start:stop], masked=masked, **part).tobytes()
        assert dx[start:stop].tobytes() == plain.backward(dy[start:stop]).tobytes()
        sums += plain.dgamma, plain.dbeta
    np.testing.assert_allclose([layer.dgamma, layer.dbeta], sums, rtol=1e-12)
    whole = layer_of(BatchNorm, channel_axis=axis)
    whole(x, masked=masked, **which)
    assert (layer.num_batches, layer.num_values) == (whole.num_batches, whole.num_values)
    np.testing.assert_allclose(layer.running_mean, whole.running_mean, rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, whole.running_var, rtol=1e-11)
    before = layer.state_dict()
    layer(x, mask=np.zeros((7, 3), np.bool_))
    assert all(np.array_equal(values, before[name]) for name, values in layer.state_dict().items())


@pytest.mark.parametrize("how", [{}, {"momentum": None}, {"momentum": "population", "unbiased": False}])
def test_running_statistics_are_those_of_the_whole_batch_whatever_the_groups(how: Any) -> None:
    x = np.sort(data(11, 3)[0], axis=0)
    plain = layer_of(BatchNorm, **how)
    layers = [layer_of(GhostBatchNorm, size, **how) for size in (2, 3, 5, 11, 99)]
    for part in (x, x[:4]):
        plain(part)
        for layer in layers:
            layer(part)
            assert (layer.num_batches, layer.num_values) == (plain.num_batches, plain.num_values)
            np.testing.assert_allclose(layer.running_mean, plain.running_mean, rtol=1e-14)
            np.testing.assert_allclose(layer.running_var, plain.running_var, rtol=1e-11)
    assert layers[0].eval()(x).shape == x.shape


@pytest.mark.once
def test_gradients_are_central_differences_inputs_stay_and_nothing_is_aliased() -> None:
    x, _ = data(5, 3, 2)

    def run(inputs: Any) -> Any:
        y, context = functional.ghost_batch_norm(*inputs.values(), ghost_size=2, eps=1e-3)
        return y, lambda dy: dict(zip(inputs, functional.ghost_batch_norm_backward(dy, context), strict=True))

    check_pass(run, {"x": x - 300.0, "gamma": GAMMA, "beta": BETA})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F", "reversed"])
def test_every_dtype_and_layout_in_place_and_into_out(dtype: Any, order: str) -> None:
    x, dy = data(7, 3, 4, dtype=dtype)
    x, dy = (v[::-1] if order == "reversed" else np.array(v, order=order) for v in (x - dtype(300), dy))
    layer = layer_of(GhostBatchNorm, 3, dtype=np.float64 if dtype is np.float64 else np.float32)
    y, context = layer.forward(x, return_context=True)
    dx = layer.backward(dy, context=context)
    assert y.dtype == dx.dtype == dtype
    inside, out = x.copy(order="K"), np.empty_like(x)
    assert layer.forward(inside, out=inside) is inside
    np.testing.assert_array_equal(inside, y)
    grad = dy.copy(order="K")
    assert layer.backward(grad, out=grad) is grad
    np.testing.assert_array_equal(grad, dx)
    layer.forward(x, out=out)
    np.testing.assert_array_equal(out, y)
    assert layer.dgamma.dtype == layer.gamma.dtype


def test_an_empty_batch_changes_nothing_and_a_frozen_layer_and_its_copy_do_as_batch_norm() -> None:
    x, _ = data(6, 3, 2)
    layer = layer_of(GhostBatchNorm, 2)
    before = layer.state_dict()
    assert layer(x[:0]).shape == (0, 3, 2)
    assert layer.backward(x[:0]).shape == (0, 3, 2)
    assert not layer.dgamma.any()
    assert all(np.array_equal(values, before[name]) for name, values in layer.state_dict().items())
    layer(x)
    layer.forget()
    twin = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(twin(x), layer(x))
    assert "ghost_size=2" in repr(twin)
    plain = layer_of(BatchNorm)
    plain.load_state_dict(layer.state_dict())
    y, context = layer.freeze().forward(x, return_context=True)
    np.testing.assert_array_equal(y, plain.eval()(x))
    assert layer.backward(x, context=context).shape == x.shape
    mask = np.ones((6, 2), np.bool_)
    np.testing.assert_array_equal(layer.eval()(x, mask=mask), plain(x))


X, DY = data(6, 3, 2)
CALLS = [
    (lambda s: s.layer(X[:, :2]), ValueError, "num_features = 3"),
    (lambda s: s.layer(X[:1, :, :1]), ValueError, "one value per channel"),
    (lambda s: s.one(X[:, :, 0]), ValueError, "ghost_size must be 2 or more"),
    (lambda s: s.layer(s.x, mask=np.arange(12).reshape(6, 2) > 10, out=s.x), ValueError, "samples 4 to 5"),
    (lambda s: s.layer(X, mask=np.ones((5, 2), np.bool_)), ValueError, "mask must have the shape of x without"),
    (lambda s: s.layer(X, mask=np.ones((6, 2), np.bool_), masked="drop"), ValueError, "masked must be"),
    (lambda s: s.layer(s.bad, out=s.bad), FloatingPointError, "no finite mean"),
    (lambda s: setattr(s.layer, "ghost_size", 0), ValueError, "ghost_size must be at least 1"),
    (lambda s: setattr(s.layer, "reduce", len), ValueError, "reduce must be None"),
    (lambda s: s.layer.backward(DY[:5], context=s.context), ValueError, "dy must have"),
    (lambda s: s.layer.backward(DY, context=s.context._replace(groups=())), ValueError, "groups must be of all"),
    (lambda s: s.layer.backward(DY, context=s.other), ValueError, "context is of a pass over 2 channels"),
    (lambda s: functional.ghost_batch_norm(X, ghost_size=2, channel_axis=0), ValueError, "must not be 0"),
    (lambda s: functional.ghost_batch_norm(X, ghost_size=2.0), TypeError, "ghost_size must be an int"),
    (lambda s: functional.ghost_batch_norm_backward(DY, 3), TypeError, "context must be what"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_call_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: str) -> None:
    things = SimpleNamespace(layer=layer_of(GhostBatchNorm, 2, on_nonfinite="raise"), one=layer_of(GhostBatchNorm, 1))
    _, things.context = things.layer.forward(X, return_context=True)
    _, things.other = functional.ghost_batch_norm(X[:, :2], ghost_size=2)
    things.x = X.copy()
    things.bad = np.where(X.max() == X, np.nan, X)
    refused(things, call, error, words)
