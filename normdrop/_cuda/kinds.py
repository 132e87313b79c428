"""Whose array it is: from arrays of Numba, CuPy, PyTorch and others to `DeviceArray`, and new ones of the same kind."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from normdrop._cuda import dlpack, launch
from normdrop._cuda.arrays import DeviceArray, Shape, c_strides

_TORCH_DTYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int64")


def _order(axes: Shape) -> tuple[int, ...]:
    """Return what undoes a transposition."""
    return tuple(int(a) for a in np.argsort(axes))


class NumbaKind:
    """Numba device arrays, and the kind of what is new where the library of an array makes none."""

    def __init__(self, device: int, stream: int) -> None:
        self.device = device
        self.stream = stream

    def view(self, x: Any) -> DeviceArray:
        """Return an array of this kind, or with `__cuda_array_interface__`."""
        if launch.SIMULATED and hasattr(x, "_ary"):
            a = x._ary
            return DeviceArray((a.ctypes.data, a.shape, a.strides, a.dtype, not a.flags.writeable), self, x, x)
        memory = x.__cuda_array_interface__
        dtype = getattr(x, "dtype", None)
        dtype = dtype if isinstance(dtype, np.dtype) else np.dtype(memory["typestr"])
        if memory.get("mask") is not None:
            raise TypeError("a masked array's mask would be ignored; pass an array without one")
        address, readonly = memory["data"]
        shape = tuple(memory["shape"])
        strides = memory.get("strides") or c_strides(shape, dtype.itemsize)
        return DeviceArray((address or 0, shape, tuple(strides), dtype, bool(readonly)), self, x, x)

    def empty(self, shape: Shape, dtype: Any, order: Shape) -> DeviceArray:
        """Return a new array, its axes in memory in this order."""
        lengths = tuple(shape[axis] for axis in order)
        strides = tuple(c_strides(lengths, dtype.itemsize)[i] for i in _order(order))
        with launch.on_device(self.device):
            return self.view(launch.new_array(shape, strides, dtype, self.stream))


class _CupyKind:
    def __init__(self, x: Any) -> None:
        import cupy

        self.library: Any = cupy
        self.device = int(x.device.id)
        with cupy.cuda.Device(self.device):
            self.stream = int(cupy.cuda.get_current_stream().ptr)

    def view(self, x: Any) -> DeviceArray:
        return DeviceArray((int(x.data.ptr), x.shape, x.strides, np.dtype(x.dtype), False), self, x, x)

    def empty(self, shape: Shape, dtype: Any, order: Shape) -> DeviceArray:
        with self.library.cuda.Device(self.device):
            new = self.library.empty(tuple(shape[axis] for axis in order), dtype)
        return self.view(new.transpose(_order(order)) if new.ndim else new)


class TorchKind:
    """PyTorch tensors. Autograd does not see what happens to them here."""

    def __init__(self, x: Any) -> None:
        self.library: Any = sys.modules["torch"]
        self.where = x.device
        self.device = x.device.index or 0
        self.stream = int(self.library.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else 0

    def view(self, x: Any) -> DeviceArray:
        """Return a tensor's memory."""
        name = str(x.dtype).removeprefix("torch.")
        if name not in _TORCH_DTYPES:
            raise TypeError(f"PyTorch tensors must be float32, float64, float16 or bfloat16; got {name}")
        dtype = dlpack.bfloat16() if name == "bfloat16" else np.dtype(name)
        strides = tuple(dtype.itemsize * s for s in x.stride())
        return DeviceArray((x.data_ptr(), tuple(x.shape), strides, dtype, False), self, x, x)

    def empty(self, shape: Shape, dtype: Any, order: Shape) -> DeviceArray:
        """Return a new tensor, its axes in memory in this order."""
        lengths = tuple(shape[axis] for axis in order)
        new = self.library.empty(lengths, dtype=getattr(self.library, dtype.name), device=self.where)
        return self.view(new.permute(_order(order)))


def view(x: Any) -> DeviceArray:
    """Return any array on a GPU, without a copy."""
    if isinstance(x, DeviceArray):
        return x
    library = type(x).__module__.partition(".")[0]
    if library == "torch":
        return TorchKind(x).view(x)
    if library == "cupy":
        return _CupyKind(x).view(x)
    if getattr(type(x), "__cuda_ndarray__", False):
        return NumbaKind(launch.device_of(x), launch.stream_of(getattr(x, "stream", 0))).view(x)
    memory = getattr(x, "__cuda_array_interface__", None)
    if memory is None:
        address, shape, strides, dtype, device = dlpack.memory(x)
        return DeviceArray((address, shape, strides, dtype, True), NumbaKind(device, 0), x, x)
    stream = memory.get("stream") or 0
    return NumbaKind(launch.current_device(), 0 if stream == 1 else int(stream)).view(x)


def from_host(values: Any, like: Any) -> Any:
    """Return a copy of a NumPy array on a GPU, as an array of the library of `like`, or of Numba."""
    launch.require_device()
    kind = NumbaKind(launch.current_device(), 0) if like is None else view(like).kind
    new = kind.empty(values.shape, values.dtype, tuple(range(values.ndim)))
    new.assign(values)
    return new.native
