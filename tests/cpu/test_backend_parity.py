"""The contract between the levels: every backend offers the reference's launchers, name by name."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from normdrop import _backend, _exact, _reference

pytestmark = pytest.mark.kinds


def _launchers() -> list[str]:
    """Public functions that return nothing: a launcher fills the arrays that it is given."""
    functions = {name: getattr(_reference, name) for name in _reference.__all__}
    return [name for name, function in functions.items() if function.__annotations__["return"] == "None"]


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", _launchers())
def test_cpu_launcher_has_the_parameters_of_its_reference(name: str) -> None:
    from normdrop import _cpu

    assert _parameters(getattr(_cpu, name)) == _parameters(getattr(_reference, name))


@pytest.mark.parametrize("name", _launchers())
def test_checked_launcher_has_the_parameters_and_annotations_of_the_reference(name: str) -> None:
    checked, reference = getattr(_backend, name), getattr(_reference, name)
    assert _parameters(checked) == _parameters(reference)
    assert checked.__annotations__ == reference.__annotations__


def test_backends_offer_nothing_but_the_launchers() -> None:
    from normdrop import _cpu

    functions = {name for name, value in vars(_backend).items() if inspect.isfunction(value)}
    assert {name for name in functions if not name.startswith("_")} == set(_launchers()) | {"select"}
    assert set(_cpu.__all__) == set(_launchers())


def test_every_launcher_has_a_docstring_in_every_backend() -> None:
    from normdrop import _cpu

    for backend in (_reference, _backend, _cpu):
        for name in _launchers():
            assert getattr(backend, name).__doc__, f"{backend.__name__}.{name}"


_SHAPES = [(5, 3, 1), (4, 3, 7), (3, 2, 40), (1, 1, 100), (33, 1, 1), (2, 70, 1), (2, 5, 16)]

# What each launcher of batch normalization fills, and which rows of it; all else stays as it was.
_FILLS: dict[str, dict[str, slice]] = {
    "moments": {"statistics": slice(0, 2)},
    "normalize": {"y": slice(None)},
    "batch_norm": {"y": slice(None), "statistics": slice(None)},
    "inference_vectors": {"vectors": slice(None)},
    "parameter_gradients": {"sums": slice(None)},
    "batch_norm_backward": {"dx": slice(None), "sums": slice(None)},
    "input_gradient": {"dx": slice(None)},
}


def _random_batch(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Arguments by name, random where a launcher reads them; what it fills holds random numbers before, too."""
    rng = np.random.default_rng(sum(shape))
    n_channels = shape[1]
    arrays = {name: rng.normal(3.0, 2.0, shape).astype(dtype) for name in ("x", "dy", "y", "dx")}
    rows = {"statistics": 3, "sums": 2, "vectors": 4}
    arrays |= {name: rng.uniform(0.1, 2.0, (n, n_channels)) for name, n in rows.items()}
    arrays |= {name: rng.uniform(0.5, 1.5, n_channels) for name in ("mean", "var")}
    parameters = np.float64 if dtype.itemsize == 8 else np.float32
    return (
        arrays
        | {name: rng.uniform(0.5, 1.5, n_channels).astype(parameters) for name in ("gamma", "beta")}
        | {"eps": 1e-5}
    )


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


# Relative and absolute difference: one rounding to the dtype may fall the other way where sums differ in a last bit.
_BOUNDS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 1e-6, "float64": 1e-12}


@pytest.mark.parametrize("dtype", list(_BOUNDS))
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("name", list(_FILLS))
def test_cpu_launcher_fills_what_the_reference_fills_and_nothing_else(
    name: str, shape: tuple[int, ...], dtype: str
) -> None:
    from normdrop import _cpu

    names = [parameter for parameter, _, _ in _parameters(getattr(_reference, name))]
    untouched = _random_batch(shape, _dtype(dtype))
    results = []
    for backend in (_reference, _cpu):
        arguments = _random_batch(shape, _dtype(dtype))
        assert getattr(backend, name)(**{parameter: arguments[parameter] for parameter in names}) is None
        for parameter, rows in _FILLS[name].items():
            before = untouched[parameter].copy()
            before[rows] = arguments[parameter][rows]
            assert arguments[parameter].tobytes() == before.tobytes(), f"other rows of {parameter}"
            assert not np.isin(arguments[parameter][rows], untouched[parameter][rows]).all(), (
                f"{parameter} is as before"
            )
        for parameter in set(names) - set(_FILLS[name]):
            np.testing.assert_array_equal(arguments[parameter], untouched[parameter], err_msg=parameter)
        results.append({parameter: arguments[parameter] for parameter in _FILLS[name]})
    expected, computed = results
    for parameter, values in expected.items():
        bound = _BOUNDS[dtype] if parameter in ("y", "dx") else 1e-12
        wide, other = values.astype(np.float64), computed[parameter].astype(np.float64)
        np.testing.assert_allclose(other, wide, rtol=bound, atol=bound, err_msg=parameter)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("n_channels", [1, 5, 100])
def test_cpu_running_statistics_have_the_bits_of_the_reference(n_channels: int, momentum: float) -> None:
    from normdrop import _cpu

    rng = np.random.default_rng(n_channels)
    statistics, old = rng.uniform(0.1, 2.0, (3, n_channels)), rng.uniform(0.1, 2.0, (2, n_channels))
    if momentum in (0.0, 1.0):
        (old if momentum == 0.0 else statistics)[:] = np.nan  # without weight it must not count
    else:
        statistics[1, 0] = 1.7e308
    before = statistics.tobytes()
    results = []
    for backend in (_reference, _cpu):
        mean, var = old.copy()
        with np.errstate(over="ignore"):  # kernels as plain Python warn
            assert backend.update_running(mean, var, statistics, momentum, 1.25) is None
        assert statistics.tobytes() == before
        results.append((mean, var))
    for expected, computed in zip(*results, strict=True):
        assert expected.dtype == computed.dtype == np.float64
        assert not np.isnan(expected).any()
        assert computed.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", list(_BOUNDS))
@pytest.mark.parametrize("shape", [*_SHAPES, (1, 1, 0), (1, 1, 65_551), (65_551, 1, 1)], ids=str)
def test_cpu_exact_sums_have_the_bits_of_the_reference(shape: tuple[int, int, int], dtype: str) -> None:
    from normdrop import _cpu

    x = np.random.default_rng(sum(shape)).normal(size=shape).astype(_dtype(dtype))
    expected, computed = np.empty((2, shape[1], _exact.grid_of(x.dtype).n_columns), np.int64)
    _reference.exact_sums(expected, x)
    assert _cpu.exact_sums(computed, x) is None
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("dtype", list(_BOUNDS))
@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000])
def test_cpu_dropout_launchers_give_the_bits_of_the_reference(size: int, dtype: str) -> None:
    from normdrop import _cpu

    x = np.random.default_rng(size).normal(size=size).astype(_dtype(dtype))
    results = []
    for backend in (_reference, _cpu):
        y, masked, shared = np.empty_like(x), np.empty_like(x), np.empty((2, 3, size), x.dtype)
        mask, late = np.empty(size, np.bool_), np.empty(size, np.bool_)
        backend.dropout(y, x, (1, 2), 3, 1 << 30, 4 / 3)
        backend.keep_mask(mask, (1, 2), 3, 1 << 30)
        backend.keep_mask(late, (1, 2), 3, 1 << 30, 5)
        backend.apply_mask(masked.reshape(1, size, 1), x.reshape(1, size, 1), mask[:1].reshape(1, 1), 4 / 3)
        three = np.stack([np.stack([x] * 3)] * 2)
        backend.apply_mask(shared, three, np.stack([mask, late]), 4 / 3)
        results.append((y, masked, shared, mask, late))
    for expected, computed in zip(*results, strict=True):
        assert computed.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", list(_BOUNDS))
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 3), (2, 16, 16), (3, 15, 17), (1, 17, 1), (1, 1, 33), (2, 130, 5), (1, 513, 4)], ids=str
)
def test_cpu_transposed_dropout_gives_the_bits_of_the_reference(shape: tuple[int, int, int], dtype: str) -> None:
    from normdrop import _cpu

    x = np.random.default_rng(sum(shape)).normal(size=shape).astype(_dtype(dtype))
    expected, computed = np.empty_like(x), np.empty_like(x)
    _reference.dropout_transposed(expected, x, (1, 2), 3, 1 << 30, 4 / 3)
    assert _cpu.dropout_transposed(computed, x, (1, 2), 3, 1 << 30, 4 / 3) is None
    assert computed.tobytes() == expected.tobytes()
    a, p, q = shape
    mask = np.empty(x.size, np.bool_)
    _reference.keep_mask(mask, (1, 2), 3, 1 << 30)
    np.testing.assert_array_equal(computed != 0, mask.reshape(a, q, p).transpose(0, 2, 1))
