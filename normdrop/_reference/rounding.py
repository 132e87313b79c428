"""How the reference widens and rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Affine = tuple[float, float, float]  # scale, shift, and what is dropped becomes


def scaled(x: Array, scale: float) -> Array:
    values = x.astype(np.float32) if x.itemsize == 2 else x
    return values * values.dtype.type(scale)


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, in silence as in compiled code
        return x.astype(np.float32).astype(dtype) if dtype.itemsize == 2 else x.astype(dtype)


def column(vector: Vector) -> Array:
    return vector[:, None]
