"""Concrete dropout: by the mask law's numbers, right to the last place, with one set of bits and right gradients."""

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

from normdrop import MaskStream, _backend, _concrete, _reference, functional
from normdrop._concrete import CHUNK, Relaxation

from ..conftest import SIMULATED, WITHOUT_JIT
from ..gradcheck import check_pass

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_concrete.json").read_text())
KEY, CALL = (3, 4), 5


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


def logit_of(p: float) -> float:
    return math.log(p / (1 - p))


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype(dtype)


def hard_points() -> Any:
    """Ends, the middle, where the power of two changes, and others."""
    rng = np.random.default_rng(1)
    turns = [round(2.0**32 / (1 + 2.0 ** (k / 2))) + d for k in range(-63, 64) for d in range(-3, 4)]
    middle = 2**31 + np.arange(-200, 200)
    near = (2.0**31 * rng.uniform(0.9, 1.1, 500)).astype(np.int64)
    n = np.concatenate([np.arange(100), 2**32 - 1 - np.arange(100), middle, turns, near, rng.integers(0, 2**32, 1500)])
    return np.clip(n, 0, 2**32 - 1).astype(np.float64) + 0.5


def test_the_logit_of_a_number_is_off_by_1_unit_in_the_last_place_at_most() -> None:
    a = hard_points()
    with mpmath.workdps(40):
        for number, logit in zip(a.tolist(), _concrete.logit(a).tolist(), strict=True):
            exact = mpmath.log(mpf(number) / (2**32 - mpf(number)))
            assert abs(mpf(logit) - exact) <= mpf(np.spacing(abs(float(exact)))), number


def test_shares_are_right_to_some_units_and_add_up_to_1() -> None:
    a = hard_points()
    kept, dropped = _concrete.shares(a, -0.75, 4.0)
    with mpmath.workdps(40):
        for number, share, rest in zip(a.tolist(), kept.tolist(), dropped.tolist(), strict=True):
            v = 4 * (mpmath.log(mpf(number) / (2**32 - mpf(number))) + mpf("0.75"))
            # The logit's own rounding counts as often as v is large.
            bound = (8 + 2 * abs(float(v))) * 2.0**-53
            for value, sign in ((share, -1), (rest, 1)):
                assert abs(mpf(value) * (1 + mpmath.exp(sign * v)) - 1) <= bound, number
    np.testing.assert_allclose(kept + dropped, 1.0, rtol=2.0**-51)


@pytest.mark.parametrize("row", range(0, len(GOLDEN["numbers"]), 3))
def test_numbers_are_those_of_the_law_in_plain_integers(row: int) -> None:
    golden = GOLDEN["numbers"][row]
    found = _reference.numbers(1000, tuple(golden["key"]), golden["call"])[golden["places"]]
    np.testing.assert_array_equal(found, np.array(golden["numbers"]) + 0.5)


def float32(bits: list[int]) -> Any:
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.simulated
@pytest.mark.parametrize("row", range(len(GOLDEN["passes"])))
def test_passes_have_the_golden_bits(backend: Any, row: int) -> None:
    golden = GOLDEN["passes"][row]
    x, dy, y, dx = (float32(golden[name]) for name in ("x", "dy", "y", "dx"))
    rng = MaskStream.from_key(tuple(golden["key"]), golden["call"])
    made, context = functional.concrete_dropout(x, golden["logit"], temperature=golden["temperature"], rng=rng)
    gradient, dlogit = functional.concrete_dropout_backward(dy, context)
    assert made.tobytes() == y.tobytes()
    assert gradient.tobytes() == dx.tobytes()
    assert dlogit == pytest.approx(golden["dlogit"], rel=1e-12)
    assert np.isnan(x).any() == (golden["temperature"] == 0.01)


DTYPES = ["float32", "float64", "float16", "bfloat16"]


def dtype_of(name: str) -> Any:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def passes(backend: Any, x: Any, dy: Any, relaxation: Relaxation) -> tuple[bytes, bytes, float]:
    y, dx, dlogit = np.empty_like(x), np.empty_like(x), np.zeros(1)
    backend.concrete_dropout(y, x, relaxation)
    backend.concrete_dropout_backward(dx, dlogit, dy, x, relaxation)
    return y.tobytes(), dx.tobytes(), float(dlogit[0])


@pytest.mark.kinds
@pytest.mark.simulated
@pytest.mark.parametrize("dtype", [*DTYPES[:2], *(pytest.param(name, marks=pytest.mark.once) for name in DTYPES[2:])])
def test_kernels_have_the_bits_of_the_reference_whatever_the_size(backend: Any, dtype: str) -> None:
    on_gpu = backend.__name__ == "cuda_on_host"
    if on_gpu and not SIMULATED:
        pytest.skip("a GPU may contract products into sums, which changes last places")
    relaxation = Relaxation(KEY, CALL, -1.25, 0.1)
    few = (1, 17, CHUNK + 1 if dtype == "float32" else 300)
    for n in few if on_gpu or WITHOUT_JIT else (1, 15, 16, 17, 255, 257, CHUNK, 3 * CHUNK + 19):
        x, dy = normal(n, seed=n).astype(dtype_of(dtype)), normal(n, seed=n + 1).astype(dtype_of(dtype))
        assert passes(backend, x, dy, relaxation) == passes(_reference, x, dy, relaxation), n


@pytest.mark.jit
@pytest.mark.same
def test_any_number_of_workers_gives_the_bits_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop import _cpu
    from normdrop._cpu import concrete

    x, dy = normal(70_001, dtype=np.float32), normal(70_001, dtype=np.float32, seed=1)
    relaxation = Relaxation(KEY, 2**40, 0.3, 0.1)
    expected = passes(_reference, x, dy, relaxation)
    for n_workers in (1, 3, 64):
        monkeypatch.setattr(concrete, "workers", lambda size, n=n_workers: n)
        assert passes(_cpu, x, dy, relaxation) == expected


@pytest.mark.parametrize("p", [2.0**-20, 0.1, 0.25, 0.5, 0.9])
def test_without_temperature_it_is_the_plain_mask_of_the_same_p_and_stream(backend: Any, p: float) -> None:
    x = normal(40, 125)
    soft, _ = functional.concrete_dropout(x, logit_of(p), temperature=1e-13, rng=stream())
    hard, _ = functional.dropout(x, p, rng=stream())
    np.testing.assert_array_equal(soft != 0, hard != 0)
    np.testing.assert_allclose(soft, hard, rtol=1e-8)


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_gradients_are_the_derivatives(backend: Any, logit: float) -> None:
    def run(inputs: Any) -> Any:
        a = float(inputs["logit"][()])
        y, context = functional.concrete_dropout(inputs["x"], a, temperature=0.5, rng=stream())

        def backward(dy: Any) -> Any:
            dx, dlogit = functional.concrete_dropout_backward(dy, context)
            return {"x": dx, "logit": np.array(dlogit)}

        return y, backward

    check_pass(run, {"x": normal(5, 4), "logit": np.array(logit)})


LAYOUTS = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "another order": lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1),
    "with gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("target", ["new", "out", "in place"])
def test_any_layout_and_target_gives_the_same_numbers(backend: Any, layout: str, target: str) -> None:
    plain, dy = normal(7, 5, 9, dtype=np.float32), normal(7, 5, 9, dtype=np.float32, seed=1)
    expected, context = functional.concrete_dropout(plain, 0.5, rng=stream())
    expected_dx, expected_dlogit = functional.concrete_dropout_backward(dy, context)
    x = LAYOUTS[layout](plain.copy())
    given = x.copy()
    out = {"new": None, "out": np.full((9, 5, 7), np.nan, np.float32).T, "in place": x}[target]
    y, context = functional.concrete_dropout(x, 0.5, rng=stream(), out=out)
    np.testing.assert_array_equal(y, expected)
    assert out is None or y is out or np.shares_memory(y, out)
    np.testing.assert_array_equal(x, expected if target == "in place" else given)
    other = LAYOUTS[layout](dy.copy())
    dx, dlogit = functional.concrete_dropout_backward(other, context, out=other if target == "in place" else None)
    np.testing.assert_array_equal(dx, expected_dx)
    assert dlogit == expected_dlogit
    if layout in ("C order", "Fortran order", "another order") and target == "new":
        assert y.strides == x.strides


def test_where_nothing_is_kept_there_is_a_zero_forward_and_backward_whatever_it_was(backend: Any) -> None:
    ones = np.ones(3000)
    kept = functional.concrete_dropout(ones, 0.0, temperature=1e-4, rng=stream())[0] > 0
    assert 0.3 < kept.mean() < 0.7
    for bad in (np.nan, np.inf, -np.inf):
        x, dy = np.where(kept, 1.0, bad), np.where(kept, 1.0, -bad)
        y, context = functional.concrete_dropout(x, 0.0, temperature=1e-4, rng=stream())
        dx, dlogit = functional.concrete_dropout_backward(dy, context)
        assert y[~kept].tobytes() == dx[~kept].tobytes() == bytes(8 * np.count_nonzero(~kept))
        assert math.isfinite(dlogit)
        one = functional.concrete_dropout(ones, 0.0, temperature=1e-4, rng=stream())[1]
        assert dlogit == functional.concrete_dropout_backward(ones, one)[1]


def test_a_nan_that_is_kept_stays_one(backend: Any) -> None:
    x = np.array([np.nan, 1.0])
    y, context = functional.concrete_dropout(x, -3.0, rng=stream())
    assert np.isnan(y).tolist() == [True, False]
    dx, dlogit = functional.concrete_dropout_backward(np.ones(2), context)
    assert not np.isnan(dx).any()
    assert math.isnan(dlogit)


def test_extreme_logits_and_temperatures_give_finite_numbers(backend: Any) -> None:
    x = normal(500)
    for logit in (-700.0, 700.0):
        for temperature in (1e-300, 1e-3, 1e3, 1e300):
            y, context = functional.concrete_dropout(x, logit, temperature=temperature, rng=stream())
            dx, _ = functional.concrete_dropout_backward(np.ones(500), context)
            assert np.isfinite(dx).all()
            assert np.isfinite(y).all()
            if logit < 0 and temperature < 1:
                np.testing.assert_array_equal(y, x)


def test_an_empty_array_takes_no_call(backend: Any) -> None:
    rng = stream()
    y, context = functional.concrete_dropout(np.empty((0, 3)), 0.0, rng=rng)
    assert y.shape == (0, 3)
    assert rng == stream()
    dx, dlogit = functional.concrete_dropout_backward(np.empty((0, 3)), context)
    assert (dx.shape, dlogit) == ((0, 3), 0.0)


def test_a_pass_takes_one_call(backend: Any) -> None:
    rng = stream()
    first, second = (functional.concrete_dropout(np.ones(99), 0.0, rng=rng)[0] for _ in range(2))
    assert rng.call == CALL + 2
    assert not np.array_equal(first, second)


@pytest.fixture
def things() -> SimpleNamespace:
    x = normal(4, 6, dtype=np.float32)
    s = SimpleNamespace(x=x, dy=normal(4, 6, dtype=np.float32, seed=1), rng=stream())
    s.context = functional.concrete_dropout(x, 0.5, rng=stream())[1]
    return s


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logit": math.nan}, ValueError, "logit"),
    ({"logit": 701.0}, ValueError, "logit"),
    ({"logit": "0"}, TypeError, "logit"),
    ({"logit": True}, TypeError, "logit"),
    ({"temperature": 0.0}, ValueError, "temperature"),
    ({"temperature": -0.1}, ValueError, "temperature"),
    ({"temperature": math.inf}, ValueError, "temperature"),
    ({"temperature": 5e-324}, ValueError, "temperature"),
    ({"temperature": None}, TypeError, "temperature"),
    ({"rng": 1.5}, TypeError, "rng"),
    ({"x": np.ones(3, int)}, TypeError, "x"),
    ({"x": [1.0]}, TypeError, "x"),
    ({"out": np.ones((4, 6))}, TypeError, "out"),
    ({"out": np.ones((6, 4), np.float32)}, ValueError, "out"),
]


@pytest.mark.parametrize(("changes", "error", "word"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(
    things: Any, refused: Any, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    def call(s: Any) -> None:
        arguments = {"x": s.x, "logit": 0.5, "rng": s.rng} | changes
        functional.concrete_dropout(arguments.pop("x"), arguments.pop("logit"), **arguments)

    refused(things, call, error, word)


FORGED: list[tuple[Any, type[Exception], str]] = [
    (lambda c: None, TypeError, "context"),
    (tuple, TypeError, "context"),
    (lambda c: c._replace(x=None), TypeError, "context.x"),
    (lambda c: c._replace(x=np.ones((4, 6))), TypeError, "dy"),
    (lambda c: c._replace(x=np.ones((4, 7), np.float32)), ValueError, "dy"),
    (lambda c: c._replace(relaxation=tuple(c.relaxation)), TypeError, "relaxation"),
    (lambda c: c._replace(relaxation=c.relaxation._replace(call=-1)), ValueError, "call"),
    (lambda c: c._replace(relaxation=c.relaxation._replace(key=(1, 2**32))), ValueError, "key"),
    (lambda c: c._replace(relaxation=c.relaxation._replace(logit=math.inf)), ValueError, "logit"),
    (lambda c: c._replace(relaxation=c.relaxation._replace(temperature=0.0)), ValueError, "temperature"),
]


@pytest.mark.parametrize(("forge", "error", "word"), FORGED, ids=[str(k) for k in range(len(FORGED))])
def test_a_context_that_does_not_fit_is_refused(
    things: Any, refused: Any, forge: Any, error: type[Exception], word: str
) -> None:
    things.context = forge(things.context)
    refused(things, lambda s: functional.concrete_dropout_backward(s.dy, s.context), error, word)


def test_arrays_that_do_not_fit_are_refused_where_they_meet_a_launcher(things: Any, refused: Any) -> None:
    things.flat, things.y, things.sum = np.ones(8), np.ones(8), np.ones(1)
    relaxation = Relaxation(KEY, CALL, 0.0, 0.1)
    launch, back = _backend.concrete_dropout, _backend.concrete_dropout_backward
    refused(things, lambda s: launch(s.y[:7], s.flat, relaxation), ValueError, "y does not fit")
    refused(things, lambda s: launch(s.y, s.flat.reshape(2, 4), relaxation), ValueError, "x does not fit")
    refused(things, lambda s: back(s.y[1:], s.sum, s.flat, s.flat, relaxation), ValueError, "dx does not fit")
    refused(things, lambda s: back(s.y, s.sum, s.flat[1:], s.flat, relaxation), ValueError, "dy does not fit")
    refused(things, lambda s: back(s.y, s.sum[1:], s.flat, s.flat, relaxation), ValueError, "dlogit does not fit")


def test_a_launcher_that_fails_gives_the_call_back(things: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(_backend, "concrete_dropout", fail)
    refused(things, lambda s: functional.concrete_dropout(s.x, 0.0, rng=s.rng), MemoryError, "no room")
