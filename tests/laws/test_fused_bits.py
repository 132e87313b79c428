"""Fused passes have the bits of their steps one after the other, and their mask is that of the mask law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop import _reference
from normdrop._activations import ACTIVATIONS
from normdrop._steps import Steps

from ..conftest import SIMULATED, WITHOUT_JIT

pytestmark = [pytest.mark.kinds, pytest.mark.simulated]

STRAIGHT = ["identity", "relu", "leaky_relu", "relu6", "hardswish"]
PARAMETERS = {name: known.parameter or 0.0 for name, known in ACTIVATIONS.items()}
# Kernels for each take long to compile. Their loops are the same.
DTYPES: list[Any] = ["float32", "float16"]
DTYPES += [pytest.param(name, marks=pytest.mark.same) for name in ("float64", "bfloat16")]
KEY, CALL = (2**32 - 1, 7), 2**63 - 2
# Rows that are joined and single; planes below, around and above what is read at once; one element.
SHAPES = [(50, 3, 1), (7, 5, 3), (3, 5, 40), (2, 3, 17), (3, 2, 16), (1, 1, 100), (1, 1, 1)]
SHAPES += [] if SIMULATED else [(2, 330, 1), (2, 2, 700)]  # the simulator is slow


def dtype_of(name: str) -> Any:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def arrays(shape: tuple[int, ...], dtype: Any, n: int) -> list[Any]:
    rng = np.random.default_rng(sum(shape))
    return [rng.normal(0.5, 2.0, shape).astype(dtype) for _ in range(n)]


def drawn(activation: str, p: float = 0.25) -> Steps:
    threshold = round(p * 2**32)
    return Steps(activation, PARAMETERS[activation], threshold, 1 / (1 - p), KEY, CALL)


def folded(activation: str, shape: tuple[int, ...], fold: tuple[int, int]) -> Steps:
    mask = np.random.default_rng(3).random((np.prod(shape) // (fold[0] * fold[1]), fold[1])) < 0.6
    return Steps(activation, PARAMETERS[activation], scale=1 / 0.6, mask=mask, fold=fold)


def same(got: Any, expected: Any) -> None:
    """Compare bits, but of NaN only that it is one."""
    assert got.dtype == expected.dtype
    nan = np.isnan(expected.astype(np.float64))
    assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
    assert got[~nan].tobytes() == expected[~nan].tobytes()


def agrees(got: Any, expected: Any, activation: str, backend: Any) -> None:
    """Bits; on a GPU, where a product and a sum may be rounded once, a last place of the dtype for curved ones."""
    if activation in STRAIGHT or SIMULATED or not backend.__name__.endswith("on_host"):
        same(got, expected)
    else:
        rtol = {2: 2.0**-7 if got.dtype.name == "bfloat16" else 2.0**-10, 4: 2.0**-22, 8: 1e-13}[got.itemsize]
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=rtol / 64)


def passes(backend: Any, shape: tuple[int, ...], dtype: Any, steps: Steps, *, residual: bool = True) -> None:
    """Compare the passes with given statistics with those of the reference, bit by bit."""
    x, r, dy = arrays(shape, dtype, 3)
    inputs = x, r if residual else None
    vectors = np.random.default_rng(1).normal(size=(4, shape[1]))
    got, expected = np.full_like(x, np.nan), np.empty_like(x)
    backend.normalize_act(got, inputs, vectors, steps)
    _reference.normalize_act(expected, inputs, vectors, steps)
    agrees(got, expected, steps.activation, backend)
    backend.act_gradient(got, dy, inputs, vectors, steps)
    _reference.act_gradient(expected, dy, inputs, vectors, steps)
    agrees(got, expected, steps.activation, backend)


def flat_passes(backend: Any, n: int, dtype: Any, steps: Steps, *, residual: bool = True) -> None:
    """The same for those without statistics."""
    x, r, dy = arrays((n,), dtype, 3)
    got, expected = np.full_like(x, np.nan), np.empty_like(x)
    inputs = x, r if residual else None
    backend.act_dropout(got, inputs, steps)
    _reference.act_dropout(expected, inputs, steps)
    agrees(got, expected, steps.activation, backend)
    backend.act_dropout_backward(got, dy, x, steps)
    _reference.act_dropout_backward(expected, dy, x, steps)
    agrees(got, expected, steps.activation, backend)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_with_given_statistics_have_the_bits_of_the_steps(backend: Any, dtype: str, shape: Any) -> None:
    passes(backend, shape, dtype_of(dtype), drawn("relu"))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 255, 256, 257, 4096, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_without_statistics_have_the_bits_of_the_steps(backend: Any, dtype: str, n: int) -> None:
    flat_passes(backend, min(n, 300) if SIMULATED else n, dtype_of(dtype), drawn("relu"))


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "hardswish", "elu"])
def test_activations_with_and_without_parameters_have_the_bits_of_the_reference(backend, activation) -> None:
    """In float64, where a difference in a last place shows."""
    flat_passes(backend, 300, np.dtype(np.float64), drawn(activation), residual=False)


@pytest.mark.parametrize("activation", ["gelu"])
@pytest.mark.parametrize("shape", [(3, 5, 40), (50, 3, 1)], ids=str)
def test_curved_activations_after_batch_norm_have_the_bits_of_the_steps(backend, activation, shape) -> None:
    passes(backend, shape, np.dtype(np.float32), drawn(activation), residual=False)


@pytest.mark.parametrize("shape", [(3, 5, 40), (7, 5, 3), (2, 2, 70)], ids=str)
def test_passes_without_dropout_have_the_bits_of_the_steps(backend: Any, shape: Any) -> None:
    passes(backend, shape, np.dtype(np.float32), Steps("relu"))
    flat_passes(backend, int(np.prod(shape)), np.dtype(np.float32), Steps("relu"))


@pytest.mark.parametrize("shape", [(2, 4, 40), (4, 6, 3)], ids=str)
def test_given_masks_are_applied_as_they_are_folded(backend: Any, shape: Any) -> None:
    outer, n_channels, inner = shape
    for fold in [(inner, 1), (n_channels * inner, 1), (1, inner), (n_channels, inner), (outer, n_channels * inner)]:
        passes(backend, shape, np.dtype(np.float32), folded("relu", shape, fold))
    for keeps in (False, True):
        everything = Steps("relu", scale=1.0, mask=np.full((1, 1), keeps), fold=(int(np.prod(shape)), 1))
        passes(backend, shape, np.dtype(np.float32), everything)


CALLS = [((2**32 - 1, 2**32 - 1), 2**63 - 1), ((0, 0), 0), ((1, 2**31), 2**32)]


@pytest.mark.parametrize(("key", "call"), CALLS)
@pytest.mark.parametrize("threshold", [1, 0x8000, 2**31 + 12345, 2**32 - 2**16, 2**32 - 1])
def test_the_mask_of_a_fused_pass_is_that_of_the_mask_law(backend: Any, key: Any, call: int, threshold: int) -> None:
    for shape in [(3, 5, 40), (50, 3, 1)]:
        n = int(np.prod(shape))
        x, y, mask = np.ones(shape, np.float32), np.empty(shape, np.float32), np.empty(n, np.bool_)
        backend.normalize_act(
            y, (x, x), np.stack([np.zeros(shape[1]), *np.ones((2, shape[1]))]),
            Steps("relu", 0.0, threshold, 1.0, key, call),
        )  # fmt: skip
        _reference.keep_mask(mask, key, call, threshold)
        assert np.array_equal(y.reshape(-1) != 0, mask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] * s[2] > 1], ids=str)
def test_batch_norm_with_an_activation_has_the_bits_of_batch_norm_and_then_the_rest(backend, shape, dtype) -> None:
    x, r, dy = arrays(shape, dtype_of(dtype), 3)
    parameters = np.float64 if x.itemsize == 8 else np.float32
    gamma, beta = np.random.default_rng(0).normal(size=(2, shape[1])).astype(parameters)
    steps = drawn("relu")
    for residual in (r, None) if dtype == "float32" else (r,):
        u, y, expected = (np.empty_like(x) for _ in range(3))
        statistics, alone = np.full((2, 3, shape[1]), np.nan)
        backend.batch_norm_act(y, (x, residual), statistics, (gamma, beta), 1e-5, steps)
        backend.batch_norm(u, x, alone, gamma, beta, 1e-5)
        assert statistics.tobytes() == alone.tobytes()
        unit = np.stack([np.zeros(shape[1]), np.ones(shape[1]), np.full(shape[1], -0.0)])
        _reference.normalize_act(expected, (u, residual), unit, steps)
        same(y, expected)

        dx, du, dx_alone, du_alone = (np.full_like(x, np.nan) for _ in range(4))
        sums, sums_alone = np.full((2, 2, shape[1]), np.nan)
        backend.batch_norm_act_backward((dx, du), (dy, x, residual), sums, statistics, (gamma, beta), steps)
        vectors = np.stack([statistics[0], gamma.astype(np.float64) * statistics[2], beta])
        _reference.act_gradient(du_alone, dy, (x, residual), vectors, steps)
        backend.batch_norm_backward(dx_alone, du_alone, x, sums_alone, statistics, gamma)
        same(du, du_alone)
        same(dx, dx_alone)
        same(sums, sums_alone)


@pytest.mark.parametrize("shape", [(3, 5, 40), (50, 3, 1), (2, 3, 17)], ids=str)
def test_results_may_lie_over_inputs(backend: Any, shape: Any) -> None:
    x, r, dy = arrays(shape, np.dtype(np.float32), 3)
    gamma, beta = np.random.default_rng(0).normal(size=(2, shape[1])).astype(np.float32)
    steps, vectors = drawn("relu"), np.random.default_rng(1).normal(size=(3, shape[1]))
    statistics, sums = np.empty((3, shape[1])), np.empty((2, shape[1]))
    y, du, dx = (np.empty_like(x) for _ in range(3))
    backend.batch_norm_act(y, (x, r), statistics, (gamma, beta), 1e-5, steps)
    for k in (0, 1):
        inputs = x.copy(), r.copy()
        backend.batch_norm_act(inputs[k], inputs, np.empty_like(statistics), (gamma, beta), 1e-5, steps)
        same(inputs[k], y)
    backend.normalize_act(y, (x, r), vectors, steps)
    for k in (0, 1):
        inputs = x.copy(), r.copy()
        backend.normalize_act(inputs[k], inputs, vectors, steps)
        same(inputs[k], y)
    backend.act_gradient(du, dy, (x, r), vectors, steps)
    for k in (0, 1, 2):
        one = dy.copy(), x.copy(), r.copy()
        backend.act_gradient(one[k], one[0], one[1:], vectors, steps)
        same(one[k], du)
    given = sums, statistics, (gamma, beta), steps
    backend.batch_norm_act_backward((dx, du), (dy, x, r), *given)
    over = dy.copy()
    backend.batch_norm_act_backward((over, over), (over, x, r), *given)  # dx is du is dy
    same(over, dx)
    over, other = dy.copy(), np.empty_like(x)
    backend.batch_norm_act_backward((over, other), (over, x, r), *given)
    same(over, dx)
    same(other, du)
    over, other = dy.copy(), np.empty_like(x)
    backend.batch_norm_act_backward((other, over), (over, x, r), *given)
    same(other, dx)
    same(over, du)
    over, other = x.copy(), np.empty_like(x)
    backend.batch_norm_act_backward((over, other), (dy, over, r), *given)  # dx is x
    same(over, dx)
    backend.batch_norm_act_backward((dx, du), (dy, x, None), *given)
    over, other = x.copy(), np.empty_like(x)
    backend.batch_norm_act_backward((over, other), (dy, over, None), *given)
    same(over, dx)
    over = dy.copy()
    backend.batch_norm_act_backward((over, over), (over, x, None), *given)
    same(over, dx)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_dropped_element_is_zero_forward_and_backward_whatever_it_was(backend: Any, activation: str) -> None:
    x, dy = arrays((300,), np.dtype(np.float32), 2)
    x[::3], x[1::7], dy[::5], dy[2::11] = np.nan, -np.inf, np.inf, np.nan
    steps, mask, y = drawn(activation), np.empty(300, np.bool_), np.empty_like(x)
    _reference.keep_mask(mask, steps.key, steps.call, steps.threshold)
    backend.act_dropout(y, (x, None), steps)
    assert y[~mask].tobytes() == bytes(4 * (~mask).sum())
    backend.act_dropout_backward(y, dy, x, steps)
    assert y[~mask].tobytes() == bytes(4 * (~mask).sum())
    assert np.isnan(y[mask]).any()


def test_nothing_of_nothing(backend: Any) -> None:
    x = np.empty(0, np.float32)
    for steps in (drawn("relu"), Steps("relu")):
        backend.act_dropout(x, (x, None), steps)
        backend.act_dropout_backward(x, x, x, steps)


@given(data=st.data())
def test_fused_passes_of_anything_have_the_bits_of_the_steps(backend: Any, data: st.DataObject) -> None:
    most = 6 if SIMULATED or WITHOUT_JIT else 40
    outer, n_channels = data.draw(st.integers(1, 6)), data.draw(st.integers(1, most))
    shape = outer, n_channels, data.draw(st.sampled_from([1, 2, 15, 16, 17, 31, 33, 64, 129]))
    if data.draw(st.booleans()):
        steps = drawn("relu", data.draw(st.sampled_from([0.1, 0.5, 1 - 2.0**-20])))
        steps = steps._replace(call=data.draw(st.integers(0, 2**63 - 1)))
    else:
        n = int(np.prod(shape))
        n_shared = data.draw(st.sampled_from([s for s in range(1, n + 1) if n % s == 0]))
        left = n // n_shared
        length = data.draw(st.sampled_from([s for s in range(1, left + 1) if left % s == 0]))
        steps = folded("relu", shape, (n_shared, length))
    passes(backend, shape, np.dtype(np.float32), steps)


GOLDEN = Path(__file__).parents[1] / "data" / "golden_fused.json"


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_passes_have_the_golden_bits(backend: Any, dtype: str) -> None:
    """Mask, rounding after every step and +0, as `make_golden_fused.py` has them of exact arithmetic."""
    for row in json.loads(GOLDEN.read_text()):
        if row["dtype"] == dtype:
            x, r, y = (np.array(row[name], f"u{dtype_of(dtype).itemsize}").view(dtype_of(dtype)) for name in "xry")
            got, steps = np.empty_like(x), Steps("relu", 0.0, row["T"], row["scale"], tuple(row["key"]), row["call"])
            backend.act_dropout(got, (x, r), steps)
            assert got.tobytes() == y.tobytes()
