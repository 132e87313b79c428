"""What the contracts of all launchers are made of, and the backend that serves an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop import _device, _process

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]
Affine = tuple[float, float, float]  # scale, shift, and what is dropped becomes

FLOAT32, FLOAT64, INT64, BOOL = (np.dtype(kind) for kind in (np.float32, np.float64, np.int64, np.bool_))
_WORD, _MAX_CALL = 2**32, 2**63

_serving: dict[type, Any] = {}


def select(x: Array) -> Any:
    """Return the backend for `x`; Numba is imported here, on the first call, and nowhere earlier."""
    backend = _serving.get(type(x))
    if backend is None:
        backend = _process.load("normdrop._cpu") if _device.on_host(x) else _device.backend()
        _serving[type(x)] = backend
    return backend


def batch(x: Array) -> None:
    """Check x of shape (outer, C, inner)."""
    input_("x", x, x.shape if x.ndim == 3 else (x.size, 1, 1), x.dtype, x)


def parameter(name: str, values: Array, x: Array) -> None:
    """Check a vector per channel in float32 or float64; the latter if `x` has that."""
    narrow = values.dtype == FLOAT32 and x.dtype != FLOAT64
    input_(name, values, (x.shape[1],), FLOAT32 if narrow else FLOAT64, x)


def input_(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    """Check an array that is read beside `x`."""
    flags = a.flags
    if not (flags.carray or (flags.c_contiguous and flags.aligned)) or a.shape != shape or type(a) is not type(x):
        _refuse(name, a, shape, dtype, x)
    if a.dtype is not dtype and a.dtype != dtype:  # most are the same object
        _refuse(name, a, shape, dtype, x)


def result(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    """Check an array that is written beside `x`."""
    if not a.flags.carray or a.shape != shape or type(a) is not type(x):
        _refuse(name, a, shape, dtype, x)
    if a.dtype is not dtype and a.dtype != dtype:
        _refuse(name, a, shape, dtype, x)


def law(key: tuple[int, int], call: int, threshold: int) -> None:
    """Check the numbers of the mask law."""
    first, second = key
    if not (0 <= first < _WORD and 0 <= second < _WORD and 0 <= call < _MAX_CALL and 0 <= threshold < _WORD):
        raise ValueError(
            f"key must be two words below 2**32, call a number below 2**63 and threshold one below 2**32; got {key}, "
            f"{call} and {threshold}. Pass the context as the forward pass returned it."
        )


def _refuse(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    flags = a.flags
    holds = {"contiguous": flags.c_contiguous, "aligned": flags.aligned, "writable": flags.writeable}
    lacks = "".join(f", not {word}" for word, is_so in holds.items() if not is_so)
    text = (
        f"{name} does not fit the pass: it must be {dtype} of shape {shape} {_device.place(x)}, contiguous, aligned "
        f"and, if it is written, writable; got {a.dtype} of shape {a.shape} {_device.place(a)}{lacks}. Pass the "
        "context as its forward pass returned it, and change no array that it holds before the last backward."
    )
    raise (ValueError if a.dtype == dtype and type(a) is type(x) else TypeError)(text)
