"""Batch norm takes any floating array and gives one of the same shape, dtype and memory order; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normdrop import functional
from normdrop.functional import _per_channel as per_channel

pytestmark = pytest.mark.usefixtures("backend")

Array = np.ndarray[Any, np.dtype[Any]]
SHAPE = (6, 5, 4, 3)
_SIZE = 6 * 5 * 4 * 3
DTYPES = [np.float32, np.float64]


def _misaligned(x: Array) -> Array:
    buffer = np.empty(x.nbytes + 1, np.uint8)
    moved = buffer[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    assert not moved.flags.aligned
    return moved


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def _spaced(x: Array) -> Array:
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _cut(x: Array) -> Array:
    wide = np.full([n + 2 for n in x.shape], np.nan, x.dtype)
    wide[1:-1, 1:-1, 1:-1, 1:-1] = x
    return wide[1:-1, 1:-1, 1:-1, 1:-1]


# Each keeps the values and changes the memory.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "channels last in memory": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2),
    "channels outermost in memory": lambda x: np.ascontiguousarray(x.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3),
    "permuted": lambda x: np.ascontiguousarray(x.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2),
    "every second": _spaced,
    "cut out": _cut,
    "backwards": lambda x: np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    "channels backwards": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "read-only": _read_only,
    "misaligned": _misaligned,
}


def _x(dtype: type, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(3.0, 2.0, SHAPE).astype(dtype)


def _parameters() -> tuple[Array, Array]:
    rng = np.random.default_rng(9)
    return rng.normal(size=5), rng.normal(size=5)


def _order(x: Array) -> list[int]:
    """Axes from the outermost in memory to the innermost."""
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


def _passes(x: Array, dy: Array, **out: Array | None) -> dict[str, Any]:
    """All four passes on these arrays; `out` by the name of the result."""
    gamma, beta = _parameters()
    y, context = functional.batch_norm(x, gamma, beta, out=out.get("y"))
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context, out=out.get("dx"))
    statistics = np.linspace(0, 1, 5), np.linspace(1, 2, 5)
    z, frozen = functional.batch_norm_inference(x, *statistics, gamma, beta, keep_x=True, out=out.get("z"))
    dz, dgamma_z, dbeta_z = functional.batch_norm_inference_backward(dy, frozen, out=out.get("dz"))
    tensors = {"y": y, "dx": dx, "z": z, "dz": dz}
    vectors = {"dgamma": dgamma, "dbeta": dbeta, "dgamma_z": dgamma_z, "dbeta_z": dbeta_z}
    return tensors | vectors | {"mean": context.mean, "var": context.var}


def _agree(results: dict[str, Any], expected: dict[str, Any], dtype: type) -> None:
    bound = 2e-6 if dtype is np.float32 else 1e-12  # the order of a sum, and thus its rounding, follows the memory
    for name, values in expected.items():
        np.testing.assert_allclose(results[name], values, rtol=bound, atol=bound, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_results_do_not_depend_on_memory_and_inputs_are_neither_changed_nor_aliased(layout: str, dtype: type) -> None:
    expected = _passes(_x(dtype), _x(dtype, 1))
    x, dy = LAYOUTS[layout](_x(dtype)), LAYOUTS[layout](_x(dtype, 1))
    results = _passes(x, dy)
    _agree(results, expected, dtype)
    np.testing.assert_array_equal(x, _x(dtype))
    np.testing.assert_array_equal(dy, _x(dtype, 1))
    for name in ("y", "dx", "z", "dz"):
        assert results[name].dtype == dtype
        assert results[name].flags.writeable
        assert results[name].flags.aligned
        assert not np.may_share_memory(results[name], x), name
        assert not np.may_share_memory(results[name], dy), name


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_output_has_the_memory_order_of_the_input(layout: str) -> None:
    x, dy = LAYOUTS[layout](_x(np.float32)), LAYOUTS[layout](_x(np.float32, 1))
    results = _passes(x, dy)
    for name in ("y", "dx", "z", "dz"):
        assert _order(results[name]) == _order(x), name
        assert results[name].transpose(_order(x)).flags.c_contiguous, name


@pytest.mark.parametrize("layout_dy", list(LAYOUTS))
@pytest.mark.parametrize("layout_x", ["C order", "channels last in memory", "backwards"])
def test_gradient_may_lie_in_memory_as_it_likes(layout_x: str, layout_dy: str) -> None:
    expected = _passes(_x(np.float64), _x(np.float64, 1))
    results = _passes(LAYOUTS[layout_x](_x(np.float64)), LAYOUTS[layout_dy](_x(np.float64, 1)))
    _agree(results, expected, np.float64)


@pytest.mark.parametrize("layout_out", [name for name in LAYOUTS if name != "read-only"])
@pytest.mark.parametrize("layout", ["C order", "Fortran order", "channels last in memory", "backwards"])
def test_out_of_any_layout_is_filled_and_returned(layout: str, layout_out: str) -> None:
    x, dy = LAYOUTS[layout](_x(np.float64)), LAYOUTS[layout](_x(np.float64, 1))
    out = {name: LAYOUTS[layout_out](np.full(SHAPE, np.nan)) for name in ("y", "dx", "z", "dz")}
    results = _passes(x, dy, **out)
    _agree(results, _passes(_x(np.float64), _x(np.float64, 1)), np.float64)
    for name, array in out.items():
        assert results[name] is array


def test_out_fills_its_own_elements_alone() -> None:
    x, dy = _x(np.float32), _x(np.float32, 1)
    wide = {name: np.full((*SHAPE[:-1], 7), 7.0, np.float32) for name in ("y", "dx", "z", "dz")}
    _passes(x, dy, **{name: array[..., 1:4] for name, array in wide.items()})
    for array in wide.values():
        assert np.all(array[..., :1] == 7.0)
        assert np.all(array[..., 4:] == 7.0)
        assert not np.any(array[..., 1:4] == 7.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read-only"])
def test_in_place_gives_the_same_bits_and_backward_still_works(layout: str, dtype: type) -> None:
    make = LAYOUTS[layout]
    gamma, beta = _parameters()
    expected = _passes(make(_x(dtype)), make(_x(dtype, 1)))

    x, dy = make(_x(dtype)), make(_x(dtype, 1))
    y, context = functional.batch_norm(x, gamma, beta, out=x)
    assert y is x
    np.testing.assert_array_equal(x, expected["y"])
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context, out=dy)
    assert dx is dy
    for name, result in {"dx": dy, "dgamma": dgamma, "dbeta": dbeta}.items():
        np.testing.assert_array_equal(result, expected[name], err_msg=name)

    x, dy = make(_x(dtype)), make(_x(dtype, 1))
    statistics = np.linspace(0, 1, 5), np.linspace(1, 2, 5)
    z, frozen = functional.batch_norm_inference(x, *statistics, gamma, beta, keep_x=True, out=x)
    assert z is x
    np.testing.assert_array_equal(x, expected["z"])
    dz, dgamma, dbeta = functional.batch_norm_inference_backward(dy, frozen, out=dy)
    assert dz is dy
    for name, result in {"dz": dy, "dgamma_z": dgamma, "dbeta_z": dbeta}.items():
        np.testing.assert_array_equal(result, expected[name], err_msg=name)


@pytest.mark.parametrize("axes", [(0,), (2, 3), (1,), (0, 2, 3)], ids=str)
def test_zero_strides_are_taken_as_the_values_they_repeat(axes: tuple[int, ...]) -> None:
    part = _x(np.float64)[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))]
    x, dy = np.broadcast_to(part, SHAPE), np.broadcast_to(part + 1, SHAPE)
    assert 0 in x.strides
    before = part.copy()
    results = _passes(x, dy)
    # Where all values of a channel are one, both gradients of x are 0 but for rounding over sqrt(eps).
    for name, values in _passes(x.copy(), dy.copy()).items():
        np.testing.assert_allclose(results[name], values, rtol=1e-12, atol=1e-11, err_msg=name)
    np.testing.assert_array_equal(part, before)
    assert results["y"].flags.writeable
    assert 0 not in results["y"].strides


def test_memory_maps_are_taken_and_plain_arrays_given(tmp_path: Path) -> None:
    expected = _passes(_x(np.float32), _x(np.float32, 1))
    path = tmp_path / "x.bin"
    _x(np.float32).tofile(path)
    x = np.memmap(path, np.float32, "r", shape=SHAPE)
    results = _passes(x, _x(np.float32, 1))
    for name, values in expected.items():
        np.testing.assert_array_equal(results[name], values)
    assert type(results["y"]) is np.ndarray
    del x
    np.testing.assert_array_equal(np.fromfile(path, np.float32).reshape(SHAPE), _x(np.float32))


def _with_vectors(x: Array, dy: Array, vectors: list[Any]) -> list[bytes]:
    """Outputs of passes with vectors = [mean, var, gamma, beta]."""
    y, context = functional.batch_norm(x, *vectors[2:])
    z, frozen = functional.batch_norm_inference(x, *vectors, keep_x=True)
    dx, dz = functional.batch_norm_backward(dy, context)[0], functional.batch_norm_inference_backward(dy, frozen)[0]
    return [array.tobytes() for array in (y, z, dx, dz)]


# Each keeps the values, which float16 has, too, and changes how they are stored.
STORED: dict[str, Callable[[Array], Array | None]] = {
    "float16": lambda v: v.astype(np.float16),
    "float32": lambda v: v.astype(np.float32),
    "float64": lambda v: v,
    "every second": lambda v: np.repeat(v.astype(np.float32), 2)[::2],
    "backwards": lambda v: v[::-1].copy()[::-1],
    "misaligned": lambda v: _misaligned(v.astype(np.float32)),
    "read-only": lambda v: _read_only(v.astype(np.float32)),
}


@pytest.mark.parametrize("other", list(STORED))
@pytest.mark.parametrize("stored", list(STORED))
@pytest.mark.parametrize("dtype", [*DTYPES, np.float16])
def test_vectors_of_any_float_dtype_and_stride_are_taken_and_unchanged(dtype: type, stored: str, other: str) -> None:
    x, dy = _x(dtype), _x(dtype, 1)
    values = np.random.default_rng(9).uniform(0.5, 2.0, (4, 5)).astype(np.float16).astype(np.float64)
    vectors = [STORED[stored if k % 2 else other](v) for k, v in enumerate(values)]
    before = [v.tobytes() for v in vectors]
    assert _with_vectors(x, dy, vectors) == _with_vectors(x, dy, list(values))
    assert [v.tobytes() for v in vectors] == before


@pytest.mark.parametrize("stored", list(STORED))
@pytest.mark.parametrize("dtype", [*DTYPES, np.float16])
def test_backends_meet_aligned_vectors_of_few_dtypes(dtype: type, stored: str) -> None:
    """Each further dtype would be a kernel of its own."""
    for given in ((STORED[stored](np.ones(5)), np.ones(5, np.float32)), (STORED[stored](np.ones(5)), None)):
        vectors = per_channel.vectors(("gamma", "beta"), given, 5, _x(dtype))
        assert all(v.flags.c_contiguous and v.flags.aligned for v in vectors)
        wide = np.float64 in (dtype, given[0].dtype)
        assert {v.dtype for v in vectors} == {np.dtype(np.float64 if wide else np.float32)}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_gamma_is_ones_and_no_beta_is_zeros(dtype: type, kind: type) -> None:
    x, dy = _x(dtype), _x(dtype, 1)
    statistics = np.random.default_rng(9).uniform(0.5, 2.0, (2, 5)).astype(kind)
    gamma, beta = (values.astype(kind) for values in _parameters())
    for given in ((None, beta), (gamma, None), (None, None)):
        full = [default if v is None else v for v, default in zip(given, (np.ones(5), np.zeros(5)), strict=True)]
        assert _with_vectors(x, dy, [*statistics, *given]) == _with_vectors(x, dy, [*statistics, *full])


def test_float64_vectors_are_not_rounded_to_the_dtype_of_x() -> None:
    """They would be infinite in float32, and the results NaN."""
    x, dy = _x(np.float32), _x(np.float32, 1)
    gamma, centered = np.full(5, 1e50), x - x.mean(axis=(0, 2, 3), keepdims=True)
    y, context = functional.batch_norm(x, gamma, eps=1e100)
    np.testing.assert_allclose(y, centered, rtol=1e-5, atol=1e-5)
    dx = functional.batch_norm_backward(dy, context)[0]
    np.testing.assert_allclose(dx, dy - dy.mean(axis=(0, 2, 3), keepdims=True), rtol=1e-5, atol=1e-5)
    z = functional.batch_norm_inference(x, np.zeros(5), np.full(5, 1e100), gamma)[0]
    np.testing.assert_allclose(z, x, rtol=1e-6)


@pytest.mark.parametrize("shape", [SHAPE, (700, 5), (2, 5, 300)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_overwritten_by_the_output_are_read_before(dtype: type, shape: tuple[int, ...]) -> None:
    x, dy = (np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(dtype) for seed in (0, 1))
    values = [v.astype(dtype) for v in np.random.default_rng(9).uniform(0.5, 2.0, (4, 5))]
    y, context = functional.batch_norm(x, *values[2:])
    z = functional.batch_norm_inference(x, *values)[0]
    dx = functional.batch_norm_backward(dy, context)[0]

    def over() -> tuple[Array, list[Array]]:
        out = np.full(shape, np.nan, dtype)
        vectors = list(out.reshape(-1)[:20].reshape(4, 5))
        for vector, v in zip(vectors, values, strict=True):
            vector[...] = v
        return out, vectors

    out, vectors = over()
    assert functional.batch_norm(x, *vectors[2:], out=out)[0].tobytes() == y.tobytes()
    out, vectors = over()
    assert functional.batch_norm_inference(x, *vectors, out=out)[0].tobytes() == z.tobytes()
    out, vectors = over()
    context = context._replace(gamma=vectors[2])
    assert functional.batch_norm_backward(dy, context, out=out)[0].tobytes() == dx.tobytes()


def test_overlap_that_is_not_in_place_is_refused_and_nothing_is_written() -> None:
    buffer = np.arange(2.0 * _SIZE)
    x, shifted = buffer[:_SIZE].reshape(SHAPE), buffer[5 : 5 + _SIZE].reshape(SHAPE)
    before = buffer.copy()
    _, context = functional.batch_norm(x)
    _, frozen = functional.batch_norm_inference(x, np.zeros(5), np.ones(5), keep_x=True)
    for call in (
        lambda: functional.batch_norm(x, out=shifted),
        lambda: functional.batch_norm_inference(x, np.zeros(5), np.ones(5), out=shifted),
        lambda: functional.batch_norm_backward(x, context, out=shifted),
        lambda: functional.batch_norm_inference_backward(x, frozen, out=shifted),
    ):
        with pytest.raises(ValueError, match="overlaps"):
            call()
    np.testing.assert_array_equal(buffer, before)
