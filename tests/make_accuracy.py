"""Write the table of errors in docs/_accuracy.md: normdrop beside NumPy and PyTorch on data made to break statistics.

It also writes docs/_results/variance.json, errors of the variance against mean / sd.

Run ``python tests/make_accuracy.py``. Errors are against float64 with sums that are rounded once, on the stored float32
values. PyTorch's columns are empty where it is not installed.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normdrop import functional

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "_accuracy.md"
CURVES = ROOT / "docs" / "_results" / "variance.json"
EXACT = runpy.run_path(str(ROOT / "tests" / "exact.py"))

Array = np.ndarray[Any, np.dtype[Any]]
Outcome = tuple[Array, Array]  # variance of each channel, output


def of_normdrop(x: Array, eps: float) -> Outcome:
    y, context = functional.batch_norm(x, eps=eps)
    return context.var, y


def of_numpy(x: Array, eps: float) -> Outcome:
    """What one writes by hand, in the dtype of x."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    with np.errstate(all="ignore"):
        mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
        return var.reshape(-1), (x - mean) / np.sqrt(var + x.dtype.type(eps))


def of_torch(x: Array, eps: float) -> Outcome:
    import torch

    y, _, inv_std = torch.native_batch_norm(torch.from_numpy(x), None, None, None, None, True, 0.0, eps)
    with np.errstate(all="ignore"):
        return inv_std.numpy().astype(np.float64) ** -2 - eps, y.numpy()


def columns() -> dict[str, Callable[[Array, float], Outcome]]:
    """The libraries at hand."""
    found: dict[str, Callable[[Array, float], Outcome]] = {"normdrop": of_normdrop, "NumPy": of_numpy}
    try:
        import torch  # noqa: F401
    except ImportError:
        return found
    return found | {"PyTorch": of_torch}


def cases() -> Iterator[tuple[str, Array, Array, float]]:
    """(description, x, the same as rows, eps): each kind of data by rows and by planes, and a million rows."""
    yield "mean 300 sd 0.1, (1 000 000, 8)", *2 * (EXACT["hard_rows"]("mean 300 sd 0.1", 1_000_000, 8),), 1e-5
    for name in EXACT["HARD"]:
        rows = EXACT["hard_rows"](name, 20_020, 3)
        planes = np.ascontiguousarray(rows.reshape(20, 1001, 3).transpose(0, 2, 1))
        eps = EXACT["TINY"].get(name, 1e-5)
        yield f"{name}, (20 020, 3)", rows, rows, eps
        yield f"{name}, (20, 3, 1001)", planes, rows, eps


def _worst(error: Array) -> str:
    return f"{float(np.max(error)):.0e}" if np.isfinite(error).all() else "not finite"


def errors(x: Array, rows: Array, eps: float, compute: Callable[[Array, float], Outcome]) -> tuple[str, str]:
    """Largest relative error of a variance, and largest error of an output over 1 + |y|."""
    mean, var = EXACT["exact_channels"](rows, 1)
    computed_var, y = compute(x, eps)
    exact_y = EXACT["exact_output"](x, (mean, var), 1, eps)
    with np.errstate(all="ignore"):
        return _worst(np.abs(computed_var / var - 1)), _worst(np.abs(y - exact_y) / (1 + np.abs(exact_y)))


def table() -> str:
    """The table in Markdown."""
    libraries = columns()
    heads = [f"{what}, {name}" for what in ("variance", "output") for name in libraries]
    lines = [f"| data, shape | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, x, rows, eps in cases():
        both = [errors(x, rows, eps, compute) for compute in libraries.values()]
        cells = [variance for variance, _ in both] + [output for _, output in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def of_squares(x: Array, eps: float) -> Outcome:
    """The mean of the squares less the square of the mean, in the dtype of x."""
    mean = x.mean(axis=0)
    var = np.maximum((x * x).mean(axis=0) - mean * mean, 0)
    return var, (x - mean) / np.sqrt(var + x.dtype.type(eps))


def curves() -> dict[str, list[list[float]]]:
    """Largest relative error of a variance, at least that of float64, for (100 000, 8) values: [mean / sd, error]."""
    found: dict[str, list[list[float]]] = {}
    for exponent in range(8):
        x = np.random.default_rng(exponent).normal(10.0**exponent, 1.0, (100_000, 8)).astype(np.float32)
        exact = EXACT["exact_channels"](x, 1)[1]
        for name, compute in {**columns(), "mean of squares": of_squares}.items():
            error = float(np.max(np.abs(compute(x, 1e-5)[0] / exact - 1)))
            found.setdefault(name, []).append([10.0**exponent, max(error, 2.0**-53)])
    return found


if __name__ == "__main__":
    CURVES.write_text(json.dumps(curves(), indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(), encoding="utf-8")
