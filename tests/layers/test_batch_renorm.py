"""Batch renormalization: its formula, its gradients, its ends, its schedules."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import BatchRenorm, functional

from ..gradcheck import check_pass

pytestmark = pytest.mark.usefixtures("backend")

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (6, 3, 5))
DY = RNG.normal(size=X.shape)
MASK = np.arange(5) < np.array([5, 3, 1, 4, 0, 2])[:, None]
WEIGHTS = RNG.random((6, 5)).astype(np.float32)
MEAN, VAR = np.array([1.0, 2.5, 9.0]), np.array([4.0, 8.0, 90.0])
GAMMA, BETA = np.array([1.0, 2.0, -3.0]), np.array([0.5, 1.0, 2.0])
BOUNDS = {"r_max": 1.4, "d_max": 0.3}


def layer_of(**options: Any) -> Any:
    layer = BatchRenorm(3, dtype=np.float64, **{"r_max": 1.4, "d_max": 0.3} | options)
    layer.gamma[:], layer.beta[:] = GAMMA, BETA
    layer.running_mean[:], layer.running_var[:] = MEAN, VAR
    return layer


def corrections(values: Any, w: Any, r_max: float, d_max: float) -> Any:
    """x_hat of rows, r and d, as the paper writes them."""
    mu = np.average(values, axis=0, weights=w)
    sigma_b = np.sqrt(np.average((values - mu) ** 2, axis=0, weights=w) + 1e-5)
    sigma = np.sqrt(VAR + 1e-5)
    r = np.minimum(np.maximum(sigma_b / sigma, 1 / r_max), r_max)
    d = np.minimum(np.maximum((mu - MEAN) / sigma, -d_max), d_max)
    return (values - mu) / sigma_b, r, d


@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"mask": MASK, "weights": WEIGHTS}], ids=["", "mask", "w"])
@pytest.mark.parametrize("axis", [1, 2])
def test_output_and_parameter_gradients_are_those_of_the_paper(axis: int, options: Any) -> None:
    counted = np.ones_like(MASK) if not options else MASK
    w = WEIGHTS[counted] if "weights" in options else np.ones(counted.sum())
    x_hat, r, d = corrections(X.swapaxes(1, 2)[counted], w, **BOUNDS)
    assert len({float(v) for v in np.concatenate([r, d]) if v in (1.4, 1 / 1.4, 0.3, -0.3)}) >= 3  # some are clipped
    layer = layer_of(channel_axis=axis)
    x, dy = (X, DY) if axis == 1 else (X.swapaxes(1, 2), DY.swapaxes(1, 2))
    y = layer(x, **options)
    rows = y.swapaxes(1, 2) if axis == 1 else y
    np.testing.assert_allclose(rows[counted], (x_hat * r + d) * GAMMA + BETA, rtol=1e-12, atol=1e-12)
    layer.backward(dy)
    dy = DY.swapaxes(1, 2)[counted]
    np.testing.assert_allclose(layer.dgamma, (dy * (x_hat * r + d)).sum(axis=0), rtol=1e-11)
    np.testing.assert_allclose(layer.dbeta, dy.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("bounds", [BOUNDS, {"r_max": 1.0, "d_max": 0.0}, {"r_max": math.inf, "d_max": math.inf}])
@pytest.mark.parametrize("options", [{}, {"mask": MASK[:, :3]}])
@pytest.mark.once
def test_gradients_are_those_of_a_map_in_which_r_and_d_are_constants(bounds: Any, options: Any) -> None:
    x = X[..., :3]
    _, first = functional.batch_renorm(x, MEAN, VAR, GAMMA, BETA, **bounds, **options)
    counted = options.get("mask", np.ones((6, 3), np.bool_))[:, None]

    def run(inputs: Any) -> Any:
        y, context = functional.batch_renorm(
            inputs["x"], MEAN, VAR, inputs["gamma"], inputs["beta"], **bounds, **options
        )
        plain, _ = functional.batch_norm(inputs["x"], **options)
        affine = inputs["gamma"][:, None], inputs["beta"][:, None]
        fixed = np.where(counted, (plain * first.r[:, None] + first.d[:, None]) * affine[0] + affine[1], 0.0)
        if np.array_equal(inputs["x"], x):
            np.testing.assert_allclose(y, fixed, rtol=1e-12, atol=1e-12)
        names = "x", "gamma", "beta"
        return fixed, lambda dy: dict(zip(names, functional.batch_renorm_backward(dy, context), strict=True))

    check_pass(run, {"x": x, "gamma": GAMMA, "beta": BETA})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 40)])
def test_with_bounds_of_one_and_zero_it_is_batch_norm_to_the_bit(shape: Any, dtype: Any) -> None:
    x, dy = (np.random.default_rng(k).normal(2.0, 3.0, shape).astype(dtype) for k in range(2))
    parameters = {"dtype": np.float64 if dtype == np.float64 else np.float32}
    plain, layer = normdrop.BatchNorm(3, **parameters), BatchRenorm(3, r_max=1, d_max=0, **parameters)
    for each in (plain, layer):
        each.gamma[:], each.beta[:] = GAMMA, BETA
    for _ in range(2):
        assert layer(x).tobytes() == plain(x).tobytes()
        assert layer.backward(dy).tobytes() == plain.backward(dy).tobytes()
        assert layer.dgamma.tobytes() == plain.dgamma.tobytes()
        assert layer.running_var.tobytes() == plain.running_var.tobytes()


def test_without_bounds_training_is_inference() -> None:
    layer, twin = layer_of(r_max=math.inf, d_max=math.inf), layer_of().eval()
    np.testing.assert_allclose(layer(X), twin(X), rtol=1e-12)
    assert layer.num_batches == 1


def test_bounds_may_be_functions_of_the_number_of_batches() -> None:
    asked: list[int] = []

    def r_max(n: int) -> float:
        asked.append(n)
        return 1.0 + n

    layer = BatchRenorm(3, r_max=r_max, d_max=lambda n: n / 2, dtype=np.float64)
    for _ in range(3):
        context = layer.forward(X, return_context=True)[1]
    assert asked == [0, 1, 2]
    assert context.d.max() == 1.0 or context.r.max() <= 3.0
    np.testing.assert_array_equal(layer.eval()(X), layer(X))
    assert asked == [0, 1, 2]


def test_a_layer_goes_on_where_its_pickle_or_state_was_and_can_be_frozen() -> None:
    layer = layer_of()
    layer(X)
    twin, other = pickle.loads(pickle.dumps(layer)), layer_of()
    other.load_state_dict(layer.state_dict())
    y = layer(X + 1)
    for each in (twin, other):
        np.testing.assert_array_equal(each(X + 1), y)
    assert "r_max=1.4, d_max=0.3" in repr(layer)
    frozen = layer_of().freeze()
    np.testing.assert_array_equal(frozen(X), layer_of().eval()(X))


def test_in_place_and_empty_batches() -> None:
    layer, twin = layer_of(), layer_of()
    x = X.copy()
    y = twin(X)
    assert layer.forward(x, out=x) is x
    np.testing.assert_array_equal(x, y)
    _, context = twin.forward(X - 1, return_context=True)
    np.testing.assert_array_equal(layer.backward(DY), twin.backward(DY))
    twin.backward(DY, context=context)
    with pytest.raises(ValueError, match="context is of a pass over 3 channels"):
        BatchRenorm(2).backward(DY[:, :2], context=context)
    before = layer.state_dict()
    for options in ({}, {"mask": np.zeros_like(MASK)}):
        given = X if options else X[:0]
        assert layer(given, **options).shape == given.shape
        layer.backward(DY[: len(given)])
        assert not layer.dgamma.any()
    assert all(np.array_equal(values, before[name]) for name, values in layer.state_dict().items())


def test_a_batch_in_parts_is_the_joined_one() -> None:
    whole, part = layer_of(momentum=None), layer_of(momentum=None, reduce=lambda sums: sums + sums)
    both = np.concatenate([X, X])
    np.testing.assert_allclose(part(X), whole(both)[:6], rtol=1e-12)
    np.testing.assert_allclose(part.backward(DY), whole.backward(np.concatenate([DY, DY]))[:6], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([part.dgamma, part.running_var], [whole.dgamma, whole.running_var], rtol=1e-12)


CALLS = [
    (lambda layer: layer(X[:, :2]), ValueError, "num_features = 3"),
    (lambda layer: layer(X[:1, :, :1]), ValueError, "one value per channel"),
    (lambda layer: layer(X * np.nan), FloatingPointError, "no finite mean"),
    (lambda layer: setattr(layer, "r_max", 0.5), ValueError, "r_max must be at least 1"),
    (lambda layer: setattr(layer, "d_max", -1), ValueError, "d_max must be at least 0"),
    (lambda layer: setattr(layer, "d_max", "no"), TypeError, "d_max must be a real number"),
    (lambda layer: layer.backward(DY, context=3), TypeError, "context must be what"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_call_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: str) -> None:
    refused(SimpleNamespace(layer=layer_of(on_nonfinite="raise"), x=X, dy=DY), lambda s: call(s.layer), error, words)


def test_a_schedule_that_fails_or_gives_no_bound_changes_nothing(refused: Any) -> None:
    for schedule, error, words in (
        (lambda n: 0.5, ValueError, "r_max must be"),
        (lambda n: 1 // n, ZeroDivisionError, ""),
    ):
        refused(SimpleNamespace(layer=layer_of(r_max=schedule)), lambda s: s.layer(X), error, words)


def test_running_statistics_are_needed() -> None:
    with pytest.raises(ValueError, match="track_running_stats must be True"):
        BatchRenorm(3, track_running_stats=False)
    with pytest.raises(TypeError, match="context must be what batch_renorm"):
        functional.batch_renorm_backward(DY, functional.batch_norm(X)[1])


@pytest.mark.once
def test_it_is_that_of_keras_where_keras_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    bounds = {"rmax": 1.4, "rmin": 1 / 1.4, "dmax": 0.3}
    theirs = keras.layers.BatchNormalization(axis=1, epsilon=1e-5, renorm=True, renorm_clipping=bounds, dtype="float64")
    theirs.build(X.shape)
    for name, values in (
        ("gamma", GAMMA), ("beta", BETA), ("renorm_mean", MEAN), ("renorm_stddev", np.sqrt(VAR + 1e-5)),
    ):  # fmt: skip
        getattr(theirs, name).assign(values)
    np.testing.assert_allclose(layer_of()(X), theirs(X, training=True).detach().numpy(), rtol=0, atol=2e-6)
