"""Benchmarks for asv. Kernels are compiled in ``setup``, so that no time includes a compilation."""

import numpy as np

SHAPES = [(128, 1024), (32, 64, 56, 56)]
DTYPES = ["float32", "float64"]


def batch(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return values that no kernel can find easy: normal, with a mean."""
    return np.random.default_rng(0).normal(1.0, 2.0, shape).astype(dtype)
