"""Batch norm in which not all positions count: padded sequences, weighted samples."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from normdrop import functional

from ..gradcheck import BOUND, check_pass

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.once]

Array = np.ndarray[Any, np.dtype[Any]]
SHAPES = [((7, 3), 1), ((4, 3, 5), 1), ((4, 5, 3), -1), ((2, 3, 2, 19), 1), ((3, 4, 17), 0), ((9, 40), 1)]
MASKED: tuple[Any, ...] = ("zero", "normalize", "keep")
EPS = 1e-5


def _made(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(1.0, 2.0, shape)


def _positions(shape: tuple[int, ...], axis: int, *, weighted: bool) -> tuple[Array, Array | None]:
    """A mask of which some position counts and some does not, and weights."""
    places = tuple(n for k, n in enumerate(shape) if k != axis % len(shape))
    rng = np.random.default_rng(1)
    mask = rng.random(places) < 0.6
    mask.reshape(-1)[:3] = True, False, True
    return mask, rng.random(places).astype(np.float32) if weighted else None


def _exact(x: Array, axis: int, mask: Array, weights: Array | None, masked: str) -> tuple[Array, Array, Array]:
    """y, mean and variance by the formulas in float64."""
    w = np.expand_dims(mask * (1.0 if weights is None else weights.astype(np.float64)), axis)
    others = tuple(k for k in range(x.ndim) if k != axis % x.ndim)
    mean = (w * x).sum(others, keepdims=True) / w.sum()
    var = (w * (x - mean) ** 2).sum(others, keepdims=True) / w.sum()
    y = (x - mean) / np.sqrt(var + EPS)
    if masked != "normalize":
        y = np.where(w > 0, y, x if masked == "keep" else 0)
    return y, mean.ravel(), var.ravel()


@pytest.mark.simulated
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_forward_is_the_formula_over_what_counts(shape: Any, axis: int, weighted: bool, masked: Any) -> None:
    x = _made(shape)
    mask, weights = _positions(shape, axis, weighted=weighted)
    y, context = functional.batch_norm(x, channel_axis=axis, mask=mask, weights=weights, masked=masked)
    expected, mean, var = _exact(x, axis, mask, weights, masked)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(context.mean, mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(context.var, var, rtol=1e-12)
    assert context.n == pytest.approx(mask.sum() if weights is None else weights[mask].sum(dtype=float))


@pytest.mark.simulated
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES[:3], ids=str)
def test_backward_is_the_formula_over_what_counts(shape: Any, axis: int, weighted: bool, masked: Any) -> None:
    x, dy, gamma = _made(shape), _made(shape, 2), _made((shape[axis],), 3)
    mask, weights = _positions(shape, axis, weighted=weighted)
    how: dict[str, Any] = {"channel_axis": axis, "mask": mask, "weights": weights, "masked": masked}
    _, context = functional.batch_norm(x, gamma, **how)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    w = np.expand_dims(mask * (1.0 if weights is None else weights.astype(np.float64)), axis)
    others = tuple(k for k in range(x.ndim) if k != axis % x.ndim)
    _, mean, var = _exact(x, axis, mask, weights, masked)
    channels = tuple(n if k == axis % x.ndim else 1 for k, n in enumerate(shape))
    inv_std, gamma = (1 / np.sqrt(var + EPS)).reshape(channels), gamma.reshape(channels)
    x_hat = (x - mean.reshape(channels)) * inv_std
    taken = dy if masked == "normalize" else np.where(w > 0, dy, 0)
    sums = [(taken * x_hat).sum(others, keepdims=True), taken.sum(others, keepdims=True)]
    expected = gamma * inv_std * (taken - w / w.sum() * (sums[1] + x_hat * sums[0]))
    if masked == "keep":
        expected = np.where(w > 0, expected, dy)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose([dgamma, dbeta], [total.ravel() for total in sums], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES[:3], ids=str)
def test_backward_is_the_derivative(shape: Any, axis: int, weighted: bool, masked: Any) -> None:
    mask, weights = _positions(shape, axis, weighted=weighted)

    def run(inputs: Any) -> Any:
        y, context = functional.batch_norm(
            inputs["x"], inputs["gamma"], inputs["beta"], channel_axis=axis, mask=mask, weights=weights, masked=masked
        )
        return y, lambda dy: dict(zip(inputs, functional.batch_norm_backward(dy, context), strict=True))

    n = (shape[axis],)
    assert check_pass(run, {"x": _made(shape), "gamma": _made(n, 3), "beta": _made(n, 4)}) < BOUND


@pytest.mark.parametrize("masked", ["zero", "keep"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_what_does_not_count_is_not_looked_at(shape: Any, axis: int, masked: Any) -> None:
    x, dy = _made(shape), _made(shape, 2)
    mask, weights = _positions(shape, axis, weighted=True)
    how: dict[str, Any] = {"channel_axis": axis, "mask": mask, "weights": weights, "masked": masked}
    y, context = functional.batch_norm(x, **how)
    gradients = functional.batch_norm_backward(dy, context)
    gone = ~np.broadcast_to(np.expand_dims(mask, axis), shape)
    spoiled, dspoiled = np.where(gone, np.nan, x), np.where(gone, np.inf, dy)
    z, context = functional.batch_norm(spoiled, **how)
    dx, *sums = functional.batch_norm_backward(dspoiled, context)
    np.testing.assert_array_equal(z, np.where(gone, spoiled if masked == "keep" else 0, y))
    np.testing.assert_array_equal(dx, np.where(gone, dspoiled if masked == "keep" else 0, gradients[0]))
    np.testing.assert_array_equal(sums, gradients[1:])


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_inference_masks_alike(shape: Any, axis: int, masked: Any) -> None:
    x, dy = _made(shape), _made(shape, 2)
    mean, var = _made((shape[axis],), 3), np.abs(_made((shape[axis],), 4))
    mask, _ = _positions(shape, axis, weighted=False)
    counted = np.broadcast_to(np.expand_dims(mask, axis), shape)
    options: dict[str, Any] = {"channel_axis": axis, "keep_x": True}
    whole, plain = functional.batch_norm_inference(x, mean, var, **options)
    y, context = functional.batch_norm_inference(x, mean, var, mask=mask, masked=masked, **options)
    other = {"zero": np.zeros_like(x), "keep": x, "normalize": whole}[masked]
    np.testing.assert_array_equal(y, np.where(counted, whole, other))
    dx, *_ = functional.batch_norm_inference_backward(dy, plain)
    other = {"zero": np.zeros_like(x), "keep": dy, "normalize": dx}[masked]
    taken = np.where(counted, dy, dy if masked == "normalize" else 0)
    expected = functional.batch_norm_inference_backward(taken, plain)
    for order in ("C", "F"):  # the mask follows the axes, not memory
        found = functional.batch_norm_inference_backward(np.asarray(dy, order=order), context)  # type: ignore[call-overload]
        np.testing.assert_array_equal(found[0], np.where(counted, dx, other))
        np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F", "K"])
def test_a_mask_follows_the_axes_and_not_the_order_of_memory(order: Any) -> None:
    x, dy = _made((4, 3, 5)), _made((4, 3, 5), 2)
    mask, weights = _positions((4, 3, 5), 1, weighted=True)
    y, context = functional.batch_norm(x, mask=mask, weights=weights)
    dx, *_ = functional.batch_norm_backward(dy, context)
    z = np.asarray(x.transpose(2, 0, 1).copy().transpose(1, 2, 0), order=order)
    y2, context = functional.batch_norm(z, mask=np.asfortranarray(mask), weights=weights)
    dx2, *_ = functional.batch_norm_backward(dy, context)
    np.testing.assert_allclose(y2, y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dx2, dx, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("memory", [(3, 2, 1, 0), (2, 0, 3, 1), (0, 1, 2, 3)], ids=str)
def test_a_context_may_come_back_with_its_input_in_another_order_of_memory(memory: Any, weighted: bool) -> None:
    """As from a pickle, in which NumPy keeps no order but those of C and Fortran."""
    shape = (4, 3, 6, 5)
    x = _made(tuple(shape[k] for k in memory)).transpose(np.argsort(memory))
    mask, weights = _positions(shape, 1, weighted=weighted)
    mean, var = _made((3,), 3), np.abs(_made((3,), 4))
    for run, back in (
        (functional.batch_norm, functional.batch_norm_backward),
        (lambda x, **how: functional.batch_renorm(x, mean, var, **how), functional.batch_renorm_backward),
    ):
        _, context = run(x, mask=mask, weights=weights)
        expected = back(_made(shape, 2), context)
        for found, gradient in zip(back(_made(shape, 2), pickle.loads(pickle.dumps(context))), expected, strict=True):
            np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-12)


@pytest.mark.simulated
@pytest.mark.parametrize("masked", MASKED)
def test_an_output_may_be_the_input(masked: Any) -> None:
    x, dy = _made((4, 3, 20)), _made((4, 3, 20), 2)
    mask, weights = _positions(x.shape, 1, weighted=True)
    how: dict[str, Any] = {"mask": mask, "weights": weights, "masked": masked}
    y, context = functional.batch_norm(x, **how)
    dx, *_ = functional.batch_norm_backward(dy, context)
    z, dz = x.copy(), dy.copy()
    _, context = functional.batch_norm(z, out=z, **how)
    functional.batch_norm_backward(dz, context, out=dz)
    np.testing.assert_array_equal(z, y)
    np.testing.assert_array_equal(dz, dx)


@pytest.mark.simulated
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_narrow_dtypes_are_computed_in_float64_and_rounded(dtype: Any) -> None:
    x, dy = _made((6, 3, 33)).astype(dtype), _made((6, 3, 33), 2).astype(dtype)
    mask, weights = _positions(x.shape, 1, weighted=True)
    y, context = functional.batch_norm(x, mask=mask, weights=weights)
    dx, *_ = functional.batch_norm_backward(dy, context)
    wide, exact = functional.batch_norm(x.astype(float), mask=mask, weights=weights)
    dwide, *_ = functional.batch_norm_backward(dy.astype(float), exact)
    assert y.dtype == dx.dtype == dtype
    assert np.abs(y - wide).max() <= 4 * np.finfo(dtype).eps
    assert np.abs(dx - dwide).max() <= 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(context.statistics, exact.statistics, rtol=1e-12)


@pytest.mark.simulated
@pytest.mark.parametrize("shape", [(50, 3), (6, 3, 33)], ids=str)
def test_a_variance_far_from_zero_keeps_its_digits(shape: Any) -> None:
    x = (3e5 + 0.1 * _made(shape)).astype(np.float32)
    x[0] = 0  # an outlier first, which does not count
    mask = np.ones(tuple(n for k, n in enumerate(shape) if k != 1), np.bool_)
    mask[0] = False
    _, context = functional.batch_norm(x, mask=mask)
    _, _, var = _exact(x.astype(np.longdouble), 1, mask, None, "zero")
    np.testing.assert_allclose(context.var, var.astype(float), rtol=1e-9)


def test_a_mask_of_all_is_no_mask() -> None:
    x, dy = _made((4, 3, 20)), _made((4, 3, 20), 2)
    y, plain = functional.batch_norm(x)
    z, context = functional.batch_norm(x, mask=np.array(True), weights=np.array(2.0))
    np.testing.assert_allclose(z, y, rtol=0, atol=1e-12)
    assert context.n == 2 * plain.n
    for found, expected in zip(
        functional.batch_norm_backward(dy, context), functional.batch_norm_backward(dy, plain), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.simulated
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (0, 3, 5)], ids=str)
def test_where_nothing_counts_it_is_an_empty_batch(shape: Any, masked: Any) -> None:
    x = _made(shape)
    y, context = functional.batch_norm(x, mask=np.array(False), masked=masked)
    dx, dgamma, dbeta = functional.batch_norm_backward(x, context)
    expected = x if masked == "keep" else np.full_like(x, np.nan if masked == "normalize" else 0)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, expected)
    assert context.n == 0
    assert np.isnan(context.statistics).all()
    if masked != "normalize":
        assert not dgamma.any()
        assert not dbeta.any()


def test_masks_of_every_form_are_taken() -> None:
    x = _made((4, 3, 5, 6))
    mask, _ = _positions(x.shape, 1, weighted=False)
    expected, _ = functional.batch_norm(x, mask=mask)
    np.testing.assert_array_equal(functional.batch_norm(x, mask=mask[:, None])[0], expected)
    row = mask[0, 0]
    full = np.broadcast_to(row, mask.shape)
    np.testing.assert_array_equal(functional.batch_norm(x, mask=row)[0], functional.batch_norm(x, mask=full)[0])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"mask": np.ones((4, 3, 5), np.bool_)}, ValueError, r"mask must have the shape of x without its channels"),
        ({"mask": np.ones((5, 4), np.bool_)}, ValueError, r"\(4, 5\), or one that broadcasts to it; got \(5, 4\)"),
        ({"mask": np.ones((4, 5))}, TypeError, "mask must be a boolean NumPy array"),
        ({"mask": [True]}, TypeError, "mask must be a boolean NumPy array"),
        ({"weights": np.full((4, 5), -1.0)}, ValueError, "weights must be finite in float32 and not negative"),
        ({"weights": np.full((4, 5), np.nan)}, ValueError, "weights must be finite"),
        ({"weights": np.full((4, 5), 1e300)}, ValueError, "weights must be finite in float32"),
        ({"weights": np.ones((4, 5), np.int64)}, TypeError, "weights must have dtype"),
        ({"weights": np.ones((4, 4))}, ValueError, "weights must have the shape of x without its channels"),
        ({"mask": np.array(True), "masked": "drop"}, ValueError, "masked must be one of 'zero', 'normalize', 'keep'"),
        ({"mask": np.arange(20).reshape(4, 5) == 7}, ValueError, "one position counts"),
        ({"mask": np.array(True), "reduce": lambda part: part}, ValueError, "mask and weights must be None"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(given: Any, error: type[Exception], words: str) -> None:
    x = _made((4, 3, 5))
    out = x.copy()
    with pytest.raises(error, match=words):
        functional.batch_norm(x, out=out, **given)
    np.testing.assert_array_equal(out, x)
