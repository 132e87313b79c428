"""DropConnect: by the mask law, with exact sums of what is kept, right gradients, and the paper's mean and variance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, _reference, fast, functional
from normdrop._connections import Connections

from ..conftest import SIMULATED
from ..gradcheck import check_pass

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_connections.json").read_text())
KEY, CALL = (3, 4), 5
LAW = Connections(KEY, CALL, 1 << 30, 4 / 3, False)


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype(dtype)


def float32(bits: Any) -> Any:
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.simulated
@pytest.mark.parametrize("row", range(len(GOLDEN)))
def test_passes_have_the_golden_bits(backend: Any, row: int) -> None:
    golden = GOLDEN[row]
    x, weight, bias, dy = (float32(golden[name]) for name in ("x", "weight", "bias", "dy"))
    rng = MaskStream.from_key(tuple(golden["key"]), golden["call"])
    y, context = functional.drop_connect(x, weight, bias, p=golden["p"], masks=golden["masks"], rng=rng)
    gradients = functional.drop_connect_backward(dy, context)
    for name, made in zip(("y", "dx", "dweight", "dbias"), (y, *gradients), strict=True):
        if golden["masks"] == "sample":
            assert made.tobytes() == float32(golden[name]).tobytes(), name
        else:  # the matrices are multiplied by a library
            np.testing.assert_allclose(made, float32(golden[name]), rtol=1e-5, atol=1e-5, err_msg=name)


def launched(backend: Any, shape: tuple[int, int, int], dtype: Any, law: Connections = LAW) -> tuple[Any, ...]:
    """Y, dx, dweight and dbias of the launchers."""
    n, n_out, n_in = shape
    x, weight, dy = (normal(*s, dtype=dtype, seed=k) for k, s in enumerate([(n, n_in), (n_out, n_in), (n, n_out)]))
    bias = normal(n_out, seed=3)
    y, dx, dweight, dbias = np.empty_like(dy), np.empty_like(x), np.empty_like(weight), np.empty(n_out)
    backend.drop_connect(y, x, weight, bias, law)
    backend.drop_connect_input_gradient(dx, dy, weight, law)
    backend.drop_connect_weight_gradient(dweight, dy, x, law)
    backend.drop_connect_bias_gradient(dbias, dy)
    return y, dx, dweight, dbias


SHAPES = [(1, 1, 1), (3, 5, 7), (7, 3, 16), (2, 33, 129), (2, 2, 4111)]  # the last has rows longer than a piece
DTYPES = ["float32", "float64", *(pytest.param(name, marks=pytest.mark.once) for name in ("float16", "bfloat16"))]


@pytest.mark.kinds
@pytest.mark.simulated
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_have_the_bits_of_the_reference_whatever_the_shape(backend: Any, dtype: str) -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    on_gpu = backend.__name__ == "cuda_on_host"
    for shape in SHAPES[: 2 if SIMULATED else 5]:
        for expected, made in zip(launched(_reference, shape, kind), launched(backend, shape, kind), strict=True):
            if on_gpu:  # sums have another order
                bound = float(np.spacing(np.ones((), kind)))
                np.testing.assert_allclose(made.astype(float), expected.astype(float), rtol=8 * bound, atol=8 * bound)
            else:
                assert made.tobytes() == expected.tobytes(), shape


@pytest.mark.jit
@pytest.mark.same
def test_any_number_of_workers_gives_the_bits_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop import _cpu
    from normdrop._cpu import connections

    shape = 9, 37, 300  # parallel variants
    expected = [a.tobytes() for a in launched(_reference, shape, np.float32)]
    for n_workers in (1, 3, 64):
        monkeypatch.setattr(connections, "workers", lambda size, n=n_workers: n)
        assert [a.tobytes() for a in launched(_cpu, shape, np.float32)] == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masks", ["sample", "batch"])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_it_is_the_dense_layer_with_the_weights_that_the_mask_law_keeps(
    backend: Any, masks: Any, scaling: Any, dtype: Any
) -> None:
    x, weight, bias, dy = (normal(*s, dtype=dtype, seed=k) for k, s in enumerate([(6, 50), (11, 50), (11,), (6, 11)]))
    shape = (6, 11, 50) if masks == "sample" else (11, 50)
    mask = functional.dropout(np.ones(shape), 0.3, rng=stream(), return_mask=True)[2]
    y, context = functional.drop_connect(x, weight, bias, p=0.3, masks=masks, scaling=scaling, rng=stream())
    dx, dweight, dbias = functional.drop_connect_backward(dy, context)
    scale = 1.0 if scaling == "original" else 1 / (1 - round(0.3 * 2**32) / 2**32)
    kept = np.where(mask, weight.astype(float), 0.0) * np.ones((6, 1, 1))
    wide_x, wide_dy = x.astype(float), dy.astype(float)

    def close(made: Any, exact: Any, size: Any, n: int) -> None:
        assert made.dtype == dtype
        unit = np.finfo(dtype).eps / 2
        bound = unit * np.abs(exact) + (n + 3) * (2.0**-53 if masks == "sample" else unit) * size
        assert np.all(np.abs(made - exact) <= 1.01 * bound)

    exact = scale * np.einsum("noi,ni->no", kept, wide_x) + bias
    close(y, exact, scale * np.einsum("noi,ni->no", abs(kept), abs(wide_x)) + abs(bias), 50)
    exact = scale * np.einsum("noi,no->ni", kept, wide_dy)
    close(dx, exact, scale * np.einsum("noi,no->ni", abs(kept), abs(wide_dy)), 11)
    chosen = mask * np.ones((6, 1, 1))
    exact = scale * np.einsum("noi,no,ni->oi", chosen, wide_dy, wide_x)
    close(dweight, exact, scale * np.einsum("noi,no,ni->oi", chosen, abs(wide_dy), abs(wide_x)), 6)
    assert dbias is not None
    np.testing.assert_allclose(dbias, wide_dy.sum(0), rtol=1e-6)


@pytest.mark.parametrize("masks", ["sample", "batch"])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_gradients_are_the_derivatives(backend: Any, masks: Any, scaling: Any) -> None:
    def run(inputs: Any) -> Any:
        arrays = inputs["x"], inputs["weight"], inputs["bias"]
        y, context = functional.drop_connect(*arrays, p=0.4, masks=masks, scaling=scaling, rng=stream())
        names = ("x", "weight", "bias")
        return y, lambda dy: dict(zip(names, functional.drop_connect_backward(dy, context), strict=True))

    check_pass(run, {"x": normal(3, 4), "weight": normal(2, 4, seed=1), "bias": normal(2, seed=2)})


def every_mask(p: float, n: int) -> tuple[Any, Any]:
    """All masks of n connections, and their probabilities."""
    masks, weights = np.empty((1 << n, n), np.bool_), np.empty(1 << n)
    _reference.enumerate_masks(masks, weights, np.full(n, p), 0)
    return masks, weights


@pytest.mark.parametrize("p", [0.25, 0.5])
@pytest.mark.parametrize("masks", ["sample", "batch"])
def test_over_all_masks_the_mean_is_the_mean_network_and_the_variance_the_papers(
    backend: Any, masks: Any, p: float
) -> None:
    x, weight, bias = normal(1, 4), normal(2, 4, seed=1), normal(2, seed=2)
    kept, probabilities = every_mask(p, 8)
    every = np.einsum("koi,i->ko", kept.reshape(-1, 2, 4) * weight, x[0]) / (1 - p) + bias
    mean = probabilities @ every
    np.testing.assert_allclose(functional.drop_connect_inference(x, weight, bias, p=p)[0][0], mean, rtol=1e-12)
    moments, _ = fast.linear(fast.Moments(x), weight.T, bias, p=p)
    np.testing.assert_allclose(moments.mean[0], mean, rtol=1e-12)
    covariance = (every - mean).T @ (probabilities[:, None] * (every - mean))
    assert moments.var is not None
    np.testing.assert_allclose(covariance, np.diag(moments.var[0]), rtol=1e-12, atol=1e-12)  # and independent
    np.testing.assert_allclose(moments.var[0], p / (1 - p) * (weight**2) @ (x[0] ** 2), rtol=1e-12)
    # What is drawn are those, as often as they are probable.
    if masks == "sample":
        drawn = functional.drop_connect(np.repeat(x, 1000, axis=0), weight, bias, p=p, rng=stream())[0]
    else:
        rng = stream()
        drawn = np.concatenate(
            [functional.drop_connect(x, weight, bias, p=p, masks="batch", rng=rng)[0] for _ in range(200)]
        )
    assert np.abs(drawn[:, None] - every).max(axis=2).min(axis=1).max() < 1e-12
    errors = (drawn.mean(axis=0) - mean) / np.sqrt(moments.var[0] / len(drawn))
    assert np.abs(errors).max() < 4.0


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_inference_is_the_mean_network_and_has_its_gradients(backend: Any, scaling: Any) -> None:
    def run(inputs: Any) -> Any:
        y, context = functional.drop_connect_inference(
            inputs["x"], inputs["weight"], inputs["bias"], p=0.25, scaling=scaling
        )
        names = ("x", "weight", "bias")
        return y, lambda dy: dict(zip(names, functional.drop_connect_backward(dy, context), strict=True))

    inputs = {"x": normal(3, 4), "weight": normal(2, 4, seed=1), "bias": normal(2, seed=2)}
    check_pass(run, inputs)
    factor = 1.0 if scaling == "inverted" else 0.75
    expected = factor * inputs["x"] @ inputs["weight"].T + inputs["bias"]
    np.testing.assert_allclose(run(inputs)[0], expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("masks", ["sample", "batch"])
def test_with_p_0_it_is_the_dense_layer_and_with_p_1_the_bias(backend: Any, masks: Any, dtype: Any) -> None:
    x, weight, bias, dy = (normal(*s, dtype=dtype, seed=k) for k, s in enumerate([(4, 9), (3, 9), (3,), (4, 3)]))
    y, context = functional.drop_connect(x, weight, bias, p=0.0, masks=masks, rng=stream())
    dx, dweight, _ = functional.drop_connect_backward(dy, context)
    wide = [values.astype(float) for values in (x, weight, bias, dy)]
    bound = {"rtol": 4 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, wide[0] @ wide[1].T + wide[2], **bound)
    np.testing.assert_allclose(dx, wide[3] @ wide[1], **bound)
    np.testing.assert_allclose(dweight, wide[3].T @ wide[0], **bound)
    for scaling in ("inverted", "original"):
        y, context = functional.drop_connect(x, weight, bias, p=1.0, masks=masks, scaling=scaling, rng=stream())
        np.testing.assert_array_equal(y, np.broadcast_to(bias, (4, 3)))
        dx, dweight, dbias = functional.drop_connect_backward(dy, context)
        assert dx.tobytes() == bytes(dx.nbytes)
        assert dweight.tobytes() == bytes(dweight.nbytes)
        np.testing.assert_allclose(dbias, wide[3].sum(0), **bound)
    y, _ = functional.drop_connect_inference(x, weight, None, p=1.0, scaling="original")
    assert y.tobytes() == bytes(y.nbytes)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_dropped_connection_adds_nothing_whatever_its_weight_input_and_gradient(backend: Any, bad: float) -> None:
    x, weight, dy = np.ones((4, 20)), np.ones((3, 20)), np.ones((4, 3))
    mask = functional.dropout(np.ones((4, 3, 20)), 0.8, rng=stream(), return_mask=True)[2]
    x[~mask.any(axis=1)] = bad  # inputs none of whose connections is kept
    weight[~mask.any(axis=0)] = bad
    dy[0, 0] = bad
    assert np.isfinite(x).sum() < x.size
    assert np.isfinite(weight).sum() < weight.size
    y, context = functional.drop_connect(x, weight, p=0.8, rng=stream())
    assert np.isfinite(y).all()
    dx, dweight, _ = functional.drop_connect_backward(dy, context)
    np.testing.assert_array_equal(np.isfinite(dx[0]), ~mask[0, 0])
    np.testing.assert_array_equal(np.isfinite(dweight[0]), ~mask[0, 0])
    assert np.isfinite(dx[1:]).all()
    assert np.isfinite(dweight[1:]).all()


def test_with_one_mask_a_nan_in_a_dropped_weight_disappears_and_one_in_an_input_does_not(backend: Any) -> None:
    mask = functional.dropout(np.ones((3, 20)), 0.8, rng=stream(), return_mask=True)[2]
    x, weight = np.ones((4, 20)), np.where(mask, 1.0, np.nan)
    y, context = functional.drop_connect(x, weight, p=0.8, masks="batch", rng=stream())
    dx, dweight, _ = functional.drop_connect_backward(np.ones((4, 3)), context)
    assert all(np.isfinite(values).all() for values in (y, dx, dweight))
    x[1, 0] = np.nan
    y, context = functional.drop_connect(x, weight, p=0.8, masks="batch", rng=stream())
    assert np.isnan(y).any(axis=1).tolist() == [False, True, False, False]
    dweight = functional.drop_connect_backward(np.ones((4, 3)), context)[1]
    assert not np.isnan(dweight[~mask]).any()


def test_any_layout_and_target_gives_the_same_numbers(backend: Any) -> None:
    x, weight, dy = (normal(*s, dtype=np.float32, seed=k) for k, s in enumerate([(6, 20), (5, 20), (6, 5)]))
    expected, context = functional.drop_connect(x, weight, p=0.5, rng=stream())
    gradients = functional.drop_connect_backward(dy, context)[:2]
    others: list[Any] = [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1].copy()[::-1]]
    for turn in others:
        for out in (None, np.empty((6, 5), np.float32), np.empty((5, 6), np.float32).T):
            y, context = functional.drop_connect(turn(x), turn(weight), p=0.5, rng=stream(), out=out)
            assert out is None or y is out
            np.testing.assert_array_equal(y, expected)
        for made, right in zip(functional.drop_connect_backward(turn(dy), context), gradients, strict=False):
            np.testing.assert_array_equal(made, right)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_without_connections_there_is_the_bias_and_no_call_is_taken(backend: Any, shape: tuple[int, int, int]) -> None:
    n, n_out, n_in = shape
    rng, bias = stream(), normal(n_out)
    y, context = functional.drop_connect(np.ones((n, n_in)), np.ones((n_out, n_in)), bias, p=0.5, rng=rng)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (n, n_out)))
    assert rng == stream()
    dx, dweight, dbias = functional.drop_connect_backward(np.ones((n, n_out)), context)
    assert (dx.shape, dweight.shape) == ((n, n_in), (n_out, n_in))
    assert not dx.any()
    assert not dweight.any()
    np.testing.assert_array_equal(dbias, np.full(n_out, n))


def test_a_bias_that_is_not_there_has_no_gradient_and_sums_that_are_too_large_are_infinite(backend: Any) -> None:
    context = functional.drop_connect(np.ones((3, 2), np.float16), np.ones((2, 2), np.float16), p=0.5, rng=1)[1]
    assert functional.drop_connect_backward(np.ones((3, 2), np.float16), context)[2] is None
    dy = np.full((3, 2), 6e4, np.float16)
    dbias = functional.drop_connect_backward(dy, context._replace(has_bias=True))[2]
    assert dbias is not None
    assert math.isinf(dbias[0])
