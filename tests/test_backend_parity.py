"""The contract between the levels: every backend offers the reference's launchers, name by name."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import numpy as np
import pytest

from normdrop import _backend, _reference

_SOURCE = ast.parse(inspect.getsource(_reference))
_TAKES_ARRAYS_FIRST = {"keep_mask", "dropout", "apply_mask", "moments", "normalize", "batch_norm"}
_TAKES_ARRAYS_FIRST |= {"parameter_gradients", "batch_norm_backward"}


def _launchers() -> list[str]:
    """Public functions that return nothing: a launcher fills the arrays that it is given."""
    functions = [node for node in _SOURCE.body if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if not f.name.startswith("_") and ast.unparse(f.returns or f) == "None"]


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_reference_has_the_launchers_that_the_design_names() -> None:
    assert set(_launchers()) == _TAKES_ARRAYS_FIRST


@pytest.mark.parametrize("name", _launchers())
def test_cpu_launcher_has_the_parameters_of_its_reference(name: str) -> None:
    from normdrop import _cpu

    assert _parameters(getattr(_cpu, name)) == _parameters(getattr(_reference, name))


@pytest.mark.parametrize("name", _launchers())
def test_protocol_method_has_the_parameters_of_the_reference(name: str) -> None:
    method = _parameters(getattr(_backend.Backend, name))
    assert method[0][0] == "self"
    assert method[1:] == _parameters(getattr(_reference, name))


@pytest.mark.parametrize("name", _launchers())
def test_protocol_method_has_the_annotations_of_the_reference(name: str) -> None:
    promised = {**getattr(_backend.Backend, name).__annotations__}
    assert promised == getattr(_reference, name).__annotations__


def test_backends_offer_nothing_but_the_launchers() -> None:
    from normdrop import _cpu

    in_protocol = {name for name, value in vars(_backend.Backend).items() if inspect.isfunction(value)}
    assert {name for name in in_protocol if not name.startswith("_")} == set(_launchers())
    assert set(_cpu.__all__) == set(_launchers())


def test_every_launcher_has_a_docstring_in_every_backend() -> None:
    from normdrop import _cpu

    for backend in (_reference, _cpu):
        for name in _launchers():
            assert getattr(backend, name).__doc__, f"{backend.__name__}.{name}"


_SHAPES = [(5, 3, 1), (4, 3, 7), (3, 2, 40), (1, 1, 100), (33, 1, 1), (2, 70, 1), (2, 5, 16)]


def _random_batch(shape: tuple[int, ...], dtype: type) -> tuple[dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng(sum(shape))
    n_channels = shape[1]
    arrays = {name: rng.normal(3.0, 2.0, shape).astype(dtype) for name in ("x", "dy", "y", "dx")}
    vectors = {name: rng.normal(1.0, 0.5, n_channels) for name in ("mean", "scale", "shift", "gamma", "beta")}
    vectors |= {name: np.full(n_channels, np.nan) for name in ("var", "dgamma", "dbeta")}
    vectors["inv_std"] = rng.uniform(0.1, 2.0, n_channels)
    return arrays | vectors | {"eps": 1e-5}, rng


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("name", ["moments", "normalize", "batch_norm", "parameter_gradients", "batch_norm_backward"])
def test_cpu_launcher_fills_what_the_reference_fills(name: str, shape: tuple[int, ...], dtype: type) -> None:
    from normdrop import _cpu

    names = [parameter for parameter, _, _ in _parameters(getattr(_reference, name))]
    outputs = {"y", "dx", "mean", "var"} if name in ("moments", "batch_norm") else {"y", "dx", "dgamma", "dbeta"}
    results = []
    for backend in (_reference, _cpu):
        arguments, _ = _random_batch(shape, dtype)
        getattr(backend, name)(**{parameter: arguments[parameter] for parameter in names})
        untouched, _ = _random_batch(shape, dtype)
        for parameter in set(names) - outputs - {"eps"}:
            np.testing.assert_array_equal(arguments[parameter], untouched[parameter], err_msg=parameter)
        results.append({parameter: arguments[parameter] for parameter in set(names) & outputs})
    expected, computed = results
    bound = 1e-6 if dtype is np.float32 else 1e-12
    for parameter, values in expected.items():
        np.testing.assert_allclose(computed[parameter], values, rtol=bound, atol=bound, err_msg=parameter)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000])
def test_cpu_dropout_launchers_give_the_bits_of_the_reference(size: int, dtype: type) -> None:
    from normdrop import _cpu

    x = np.random.default_rng(size).normal(size=size).astype(dtype)
    results = []
    for backend in (_reference, _cpu):
        y, masked, mask, late = np.empty_like(x), np.empty_like(x), np.empty(size, np.bool_), np.empty(size, np.bool_)
        backend.dropout(y, x, (1, 2), 3, 1 << 30, 4 / 3)
        backend.keep_mask(mask, (1, 2), 3, 1 << 30)
        backend.keep_mask(late, (1, 2), 3, 1 << 30, 5)
        backend.apply_mask(masked.reshape(1, size, 1), x.reshape(1, size, 1), mask[:1].reshape(1, 1), 4 / 3)
        results.append((y, masked, mask, late))
    for expected, computed in zip(*results, strict=True):
        np.testing.assert_array_equal(computed, expected)
