"""Alpha dropout: the mask law's masks, mean and variance kept, and what becomes of what is dropped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, _backend, _reference, functional
from normdrop.functional._alpha_dropout import law_of

from ..gradcheck import check_pass

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_alpha.json").read_text())
KEY, CALL = (1, 2), 3


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


@pytest.mark.simulated
@pytest.mark.parametrize("row", GOLDEN, ids=[f"{row['p']}-{row['mean']}-{row['var']}" for row in GOLDEN])
def test_passes_have_the_golden_bits(backend: Any, row: dict[str, Any]) -> None:
    x, dy, y, dx = (np.array(row[name], np.uint32).view(np.float32) for name in ("x", "dy", "y", "dx"))
    rng = MaskStream.from_key(tuple(row["key"]), row["call"])
    given, context = functional.alpha_dropout(x, row["p"], mean=row["mean"], var=row["var"], rng=rng)
    np.testing.assert_array_equal(given.view(np.uint32), y.view(np.uint32))
    found = functional.alpha_dropout_backward(dy, context)
    np.testing.assert_array_equal(found.view(np.uint32), dx.view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 255, 1000, 70_001])
def test_kernels_have_the_bits_of_the_reference_whatever_the_size(backend: Any, dtype: Any, size: int) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(dtype)
    expected, found, affine = np.empty_like(x), np.empty_like(x), (0.9, 0.1, -1.3)
    _reference.affine_dropout(expected, x, KEY, CALL, 1 << 30, affine)
    _backend.affine_dropout(found, x, KEY, CALL, 1 << 30, affine)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axes", [(), (2,), (0, 2), (1,)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_layout_and_mask_gives_what_the_mask_says(backend: Any, axes: Any, order: Any) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=(6, 5, 40)).astype(np.float32), order=order)
    y, context, mask = functional.alpha_dropout(x, 0.4, shared_axes=axes, rng=stream(), return_mask=True)
    same = functional.dropout(x, 0.4, shared_axes=axes, rng=stream(), return_mask=True)[2]
    np.testing.assert_array_equal(mask, same)
    a, b, constant = law_of(0.4, 0.0, 1.0)[2]
    np.testing.assert_array_equal(y, np.where(mask, a * x.astype(np.float64) + b, constant).astype(np.float32))
    again = functional.alpha_dropout(x, 0.4, shared_axes=axes, mask=mask)[0]
    np.testing.assert_array_equal(again, y)
    dx = functional.alpha_dropout_backward(np.ones_like(x), context)
    np.testing.assert_array_equal(dx, np.where(mask, np.float32(a), 0) * np.ones_like(x))


@pytest.mark.parametrize(("mean", "var"), [(0.0, 1.0), (3.0, 0.01), (-2.0, 40.0), (0.5, 1e-6)])
@pytest.mark.parametrize("p", [2.0**-6, 0.1, 0.5, 0.9])
def test_the_law_keeps_mean_and_variance_exactly(mean: float, var: float, p: float) -> None:
    threshold, _, (a, b, constant) = law_of(p, mean, var)
    p = threshold / 2**32
    of_y = (1 - p) * (a * mean + b) + p * constant
    spread = (1 - p) * (a * a * var + (a * mean + b - of_y) ** 2) + p * (constant - of_y) ** 2
    assert math.isclose(of_y, mean, rel_tol=1e-12, abs_tol=1e-12 * max(1.0, math.sqrt(var)))
    assert math.isclose(spread, var, rel_tol=1e-9)


@pytest.mark.once
def test_a_million_elements_keep_mean_and_variance() -> None:
    x = np.random.default_rng(1).normal(2.0, 3.0, 1_000_000)
    y, _ = functional.alpha_dropout(x, 0.3, mean=2.0, var=9.0, rng=1)
    assert abs(y.mean() - 2.0) < 5 * 3.0 / 1000
    assert abs(y.var() / 9.0 - 1) < 0.01


def test_the_constants_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = torch.randn(1000, dtype=torch.float64)
    theirs = torch.nn.functional.alpha_dropout(x, 0.25, training=True).numpy()
    a, b, constant = law_of(0.25, 0.0, 1.0)[2]
    mask = np.isclose(theirs, a * x.numpy() + b, rtol=1e-6)
    assert 0.6 < mask.mean() < 0.9
    np.testing.assert_allclose(theirs[~mask], constant, rtol=1e-6)
    ours, _ = functional.alpha_dropout(x.numpy(), 0.25, mask=mask)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_nan_in_a_dropped_place_disappears_forward_and_backward(backend: Any) -> None:
    x = np.ones(500, np.float32)
    _, context, mask = functional.alpha_dropout(x, 0.5, rng=stream(), return_mask=True)
    x[~mask] = np.nan
    y, _ = functional.alpha_dropout(x, 0.5, rng=stream())
    assert np.isfinite(y).all()
    assert np.isfinite(functional.alpha_dropout_backward(x, context)).all()


def test_gradients_are_the_derivatives() -> None:
    def run(inputs: Any) -> Any:
        y, context = functional.alpha_dropout(inputs["x"], 0.3, mean=0.5, var=2.0, rng=stream())
        return y, lambda dy: {"x": functional.alpha_dropout_backward(dy, context)}

    check_pass(run, {"x": np.random.default_rng(2).normal(size=(4, 9))})


def test_p_of_0_changes_no_bit_and_p_of_1_gives_the_mean() -> None:
    x = np.array([1.5, -0.0, np.nan])
    np.testing.assert_array_equal(functional.alpha_dropout(x, 0.0, rng=1)[0].view(np.int64), x.view(np.int64))
    y, context = functional.alpha_dropout(x, 1.0, mean=0.25, rng=1)
    np.testing.assert_array_equal(y, np.full(3, 0.25))
    np.testing.assert_array_equal(functional.alpha_dropout_backward(x, context), np.zeros(3))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"p": 1.5}, ValueError, "p must"),
        ({"p": 0.5, "var": 0.0}, ValueError, "var must be positive"),
        ({"p": 0.5, "mean": math.nan}, ValueError, "mean must be a real number"),
        ({"p": 0.5, "mean": "0"}, TypeError, "mean must"),
    ],
    ids=["p", "var", "mean", "text"],
)
def test_bad_input_is_refused_and_the_stream_does_not_move(options: Any, error: Any, words: str) -> None:
    rng = stream()
    with pytest.raises(error, match=words):
        functional.alpha_dropout(np.ones(3), rng=rng, **options)
    assert rng.call == CALL
