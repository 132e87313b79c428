"""Normal noise: the inverse normal distribution function of the mask law's numbers, with one set of bits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy import stats

from normdrop import MaskStream, _backend, _normal_numbers, _reference, functional
from normdrop._normal_numbers import Noise

from ..conftest import SIMULATED, WITHOUT_JIT
from ..gradcheck import check_pass

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_normal.json").read_text())
KEY, CALL = (3, 4), 5


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype(dtype)


def lower_points() -> Any:
    """Numbers of the lower half: the end, the middle, and others of every size."""
    rng = np.random.default_rng(1)
    sizes = (2.0 ** rng.uniform(0, 31, 1500)).astype(np.int64)
    return np.concatenate([np.arange(500), 2**31 - 1 - np.arange(300), sizes, rng.integers(0, 2**31, 700)])


def test_normal_numbers_are_off_by_8_units_in_the_last_place_at_most() -> None:
    n = lower_points()
    with mpmath.workdps(40):
        for number, z in zip(n.tolist(), _normal_numbers.normal_number(n + 0.5).tolist(), strict=True):
            # A Newton step of z squares its relative error.
            wanted, found = (mpf(number) + 0.5) / 2**32, mpmath.erfc(-mpf(z) / mpmath.sqrt(2)) / 2
            error = (found - wanted) / mpmath.npdf(z)
            assert abs(error) <= 8 * mpf(np.spacing(abs(z))), number


def test_normal_numbers_change_their_sign_alone_from_end_to_end_and_grow_with_n() -> None:
    n = lower_points()
    below, above = (_normal_numbers.normal_number(k + 0.5) for k in (n, 2**32 - 1 - n))
    np.testing.assert_array_equal(above, -below)
    assert np.all(_normal_numbers.normal_number(n + 1.5) > below)


def test_normal_numbers_are_the_golden_ones() -> None:
    z = _normal_numbers.normal_number(np.array(GOLDEN["normal"]["numbers"]) + 0.5)
    np.testing.assert_allclose(z, [float(text) for text in GOLDEN["normal"]["normal"]], rtol=1.2e-15)


@pytest.mark.simulated
@pytest.mark.parametrize("row", range(len(GOLDEN["passes"])))
def test_passes_have_the_golden_bits(backend: Any, row: int) -> None:
    golden = GOLDEN["passes"][row]
    x, multiplied, added = (np.array(golden[name], np.float32) for name in ("x", "multiplied", "added"))
    std, rng = golden["std"], MaskStream.from_key(tuple(golden["key"]), golden["call"])
    y, _ = functional.gaussian_noise(x, std, rng=rng.copy())
    assert y.tobytes() == added.tobytes()
    _, context = functional.gaussian_dropout(x, 0.5, rng=rng)
    y = functional.gaussian_dropout_backward(x, context._replace(std=std))
    assert y.tobytes() == multiplied.tobytes()


LAUNCHERS = ["gaussian_dropout", "gaussian_noise"]
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def passed(backend: Any, name: str, x: Any, noise: Noise) -> bytes:
    y = np.empty_like(x)
    getattr(backend, name)(y, x, noise)
    return y.tobytes()


@pytest.mark.kinds
@pytest.mark.simulated
@pytest.mark.parametrize("dtype", [*DTYPES[:2], *(pytest.param(name, marks=pytest.mark.once) for name in DTYPES[2:])])
@pytest.mark.parametrize("name", LAUNCHERS)
def test_kernels_have_the_bits_of_the_reference_whatever_the_size(backend: Any, name: str, dtype: str) -> None:
    on_gpu = backend.__name__ == "cuda_on_host"
    if on_gpu and not SIMULATED:
        pytest.skip("a GPU may contract products into sums, which changes last places")
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    noise = Noise(KEY, CALL, 0.7)
    for n in (1, 17, 300) if on_gpu or WITHOUT_JIT else (1, 15, 16, 17, 255, 257, 2048, 6163):
        x = normal(n, seed=n).astype(kind)
        assert passed(backend, name, x, noise) == passed(_reference, name, x, noise), n


@pytest.mark.jit
@pytest.mark.same
def test_any_number_of_workers_gives_the_bits_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop import _cpu
    from normdrop._cpu import gaussian

    x, noise = normal(70_001, dtype=np.float32), Noise(KEY, 2**40, 1.5)
    expected = passed(_reference, "gaussian_noise", x, noise)
    for n_workers in (1, 3, 64):
        monkeypatch.setattr(gaussian, "workers", lambda size, n=n_workers: n)
        assert passed(_cpu, "gaussian_noise", x, noise) == expected


@pytest.mark.once
@pytest.mark.jit
def test_millions_of_normal_numbers_are_normal_up_to_the_tails() -> None:
    n = 1 << 24
    z = functional.gaussian_noise(np.zeros(n), 1.0, rng=stream())[0]
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    edges = np.linspace(-4, 4, 81)
    counts = np.histogram(z, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    expected = n * np.diff(np.concatenate([[0.0], stats.norm.cdf(edges), [1.0]]))
    assert stats.chisquare(counts, expected).pvalue > 1e-6
    assert stats.kstest(z[: 1 << 20], "norm").pvalue > 1e-6
    for far in (3.5, 4.0, 4.5, 5.0):
        mean = 2 * n * stats.norm.sf(far)
        assert abs(np.count_nonzero(abs(z) > far) - mean) < 5 * math.sqrt(mean) + 1, far


def test_probabilities_of_the_tails_are_exact_to_a_number_of_the_law() -> None:
    """How many of the 2**32 numbers give more than 4, 5 and 6, found by bisection."""
    for far in (4.0, 5.0, 6.0):
        low, high = 0, 2**31
        while low < high:
            middle = (low + high) // 2
            beyond = _normal_numbers.normal_number(np.array([middle + 0.5]))[0] < -far
            low, high = (middle + 1, high) if beyond else (low, middle)
        assert abs(low - 2**32 * stats.norm.sf(far)) <= 0.5 + 1e-6, far


@pytest.mark.jit
def test_gaussian_dropout_has_the_mean_and_variance_of_dropout() -> None:
    x = np.full(1 << 20, 3.0)
    for p in (0.125, 0.5):
        soft, hard = (f(x, p, rng=stream())[0] for f in (functional.gaussian_dropout, functional.dropout))
        for y in (soft, hard):
            assert y.mean() == pytest.approx(3.0, abs=0.02)
            assert y.var() == pytest.approx(9.0 * p / (1 - p), rel=0.01)


def test_the_strength_of_the_noise_is_that_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    layers = pytest.importorskip("keras").layers
    x = np.full(1 << 18, 2.0, np.float32)
    ours = functional.gaussian_dropout(x, 0.3, rng=1)[0], functional.gaussian_noise(x, 0.7, rng=1)[0]
    theirs = layers.GaussianDropout(0.3, seed=1), layers.GaussianNoise(0.7, seed=1)
    for y, layer in zip(ours, theirs, strict=True):
        other = np.asarray(layer(x, training=True))
        assert y.mean() == pytest.approx(other.mean(), abs=0.02)
        assert y.std() == pytest.approx(other.std(), rel=0.01)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_gradients_are_the_derivatives(backend: Any, name: str) -> None:
    def run(inputs: Any) -> Any:
        y, context = getattr(functional, name)(inputs["x"], 0.4, rng=stream())
        return y, lambda dy: {"x": getattr(functional, f"{name}_backward")(dy, context)}

    check_pass(run, {"x": normal(5, 4)})


LAYOUTS = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "with gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("name", LAUNCHERS)
def test_any_layout_and_target_gives_the_same_numbers(backend: Any, name: str, layout: str) -> None:
    plain, forward, backward = normal(7, 5, 9), getattr(functional, name), getattr(functional, f"{name}_backward")
    expected, context = forward(plain, 0.5, rng=stream())
    expected_dx = backward(plain, context)
    for target in ("new", "out", "in place"):
        x = LAYOUTS[layout](plain.copy())
        out = {"new": None, "out": np.full((9, 5, 7), np.nan).T, "in place": x}[target]
        y = forward(x, 0.5, rng=stream(), out=out)[0]
        np.testing.assert_array_equal(y, expected)
        assert out is None or y is out
        np.testing.assert_array_equal(x, expected if target == "in place" else plain)
        dy = LAYOUTS[layout](plain.copy())
        np.testing.assert_array_equal(backward(dy, context, out=dy if out is x else None), expected_dx)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_without_noise_the_input_is_passed_on_and_a_call_taken(backend: Any, name: str) -> None:
    x, rng = np.array([-0.0, np.nan, np.inf, 2.0]), stream()
    y, context = getattr(functional, name)(x, 0.0, rng=rng)
    assert y.tobytes() == x.tobytes()
    assert not np.shares_memory(x, y)
    assert (rng.call, context.call) == (CALL + 1, CALL)
    assert getattr(functional, f"{name}_backward")(x, context).tobytes() == x.tobytes()
    assert getattr(functional, name)(np.empty((0, 3)), 0.5, rng=rng)[0].shape == (0, 3)
    assert rng.call == CALL + 1


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_is_not_finite_stays_so(backend: Any, name: str) -> None:
    y = getattr(functional, name)(np.array([np.nan, np.inf, 1.0]), 0.2, rng=stream())[0]
    assert np.isnan(y[0])
    assert np.isinf(y[1])
    assert np.isfinite(y[2])


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("gaussian_dropout", {"strength": 1.0}, ValueError, "p must be below 1"),
    ("gaussian_dropout", {"strength": -0.1}, ValueError, "p must"),
    ("gaussian_dropout", {"strength": "half"}, TypeError, "p must"),
    ("gaussian_dropout", {"x": np.ones(3, int)}, TypeError, "x"),
    ("gaussian_noise", {"strength": -0.1}, ValueError, "std"),
    ("gaussian_noise", {"strength": math.inf}, ValueError, "std"),
    ("gaussian_noise", {"strength": None}, TypeError, "std"),
    ("gaussian_noise", {"rng": 1.5}, TypeError, "rng"),
    ("gaussian_noise", {"out": np.ones((4, 6), np.float32)}, TypeError, "out"),
]


@pytest.mark.parametrize(("name", "changes", "error", "word"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(
    refused: Any, name: str, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    def call(s: Any) -> None:
        arguments = {"x": s.x, "strength": 0.5, "rng": s.rng} | changes
        getattr(functional, name)(arguments.pop("x"), arguments.pop("strength"), **arguments)

    refused(SimpleNamespace(x=normal(4, 6), rng=stream()), call, error, word)


def test_a_context_that_does_not_fit_is_refused(refused: Any) -> None:
    things = SimpleNamespace(dy=normal(4, 6))
    made, other = functional.gaussian_dropout(things.dy, 0.5, rng=1)[1], functional.gaussian_noise(things.dy, 1.0)[1]
    back = functional.gaussian_dropout_backward
    refused(things, lambda s: back(s.dy, other), TypeError, "context")
    refused(things, lambda s: functional.gaussian_noise_backward(s.dy, made), TypeError, "context")
    refused(things, lambda s: back(s.dy[1:], made), ValueError, "dy")
    refused(things, lambda s: back(s.dy, made._replace(std=math.nan)), ValueError, "std")
    refused(things, lambda s: back(s.dy, made._replace(call=-1)), ValueError, "call")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_fails_gives_the_call_back(refused: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(_backend, name, fail)
    things = SimpleNamespace(x=normal(4, 6), rng=stream())
    refused(things, lambda s: getattr(functional, name)(s.x, 0.5, rng=s.rng), MemoryError, "no room")
