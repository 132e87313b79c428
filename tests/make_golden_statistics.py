"""Write data/golden_statistics.json: the bits of batch normalization, by the kernels as plain Python.

The statistics law fixes what is summed, not yet in which order; these bits do. A row that changes is a change in the
order of a sum, which must be announced under *Numerics* in the changelog. Then run ``python
tests/make_golden_statistics.py``; it compiles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "data" / "golden_statistics.json"
SHOWN = 3  # channels whose numbers are in the file; a digest stands for all

# Both loop orders, one block and several, joined rows, left-over and wide ones; C = 1, two values, planes of one value.
CASES: list[tuple[tuple[int, ...], int]] = [
    ((2, 70), 1),
    ((5, 3), 1),
    ((37, 5), 1),
    ((300, 1), 1),
    ((1037, 67), 1),
    ((300, 600), 1),
    ((2, 3, 37), 1),
    ((3, 5, 7), 1),
    ((3, 7, 5), -1),
    ((16, 3, 1, 1), 1),
    ((1, 1, 70), 1),
    ((1, 2, 16_500), 1),
    ((200, 2, 100), 1),
]
DTYPES = ["float16", "float32", "float64"]
LARGE = 1 << 16  # elements, from which kernels run on threads: float32 alone, whose parallel kernels are tested anyway
MEANS = {"float16": 8.0, "float32": 300.0, "float64": 1e6}


def numbers(n: int, seed: int) -> np.ndarray:
    """Numbers in [-2, 2) from integers alone, so that no generator of random numbers takes part."""
    i = np.arange(n, dtype=np.uint64) + np.uint64(1 + 1_000_003 * seed)
    words = (i * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    words = ((words ^ (words >> np.uint64(15))) * np.uint64(0x2C1B3C6D)) & np.uint64(0xFFFFFFFF)
    return (words ^ (words >> np.uint64(12))).astype(np.float64) * 2.0**-30 - 2.0


def inputs(shape: tuple[int, ...], dtype: str, channel_axis: int) -> tuple[np.ndarray, ...]:
    """x, dy, gamma and beta of a case."""
    n, n_channels = int(np.prod(shape)), shape[channel_axis]
    x = (numbers(n, 1) + MEANS[dtype]).reshape(shape).astype(dtype)
    dy = numbers(n, 2).reshape(shape).astype(dtype)
    return x, dy, numbers(n_channels, 3), numbers(n_channels, 4)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def row(shape: tuple[int, ...], dtype: str, channel_axis: int) -> dict[str, Any]:
    """What normdrop computes for a case, in hexadecimal."""
    from normdrop import functional

    x, dy, gamma, beta = inputs(shape, dtype, channel_axis)
    y, context = functional.batch_norm(x, gamma, beta, channel_axis=channel_axis)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    frozen, _ = functional.batch_norm_inference(x, context.mean, context.var, gamma, beta, channel_axis=channel_axis)
    vectors = {"mean": context.mean, "var": context.var, "dgamma": dgamma, "dbeta": dbeta}
    made: dict[str, Any] = {"shape": list(shape), "dtype": dtype, "channel_axis": channel_axis}
    made |= {name: [float(value).hex() for value in vector[:SHOWN]] for name, vector in vectors.items()}
    arrays = {**vectors, "y": y, "dx": dx, "inference": frozen}
    return made | {f"digest of {name}": _digest(array) for name, array in arrays.items()}


def cases() -> list[tuple[tuple[int, ...], str, int]]:
    """Shape, dtype and channel axis of each row."""
    return [
        (shape, dtype, channel_axis)
        for shape, channel_axis in CASES
        for dtype in DTYPES
        if dtype == "float32" or np.prod(shape) < LARGE
    ]


def rows() -> list[dict[str, Any]]:
    """All golden rows."""
    return [row(*case) for case in cases()]


if __name__ == "__main__":
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    lines = ",\n".join(json.dumps(one) for one in rows())
    GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
