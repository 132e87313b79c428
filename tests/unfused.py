"""The steps of fused passes one after the other, by the passes that do one each; and arrays for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from normdrop import MaskStream, functional

Array = np.ndarray[Any, np.dtype[Any]]

LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C order": lambda x: x,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "Fortran order": np.asfortranarray,
    "sliced": lambda x: np.repeat(x, 2, axis=0)[::2],
}


def stream() -> MaskStream:
    return MaskStream.from_key((1, 2), 3)


def arrays(shape: tuple[int, ...], dtype: Any, layout: str = "C order") -> dict[str, Array]:
    """Inputs of a pass; the residual and dy lie in memory otherwise than x."""
    rng = np.random.default_rng(7)
    x, residual, dy = (rng.normal(0.3, 2.0, shape).astype(dtype) for _ in range(3))
    wide = np.float64 if dtype == np.float64 else np.float32
    gamma, beta = rng.normal(1.0, 0.3, shape[1]).astype(wide), rng.normal(size=shape[1]).astype(wide)
    other = LAYOUTS["Fortran order" if layout == "C order" else "C order"]
    return {"x": LAYOUTS[layout](x), "residual": other(residual), "dy": other(dy), "gamma": gamma, "beta": beta}


def batch_norm_act(
    x: Array, gamma: Array, beta: Array, dy: Array, *, residual: Array | None, activation: Any, p: float, **how: Any
) -> list[Array | None]:
    """Return y, dx, dresidual, dgamma and dbeta of the sequence."""
    y, norm = functional.batch_norm(x, gamma, beta, eps=how.get("eps", 1e-5))
    results, du = _after(y, dy, residual, activation, p, how.get("shared_axes", ()))
    dx, dgamma, dbeta = functional.batch_norm_backward(du, norm)
    return [results, dx, None if residual is None else du, dgamma, dbeta]


def batch_norm_act_inference(
    x: Array, mean: Array, var: Array, gamma: Array, beta: Array, dy: Array, *, residual: Array | None, activation: Any
) -> list[Array | None]:
    """Return the same with given statistics."""
    y, norm = functional.batch_norm_inference(x, mean, var, gamma, beta, keep_x=True)
    y, du = _after(y, dy, residual, activation, 0.0, ())
    dx, dgamma, dbeta = functional.batch_norm_inference_backward(du, norm)
    return [y, dx, None if residual is None else du, dgamma, dbeta]


def _after(
    y: Array, dy: Array, residual: Array | None, activation: Any, p: float, shared_axes: Any
) -> tuple[Array, Array]:
    u = y if residual is None else y + residual
    return _act_and_drop(u, dy, activation, p, shared_axes)


def _act_and_drop(u: Array, dy: Array, activation: Any, p: float, shared_axes: Any) -> tuple[Array, Array]:
    """Return y and du, which is +0 where dropped: 0 times a slope may be -0 or NaN."""
    a, act = functional.act_dropout(u, activation=activation)
    y, dropped = functional.dropout(a, p, shared_axes=shared_axes, rng=stream())
    du = functional.act_dropout_backward(functional.dropout_backward(dy, dropped), act)
    du[functional.dropout(np.ones(u.shape), p, shared_axes=shared_axes, rng=stream())[0] == 0.0] = 0.0
    return y, du


def act_dropout(
    x: Array, dy: Array, *, residual: Array | None, activation: Any, p: float, shared_axes: Any = ()
) -> list[Array]:
    """Return y and dx of an activation, dropout and a sum."""
    y, dx = _act_and_drop(x, dy, activation, p, shared_axes)
    return [y if residual is None else residual + y, dx]


def assert_same_bits(got: Any, expected: Any) -> None:
    """Assert that two results, or two lists of them, are equal to the bit; a NaN has one."""
    if isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for mine, other in zip(got, expected, strict=True):
            assert_same_bits(mine, other)
    elif expected is None:
        assert got is None
    else:
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        finite = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(got), ~finite)
        assert got[finite].tobytes() == expected[finite].tobytes()
