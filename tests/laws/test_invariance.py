"""The two facts of the literature: BN((aW)u) = BN(Wu), and the gradient of aW is 1/a of that of W."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normdrop import functional
from normdrop.functional import scale_invariance

pytestmark = pytest.mark.usefixtures("backend")

Array = np.ndarray[Any, np.dtype[Any]]
# A single rounding of a W, and that of y, is all that may differ; a power of two leaves no rounding at all.
BOUND = {np.float32: 2e-5, np.float64: 1e-9}


def _weights(dtype: Any) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in [(4, 6), (32, 6), (32, 4)])  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("a", [1e-3, 0.1, 0.5, 3.0, 10.0, 1e4])
def test_scale_of_the_weights_does_not_change_the_output(a: float, dtype: Any) -> None:
    weight, u, dy = _weights(dtype)
    facts = scale_invariance(weight, u, a, eps=1e-30, dy=dy)
    assert facts.y.dtype == facts.y_scaled.dtype == dtype
    np.testing.assert_allclose(facts.y_scaled, facts.y, rtol=BOUND[dtype], atol=BOUND[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("a", [1e-3, 0.1, 0.5, 3.0, 10.0, 1e4])
def test_gradient_of_scaled_weights_is_divided_by_the_scale(a: float, dtype: Any) -> None:
    weight, u, dy = _weights(dtype)
    facts = scale_invariance(weight, u, a, eps=1e-30, dy=dy)
    scale = np.max(np.abs(facts.dweight))
    np.testing.assert_allclose(a * facts.dweight_scaled, facts.dweight, rtol=BOUND[dtype], atol=BOUND[dtype] * scale)
    assert scale > 0.1  # the gradients compared are not zero


@pytest.mark.parametrize("a", [0.25, 2.0, 1024.0])
def test_power_of_two_and_eps_scaled_with_the_variance_change_no_bit_of_the_output(a: float) -> None:
    weight, u, _ = _weights(np.float64)
    y, _ = functional.batch_norm(u @ weight.T, eps=2.0**-20)
    y_scaled, _ = functional.batch_norm(u @ (a * weight).T, eps=2.0**-20 * a * a)
    np.testing.assert_array_equal(y_scaled, y)


def test_usual_eps_disturbs_both_facts_for_small_weights_alone() -> None:
    weight, u, dy = _weights(np.float64)

    def disturbance(a: float, eps: float) -> tuple[float, float]:
        facts = scale_invariance(weight, u, a, eps=eps, dy=dy)
        of_gradient = np.max(np.abs(a * facts.dweight_scaled - facts.dweight)) / np.max(np.abs(facts.dweight))
        return float(np.max(np.abs(facts.y_scaled - facts.y))), float(of_gradient)

    assert min(disturbance(1e-3, 1e-5)) > 0.1
    assert max(disturbance(10.0, 1e-5)) < 1e-4
    assert max(disturbance(1e-3, 1e-12)) < 1e-4


def test_results_are_those_of_the_layers_formula() -> None:
    weight, u, dy = _weights(np.float64)
    facts = scale_invariance(weight, u, 3.0, dy=dy)
    for w, y, dweight in ((weight, facts.y, facts.dweight), (3.0 * weight, facts.y_scaled, facts.dweight_scaled)):
        expected, context = functional.batch_norm(u @ w.T, eps=1e-12)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(dweight, functional.batch_norm_backward(dy, context)[0].T @ u)


def test_gradient_with_respect_to_the_input_does_not_depend_on_the_scale() -> None:
    weight, u, dy = _weights(np.float64)
    gradients = []
    for a in (1.0, 7.0):
        _, context = functional.batch_norm(u @ (a * weight).T, eps=1e-14)
        gradients.append(functional.batch_norm_backward(dy, context)[0] @ (a * weight))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-10, atol=1e-10)


def test_rng_fixes_the_gradient_and_inputs_are_unchanged() -> None:
    weight, u, _ = _weights(np.float32)
    first, second, other = (scale_invariance(weight, u, 2.0, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.dweight, second.dweight)
    assert not np.array_equal(first.dweight, other.dweight)
    for value, before in zip((weight, u), _weights(np.float32), strict=False):
        np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize("a", [0.0, -1.0, np.inf, np.nan, True, "2"])
def test_scale_that_is_not_positive_is_refused(a: Any) -> None:
    weight, u, dy = _weights(np.float64)
    with pytest.raises((TypeError, ValueError), match=r"\ba\b"):
        scale_invariance(weight, u, a, dy=dy)
    with pytest.raises(ValueError, match="weight"):
        scale_invariance(weight.T, u, 2.0, dy=dy)
