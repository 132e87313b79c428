"""Reading what DLPack says about an array, where its library offers nothing else."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Shape = tuple[int, ...]

_LEGACY_DEFAULT_STREAM = 1
_FLOAT, _BFLOAT, _BOOL = 2, 4, 6


class _Tensor(ctypes.Structure):
    """DLTensor, the first member of DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def memory(x: Any) -> tuple[int, Shape, Shape, np.dtype[Any], int]:
    """Return address, shape, strides in bytes, dtype and device of an array; `x` itself keeps the memory alive.

    The producer makes the default stream wait for what it has under way.
    """
    capsule = x.__dlpack__(stream=_LEGACY_DEFAULT_STREAM)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    dtype = _dtype(tensor)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    else:
        strides = tuple(dtype.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(tensor.ndim))
    return (tensor.data or 0) + tensor.byte_offset, shape, strides, dtype, tensor.device_id


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, of the package ml_dtypes."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise TypeError("arrays of dtype bfloat16 need the package ml_dtypes; install it") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _dtype(tensor: _Tensor) -> np.dtype[Any]:
    if tensor.lanes == 1 and (tensor.code, tensor.bits) == (_BFLOAT, 16):
        return bfloat16()
    if tensor.lanes == 1 and tensor.code == _FLOAT and tensor.bits in (16, 32, 64):
        return np.dtype(f"float{tensor.bits}")
    if tensor.lanes == 1 and (tensor.code, tensor.bits) == (_BOOL, 8):
        return np.dtype(np.bool_)
    raise TypeError(
        f"an array that comes by DLPack must be float32, float64, float16, bfloat16 or bool; got DLPack's type code "
        f"{tensor.code} with {tensor.bits} bits and {tensor.lanes} lanes"
    )
