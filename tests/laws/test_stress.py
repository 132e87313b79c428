"""Many passes over random shapes, places and dtypes: in place, into outputs full of NaN, and the reference.

``HYPOTHESIS_PROFILE=thorough pytest tests/laws/test_stress.py`` makes thirty times as many passes.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from normdrop import _backend, _reference, functional

pytestmark = [pytest.mark.jit, pytest.mark.slow]

Array = np.ndarray[Any, np.dtype[Any]]
CLOSE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 3e-7, "float64": 1e-11}
BITS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}
MORE = 30 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1
ROUNDS = {300: 12 * MORE, 5000: 8 * MORE, 200_000: 2 * MORE}


def _shape(rng: np.random.Generator, size: int) -> tuple[int, ...]:
    """Two to five axes with about `size` elements, some of them long.

    None of length 1: a copy may put such an axis elsewhere, and the bits of sums depend on the order in memory.
    """
    ndim = int(rng.integers(2, 6))
    logs = rng.dirichlet(np.full(ndim, 0.7)) * np.log(size)
    return tuple(max(2, int(np.exp(log) * rng.uniform(0.7, 1.3))) for log in logs)


def _placed(values: Array, order: Any, offset: int, fill: float | None = None) -> Array:
    """The values with their axes in this order in memory, `offset` elements behind an aligned address."""
    memory = np.empty(values.size + offset + 16, values.dtype)
    view = memory[offset : offset + values.size].reshape([values.shape[axis] for axis in order])
    placed = view.transpose(np.argsort(order))
    placed[...] = values if fill is None else np.asarray(fill, values.dtype)
    return placed


def _check(name: str, dtype: str, computed: list[Array], others: list[Array], expected: list[Array], what: str) -> None:
    """Bits of two ways to compute, and agreement with the reference."""
    for k, (first, second, third) in enumerate(zip(computed, others, expected, strict=True)):
        different = np.flatnonzero(first.view(BITS[dtype]).ravel() != second.view(BITS[dtype]).ravel())
        assert different.size == 0, f"{name} {k} in place: {different.size} from {different[:5]} on, {what}"
        wide, exact = first.astype(np.float64), third.astype(np.float64)
        error = np.max(np.abs(wide - exact) / (1.0 + np.abs(exact)), initial=0.0)
        assert error <= CLOSE[dtype] * (1.0 if k == 0 else np.sqrt(computed[0].size)), f"{name} {k}: {error}, {what}"


def _passes(how: str, arrays: Any, orders: Any, offsets: list[int], axis: int) -> list[list[Array]]:
    """Forward and backward of every kind of pass, each output in place or in an array full of NaN."""
    x, dy, gamma, beta, mean, var = arrays
    order, other, order_of_dy = orders

    def target(source: Array, k: int) -> tuple[Array, Array]:
        if how == "in place":
            copy = _placed(source, order if source is x else order_of_dy, offsets[k])
            return copy, copy
        return source, _placed(source, order if k % 2 == 0 else other, offsets[k], np.nan)

    options: dict[str, Any] = {"channel_axis": axis}
    made = []
    if x.size > x.shape[axis]:
        source, out = target(x, 2)
        y, context = functional.batch_norm(source, gamma, beta, out=out, **options)
        source, out = target(dy, 3)
        dx, dgamma, dbeta = functional.batch_norm_backward(source, context, out=out)
        made += [[y], [dx, dgamma, dbeta]]
    source, out = target(x, 4)
    y, frozen = functional.batch_norm_inference(source, mean, var, gamma, beta, keep_x=True, out=out, **options)
    source, out = target(dy, 5)
    results = functional.batch_norm_inference_backward(source, frozen, out=out)
    made += [[y], [values for values in results if values is not None]]
    source, out = target(x, 2)
    y, drawn = functional.dropout(source, 0.3, rng=1, out=out)
    source, out = target(dy, 3)
    return [*made, [y], [functional.dropout_backward(source, drawn, out=out)]]


@pytest.mark.parametrize("size", list(ROUNDS))
@pytest.mark.parametrize("dtype", list(CLOSE))
def test_in_place_out_of_place_and_reference_agree_on_random_passes(monkeypatch, dtype, size) -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    compiled = _backend.select(np.empty(1))
    for seed in range(ROUNDS[size]):
        rng = np.random.default_rng([seed, size])
        shape = _shape(rng, size)
        axis = int(rng.integers(len(shape)))
        order, other = rng.permutation(len(shape)), rng.permutation(len(shape))
        offsets = rng.integers(0, 40, 6).tolist()
        x = _placed(rng.normal(1.0, 2.0, shape).astype(kind), order, offsets[0])
        order_of_dy = order if rng.random() < 0.7 else other
        dy = _placed(rng.normal(size=shape).astype(kind), order_of_dy, offsets[1])
        vectors = [*rng.normal(size=(3, shape[axis])), rng.uniform(0.5, 2.0, shape[axis])]
        arguments = (x, dy, *vectors), (order, other, order_of_dy), offsets, axis
        what = f"seed {seed}, shape {shape}, channel axis {axis}, order {order} and {other}, offsets {offsets}"

        bits = x.tobytes(), dy.tobytes()
        monkeypatch.setattr(_backend.contracts, "select", lambda x: compiled)
        results, in_place = _passes("into NaN", *arguments), _passes("in place", *arguments)
        monkeypatch.setattr(_backend.contracts, "select", lambda x: _reference)
        expected = _passes("into NaN", *arguments)
        assert (x.tobytes(), dy.tobytes()) == bits, f"an input was changed, {what}"
        for name, *lists in zip(range(len(results)), results, in_place, expected, strict=True):
            _check(f"pass {name}", dtype, *lists, what)
