"""Activations and their derivatives: right to the last places everywhere, and with the same bits wherever they run."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from normdrop._activations import ACTIVATIONS

from ..conftest import SIMULATED

STRAIGHT = ["identity", "relu", "leaky_relu", "relu6", "hardswish", "hardtanh"]
CURVED = [name for name in ACTIVATIONS if name not in STRAIGHT]
PARAMETERS = {name: known.parameter or 0.0 for name, known in ACTIVATIONS.items()}
ROOTS = {"silu": -1.2784645427610738, "gelu": -0.7517915245290071, "gelu_tanh": -0.7524614220710162}  # of derivatives
LIMITS = [0.0, 1.5, 3.0, 6.0, 22.0, 30.0, 39.0, 60.0, 375.0, 709.0, 745.0, 746.0, 750.0, 760.0, 1e308]


def points(n: int) -> Any:
    """A grid that is denser towards 0, limits and ends of reductions to the last bit, and hard numbers."""
    rng = np.random.default_rng(5)
    limits = np.array([*LIMITS, 1e-300, 1e-320, 5e-324, 2.0**-54, *np.arange(0.5, 8) * np.log(2), np.pi])
    near = np.concatenate([limits, np.nextafter(limits, np.inf), np.nextafter(limits, 0.0)])
    grid = [rng.uniform(-end, end, n) for end in (1.0, 6.0, 45.0, 760.0)] + [10.0 ** rng.uniform(-320, 3, n)]
    values = np.concatenate([near, *grid])
    return np.concatenate([values, -values])


def applied(function: Any, u: Any, a: float) -> Any:
    with np.errstate(all="ignore"):
        return np.broadcast_to(function(u, a), u.shape)


def sigmoid(z: Any) -> Any:
    return 1 / (1 + mpmath.exp(-z))


def twice_w(u: Any) -> Any:
    return 2 * mpmath.sqrt(2 / mpmath.pi) * (u + mpf("0.044715") * u**3)


def twice_w_slope(u: Any) -> Any:
    return 2 * mpmath.sqrt(2 / mpmath.pi) * (1 + 3 * mpf("0.044715") * u**2)


def normal(u: Any) -> Any:
    return mpmath.erfc(-u / mpmath.sqrt(2)) / 2


SCALE, ALPHA = "1.0507009873554804934193349852946", "1.6732632423543772848170429916717"
EXACT: dict[str, tuple[Any, Any]] = {
    "identity": (lambda u: u, lambda u: 1),
    "relu": (lambda u: max(u, 0), lambda u: u > 0),
    "leaky_relu": (lambda u: u if u > 0 else mpf(0.01) * u, lambda u: 1 if u > 0 else mpf(0.01)),
    "relu6": (lambda u: min(max(u, 0), 6), lambda u: 0 < u < 6),
    "hardswish": (
        lambda u: u * min(max(u + 3, 0), 6) / 6,
        lambda u: (2 * u + 3) / 6 if -3 < u < 3 else u > 0,
    ),
    "hardtanh": (lambda u: min(max(u, -1), 1), lambda u: -1 < u < 1),
    "silu": (lambda u: u * sigmoid(u), lambda u: sigmoid(u) * (1 + u * sigmoid(-u))),
    "gelu": (
        lambda u: u * normal(u),
        lambda u: normal(u) + u * mpmath.exp(-u * u / 2) / mpmath.sqrt(2 * mpmath.pi),
    ),
    "gelu_tanh": (
        lambda u: u * sigmoid(twice_w(u)),
        lambda u: sigmoid(twice_w(u)) * (1 + u * sigmoid(-twice_w(u)) * twice_w_slope(u)),
    ),
    "tanh": (mpmath.tanh, lambda u: mpmath.sech(u) ** 2),
    "sigmoid": (sigmoid, lambda u: sigmoid(u) * sigmoid(-u)),
    "elu": (lambda u: u if u > 0 else mpmath.expm1(u), lambda u: 1 if u > 0 else mpmath.exp(u)),
    "selu": (
        lambda u: mpf(SCALE) * (u if u > 0 else mpf(ALPHA) * mpmath.expm1(u)),
        lambda u: mpf(SCALE) * (1 if u > 0 else mpf(ALPHA) * mpmath.exp(u)),
    ),
}


def errors(function: Any, exact: Any, u: Any, a: float) -> Any:
    """Errors in units of the last place of the true value."""
    got = applied(function, u, a)
    with mpmath.workdps(60):
        true = [mpf(exact(mpf(float(value)))) for value in u]
        units = [mpf(float(np.spacing(abs(float(t))))) for t in true]
        return np.array([float(abs(mpf(float(g)) - t) / unit) for g, t, unit in zip(got, true, units, strict=True)])


def beyond(u: Any) -> Any:
    """Points whose true value mpmath need not be asked for: exp(1e308) is too long."""
    return abs(u) > 1e4


@pytest.mark.same
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_off_by_five_units_in_the_last_place_at_most(name: str) -> None:
    u = points(300)
    u = u[~beyond(u)]
    off = errors(ACTIVATIONS[name].value, EXACT[name][0], u, PARAMETERS[name])
    assert off.max() <= (2.5 if name in STRAIGHT else 5.0), u[off.argmax()]


@pytest.mark.same
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_off_by_eight_units_at_most_but_near_their_zeros(name: str) -> None:
    u = points(300)
    u = u[~beyond(u) & (u != 0.0) & (abs(u) != 3.0) & (abs(u) != 6.0)]
    near = abs(u - ROOTS.get(name, np.inf)) < 0.5
    off = errors(ACTIVATIONS[name].derivative, EXACT[name][1], u[~near], PARAMETERS[name])
    assert off.max() <= (2.5 if name in STRAIGHT else 8.0), u[~near][off.argmax()]


@pytest.mark.same
@pytest.mark.parametrize("name", ROOTS)
def test_derivatives_near_their_zeros_are_off_by_a_unit_of_one_at_most(name: str) -> None:
    u = ROOTS[name] + np.linspace(-0.5, 0.5, 1001)
    got = ACTIVATIONS[name].derivative(u, 0.0)
    with mpmath.workdps(60):
        off = [abs(mpf(float(g)) - EXACT[name][1](mpf(float(value)))) for g, value in zip(got, u, strict=True)]
    assert float(max(off)) <= 2.0**-52


# Values and derivatives at -inf and inf: the limits.
ENDS = {
    "identity": (-np.inf, 1.0, np.inf, 1.0),
    "leaky_relu": (-np.inf, 0.01, np.inf, 1.0),
    "relu6": (0.0, 0.0, 6.0, 0.0),
    "tanh": (-1.0, 0.0, 1.0, 0.0),
    "hardtanh": (-1.0, 0.0, 1.0, 0.0),
    "sigmoid": (0.0, 0.0, 1.0, 0.0),
    "elu": (-1.0, 0.0, np.inf, 1.0),
    "selu": (-float(SCALE) * float(ALPHA), 0.0, np.inf, float(SCALE)),
}


@pytest.mark.same
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_out_are_the_limits_and_a_nan_stays(name: str) -> None:
    known, a = ACTIVATIONS[name], PARAMETERS[name]
    for far in (np.inf, 1.7e308, 1e5):
        u = np.array([-far, far])
        values, slopes = applied(known.value, u, a), applied(known.derivative, u, a)
        low, low_slope, high, high_slope = ENDS.get(name, (0.0, 0.0, np.inf, 1.0))
        scale = {"leaky_relu": 0.01}.get(name, 1.0)
        high = high if np.isfinite(high) else far * (float(SCALE) if name == "selu" else 1.0)
        low = low if np.isfinite(low) else -far * scale
        assert np.allclose(values, [low, high], rtol=1e-15, atol=0.0)
        assert slopes.tolist() == [low_slope, high_slope]
    assert np.isnan(applied(known.value, np.array([np.nan]), a))
    assert np.isnan(applied(known.derivative, np.array([np.nan]), a)) == (name != "identity")


@pytest.mark.same
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "sigmoid"])
def test_what_goes_through_zero_keeps_its_sign(name: str) -> None:
    values = applied(ACTIVATIONS[name].value, np.array([0.0, -0.0]), PARAMETERS[name])
    assert values.tolist() == [0.0, 0.0]
    assert np.signbit(values).tolist() == [False, True]


@pytest.mark.same
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kinks_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    functions: Any = torch.nn.functional
    special = {
        "identity": lambda t: t * 1.0,
        "gelu_tanh": lambda t: functions.gelu(t, approximate="tanh"),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    function = special[name] if name in special else getattr(functions, name)
    kinks = np.array([0.0, -0.0, 3.0, -3.0, 6.0, -6.0, 1.0, -1.0])
    u = torch.tensor(kinks, requires_grad=True)
    y = function(u)
    y.sum().backward()
    known, a = ACTIVATIONS[name], PARAMETERS[name]
    assert np.allclose(applied(known.value, kinks, a), y.detach().numpy(), rtol=1e-14, atol=1e-16)
    assert np.allclose(applied(known.derivative, kinks, a), u.grad.numpy(), rtol=1e-13, atol=1e-15)
    if name == "elu":
        assert known.derivative(np.zeros(1), 2.5) == 2.5


HARD = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0])


def same_bits(got: Any, expected: Any) -> bool:
    """Whether both are the same but for the sign of NaN, which is not promised."""
    known = ~np.isnan(expected)
    return np.array_equal(np.isnan(got), ~known) and got[known].tobytes() == expected[known].tobytes()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_vectors_have_the_bits_of_arrays(name: str) -> None:
    from normdrop._cpu.kernels.activations import activation
    from normdrop._cpu.lanes.memory import load, store
    from normdrop._cpu.lanes.simd import splat
    from normdrop._cpu.toolchain.launch import kernel

    value, derivative = activation(name)

    def apply(y, dy, u, a):  # type: ignore[no-untyped-def]
        for i in range(0, u.size, 16):
            store(y, i, value(load(u, i), splat(a)))
            store(dy, i, derivative(load(u, i), splat(a)))

    apply.__name__ += f"_{name}"
    u = np.concatenate([HARD, points(200)])
    u = u[: u.size // 16 * 16]
    for a in (PARAMETERS[name], -1.3):
        y, dy = np.empty(u.size), np.empty(u.size)
        kernel("ooif")(apply).compile(u.dtype, parallel=False)(y, dy, u, a)
        assert same_bits(y, applied(ACTIVATIONS[name].value, u, a))
        assert same_bits(dy, applied(ACTIVATIONS[name].derivative, u, a))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_threads_of_a_gpu_have_the_values_of_arrays(name: str) -> None:
    from normdrop import _device
    from normdrop._cuda.activations import activation
    from normdrop._cuda.launch import kernel

    value, derivative = activation(name)

    def apply(y, dy, u, a):  # type: ignore[no-untyped-def]
        for i in range(u.size):  # every thread does the same
            y[i], dy[i] = value(u[i], a), derivative(u[i], a)

    u, a = np.concatenate([HARD, points(20)]), PARAMETERS[name]
    y, dy, there = (_device.view(_device.to_device(x)) for x in (np.empty(u.size), np.empty(u.size), u))
    kernel("dddf")(apply)(u.dtype, 1, y, dy, there, a)
    for got, function in ((y.to_host(), ACTIVATIONS[name].value), (dy.to_host(), ACTIVATIONS[name].derivative)):
        expected = applied(function, u, a)
        if SIMULATED:
            assert same_bits(got, expected)
        else:  # there, a product and a sum may be rounded once
            np.testing.assert_allclose(got, expected, rtol=4e-15, atol=4e-16)
