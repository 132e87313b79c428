"""Moments through activations are those of a normal variable, near and far from the kink, for any variance."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from normdrop import fast

from ..gradcheck import check_pass

pytestmark = pytest.mark.same

ALL = ["relu", "leaky_relu", "step", "sigmoid", "tanh"]
FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "step": lambda x: np.where(x > 0, 1.0, 0.0),
    "sigmoid": expit,
    "tanh": np.tanh,
}


def closed(name, mean, var):
    """Moments through a rectifier in the digits of mpmath's context."""
    m, v = mpmath.mpf(mean), mpmath.mpf(var)
    s = mpmath.sqrt(v)
    r = m / s
    above, density = mpmath.ncdf(r), mpmath.npdf(r)
    if name == "step":
        return above, above * mpmath.ncdf(-r)
    a = {"relu": mpmath.mpf(0), "leaky_relu": mpmath.mpf(0.01)}[name]
    # the upper half, and the lower one by the slope
    first = m * above + s * density
    second = (m * m + v) * above + m * s * density
    expected = first + a * (m - first)
    return expected, second + a * a * (m * m + v - second) - expected**2


def moments_of(name, mean, var):
    mean, var = np.atleast_1d(np.float64(mean)), np.atleast_1d(np.float64(var))
    result, context = fast.activation(fast.Moments(mean, var), name)
    by_mean = [fast.activation_backward(*d, context) for d in ((np.ones_like(mean), None), (None, np.ones_like(mean)))]
    return result, by_mean


RATIOS = [-36.0, -20.0, -8.0, -5.1, -5.0, -4.9, -2.0, -0.3, 0.0, 0.3, 2.0, 4.9, 5.1, 8.0, 20.0, 1e3, 1e8]


@pytest.mark.parametrize("s", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "step"])
def test_moments_of_rectifiers_have_twelve_digits_however_far_out(name, s):
    with mpmath.workdps(80):
        for r in RATIOS:
            mean, var = r * s, s * s
            result, _ = moments_of(name, mean, var)
            expected = closed(name, mean, var)
            for got, right in zip(result, expected, strict=True):
                assert abs(got.item() - right) <= 1e-12 * abs(right) + 1e-300, (r, got.item(), right)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "step"])
def test_derivatives_of_rectifiers_have_ten_digits_however_far_out(name):
    with mpmath.workdps(300):
        d = mpmath.mpf(10) ** -60
        for r in [-20.0, -5.5, -1.0, 0.0, 1.0, 5.5, 20.0]:
            mean, var = mpmath.mpf(2 * r), mpmath.mpf(4)
            _, by = moments_of(name, 2 * r, 4.0)
            for which in (0, 1):
                moves = (
                    (closed(name, mean + d, var), closed(name, mean - d, var)),
                    (
                        closed(name, mean, var + d),
                        closed(name, mean, var - d),
                    ),
                )
                for got, (up, down) in zip(by[which], moves, strict=True):
                    right = (up[which] - down[which]) / (2 * d)
                    assert abs(got.item() - right) <= 1e-10 * abs(right) + 1e-110, (r, which, got.item(), right)


@pytest.mark.parametrize("s", [0.01, 0.7, 1.2, 1.3, 4.0, 60.0])
def test_moments_of_sigmoids_are_within_1e_9_of_the_integral(s):
    with mpmath.workdps(25):
        for mean in (-30.0, -2.5, 0.0, 1.0, 6.0):

            def moment(power, mean=mean):
                ends = sorted({-12, -6, -3, -1, 0, 1, 3, 6, 12, min(max(-mean / s, -11.9), 11.9)})
                return mpmath.quad(lambda z: mpmath.npdf(z) / (1 + mpmath.exp(-(mean + s * z))) ** power, ends)

            first, second = moment(1), moment(2)
            result, _ = moments_of("sigmoid", mean, s * s)
            assert abs(result.mean.item() - first) < 1e-9
            assert abs(result.var.item() - (second - first**2)) < 1e-9
            result, _ = moments_of("tanh", mean / 2, s * s / 4)
            assert abs(result.mean.item() - (2 * first - 1)) < 2e-9
            assert abs(result.var.item() - 4 * (second - first**2)) < 4e-9


def test_the_closed_form_for_sigmoids_is_off_where_quadrature_is_not():
    """Of Wang and Manning: the mean is good to 0.004, the variance wrong by 9 to 28 %."""
    errors = []
    for mean, var in ((0.0, 1.0), (1.0, 2.0), (-2.0, 4.0)):
        normal = stats.norm(mean, np.sqrt(var))
        first, second = normal.expect(expit), normal.expect(lambda x: expit(x) ** 2)
        right = second - first**2
        a, b = 4 - 2 * np.sqrt(2), -np.log(np.sqrt(2) - 1)
        simple = expit(mean / np.sqrt(1 + np.pi * var / 8))
        closed_form = expit(a * (mean - b) / np.sqrt(1 + np.pi * a * a * var / 8)) - simple**2
        result, _ = moments_of("sigmoid", mean, var)
        assert abs(simple - first) < 0.005
        assert result.mean.item() == pytest.approx(first, abs=1e-8)
        assert result.var.item() == pytest.approx(right, rel=1e-6)
        errors.append(abs(closed_form / right - 1))
    assert min(errors) > 0.05
    assert max(errors) > 0.15


@pytest.mark.parametrize("name", ALL)
def test_moments_are_those_that_scipy_integrates(name):
    for mean, s in ((-1.5, 0.5), (0.2, 1.0), (2.0, 3.0)):
        ends = [(mean - 12 * s, 0.0), (0.0, mean + 12 * s)]  # in two parts, because of the kink
        normal, f = stats.norm(mean, s), FUNCTIONS[name]
        first, second = (
            sum(normal.expect(lambda x, n=n, f=f: f(x) ** n, lb=low, ub=high) for low, high in ends) for n in (1, 2)
        )
        result, _ = moments_of(name, mean, s * s)
        assert result.mean.item() == pytest.approx(first, abs=1e-8)
        assert result.var.item() == pytest.approx(second - first**2, abs=1e-8)


def run(name, slope=0.01):
    def forward(inputs):
        moments, context = fast.activation(fast.Moments(**inputs), name, negative_slope=slope)
        return np.stack(moments), lambda dy: fast.activation_backward(dy[0], dy[1], context)._asdict()

    return forward


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_activations_are_central_differences(name):
    rng = np.random.default_rng(1)
    inputs = {"mean": rng.normal(0, 2, size=(4, 5)), "var": rng.uniform(0.3, 4, size=(4, 5))}
    check_pass(run(name), inputs)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_gradients_of_leaky_relu_are_central_differences_for_any_slope(slope):
    rng = np.random.default_rng(2)
    inputs = {"mean": rng.normal(size=(3, 4)), "var": rng.uniform(0.3, 2, size=(3, 4))}
    check_pass(run("leaky_relu", slope), inputs)
    result, _ = fast.activation(fast.Moments(**inputs), "leaky_relu", negative_slope=slope)
    if slope == 1.0:
        np.testing.assert_allclose(result.var, inputs["var"], rtol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_without_variance_moments_and_gradients_are_those_of_the_function(name):
    x = np.array([-40.0, -3.0, -1e-3, 1e-3, 0.7, 3.0, 40.0])
    result, context = fast.activation(fast.Moments(x), name)
    np.testing.assert_allclose(result.mean, FUNCTIONS[name](x), rtol=1e-15, atol=1e-15)
    assert not result.var.any()
    h = 1e-6
    slope = (FUNCTIONS[name](x + h) - FUNCTIONS[name](x - h)) / (2 * h)
    gradients = fast.activation_backward(np.ones(7), None, context)
    np.testing.assert_allclose(gradients.mean, slope, atol=1e-9)
    gradients = fast.activation_backward(None, np.ones(7), context)
    np.testing.assert_allclose(gradients.var, slope**2, atol=1e-9)  # of a small normal variable: f'² times its variance
    assert not gradients.mean.any()


@pytest.mark.parametrize("name", ALL)
def test_results_and_gradients_go_to_those_limits_and_are_finite_on_the_way(name):
    x = np.array([-3.0, -0.7, 0.7, 3.0])
    limit, limits = moments_of(name, x, np.zeros(4))
    for var in (1e-8, 1e-20, 1e-100, 1e-300, 5e-324):
        result, by = moments_of(name, x, np.full(4, var))
        np.testing.assert_allclose(result.mean, limit.mean, rtol=1e-7)
        np.testing.assert_allclose(result.var, limits[1].var * var, rtol=1e-6)
        for got, expected in zip(by, limits, strict=True):
            np.testing.assert_allclose(got.mean, expected.mean, atol=1e-7)
            np.testing.assert_allclose(got.var, expected.var, atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "step"])
def test_ratios_beyond_float64_are_taken_for_infinite(name):
    result, by = moments_of(name, [-1e200, 1e200], [1e-300, 1e-300])
    np.testing.assert_allclose(result.mean, FUNCTIONS[name](np.array([-1e200, 1e200])))
    assert np.isfinite(np.ravel([*result, *by[0], *by[1]])).all()


@pytest.mark.parametrize("name", ALL)
def test_at_the_kink_everything_is_finite_with_and_without_variance(name):
    for var in (0.0, 1e-30, 1e-12):
        result, by = moments_of(name, 0.0, var)
        assert all(np.isfinite(one).all() for one in (*result, *by[0], *by[1]))
    result, by = moments_of(name, 0.0, 0.0)
    assert result.var.item() == 0
    if name in ("relu", "step"):
        assert by[0].mean.item() == by[0].var.item() == 0


@pytest.mark.parametrize("name", ALL)
def test_many_values_are_those_of_each_and_float32_is_rounded_once(name):
    rng = np.random.default_rng(3)
    mean, var = rng.normal(0, 3, size=(100, 101)).astype(np.float32), rng.exponential(2, (100, 101)).astype(np.float32)
    narrow, context = fast.activation(fast.Moments(mean, var), name)
    wide, wide_context = fast.activation(fast.Moments(mean.astype(np.float64), var.astype(np.float64)), name)
    dy = rng.normal(size=(2, 100, 101)).astype(np.float32)
    gradients = fast.activation_backward(*dy, context)
    wide_gradients = fast.activation_backward(*dy.astype(np.float64), wide_context)
    for got, expected in zip((*narrow, *gradients), (*wide, *wide_gradients), strict=True):
        assert got.dtype == np.float32
        assert got.shape == mean.shape
        np.testing.assert_array_equal(got, expected.astype(np.float32))
    for i, j in ((0, 0), (41, 7), (99, 100)):
        one, _ = moments_of(name, mean[i, j], var[i, j])
        assert one.mean.item() == pytest.approx(wide.mean[i, j], rel=1e-14)
        assert one.var.item() == pytest.approx(wide.var[i, j], rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_stays_in_its_place(name):
    result, context = fast.activation(fast.Moments(np.array([1.0, np.nan, 1.0]), np.array([1.0, 1.0, np.nan])), name)
    gradients = fast.activation_backward(np.ones(3), np.ones(3), context)
    for values in (*result, *gradients):
        assert np.isfinite(values[0])
    for values in result:
        assert np.isnan(values[1:]).all()
