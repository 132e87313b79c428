"""`DeviceArray`: an array on a GPU with the part of NumPy's interface that the passes use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop._cuda import copies, launch

Shape = tuple[int, ...]


class _Flags(NamedTuple):
    aligned: bool
    c_contiguous: bool
    writeable: bool

    @property
    def carray(self) -> bool:
        return all(self)


def c_strides(shape: Shape, itemsize: int) -> Shape:
    """Return the strides of a C-ordered array."""
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class DeviceArray:
    """Memory on a GPU: address, shape, strides in bytes, dtype, device, stream; and whose array it is.

    Parameters
    ----------
    memory : tuple
        Address, shape, strides, dtype and whether it is read-only.
    kind : object
        What makes arrays of the library that this one comes from.
    native : object
        That library's array, or None for a view that is not handed out.
    owner : object
        What keeps the memory alive.
    """

    __cuda_ndarray__ = True

    __slots__ = (
        "address", "device", "dtype", "kind", "native", "owner", "readonly", "shape", "size", "stream", "strides"
    )  # fmt: skip

    def __init__(self, memory: tuple[int, Shape, Shape, Any, bool], kind: Any, native: Any, owner: Any) -> None:
        self.address, self.shape, self.strides, self.dtype, self.readonly = memory
        self.size = math.prod(self.shape)
        self.kind = kind
        self.device: int = kind.device
        self.stream: int = kind.stream
        self.native = native
        self.owner = owner

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    @property
    def flags(self) -> _Flags:
        """What the passes ask about the memory."""
        itemsize = self.itemsize
        aligned = not self.size or all(s % itemsize == 0 for s in (self.address, *self.strides))
        dense = c_strides(self.shape, itemsize)
        contiguous = not self.size or all(
            s == d for n, s, d in zip(self.shape, self.strides, dense, strict=True) if n > 1
        )
        return _Flags(aligned, contiguous, not self.readonly)

    @property
    def is_aligned(self) -> bool:
        """Whether four elements can be read at once from the start."""
        return self.address % min(16, 4 * self.itemsize) == 0

    @property
    def extent(self) -> tuple[int, int]:
        """First address and address after the last byte."""
        if not self.size:
            return self.address, self.address
        spans = [s * (n - 1) for n, s in zip(self.shape, self.strides, strict=True)]
        low, high = sum(min(0, span) for span in spans), sum(max(0, span) for span in spans)
        return self.address + low, self.address + high + self.itemsize

    def _view(self, shape: Shape, strides: Shape, address: int | None = None, native: Any = None) -> DeviceArray:
        memory = (self.address if address is None else address, shape, strides, self.dtype, self.readonly)
        return DeviceArray(memory, self.kind, native, self.owner)

    def transpose(self, axes: Any) -> DeviceArray:
        """View with the axes in another order."""
        return self._view(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes))

    def reshape(self, shape: Any) -> DeviceArray:
        """View dense memory in another shape."""
        shape = (self.size,) if shape == -1 else tuple(shape)
        assert self.flags.c_contiguous
        assert math.prod(shape) == self.size
        return self._view(shape, c_strides(shape, self.itemsize))

    def broadcast(self, shape: Shape) -> DeviceArray:
        """View with axes of length 1 repeated."""
        return self._view(shape, tuple(s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True)))

    def empty(self, shape: Shape, dtype: Any, order: Shape | None = None) -> DeviceArray:
        """Return a new array of the same library, device and stream; `order` are its axes as they lie in memory."""
        return self.kind.empty(shape, dtype, tuple(range(len(shape))) if order is None else order)  # type: ignore[no-any-return]

    def copy(self, order: str = "C") -> DeviceArray:
        """Return a dense copy, in C order or with the axes as they lie in memory."""
        axes = tuple(range(self.ndim))
        if order == "K":
            axes = tuple(sorted(axes, key=lambda a: (-abs(self.strides[a]), -self.shape[a], a)))
        copy = self.empty(self.shape, self.dtype, axes)
        copy[...] = self
        return copy

    def astype(self, dtype: Any) -> DeviceArray:
        """Return a C-ordered copy in another dtype."""
        copy = self.empty(self.shape, np.dtype(dtype))
        copy[...] = self
        return copy

    def fill(self, value: float) -> None:
        """Set every element."""
        copies.fill(self, float(value))

    def __getitem__(self, row: int) -> DeviceArray:
        if not 0 <= row < self.shape[0]:
            raise IndexError(row)
        native = None if self.native is None else self.native[row]
        return self._view(self.shape[1:], self.strides[1:], self.address + row * self.strides[0], native)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[row] for row in range(self.shape[0]))

    def __setitem__(self, key: Any, values: Any) -> None:
        target = self if key is Ellipsis else self[key]
        if isinstance(values, DeviceArray):
            copies.copy(target, values)
        else:
            target.fill(values)

    def to_host(self) -> npt.NDArray[Any]:
        """Return a NumPy array of the values; waits for the GPU."""
        dense = self if self.flags.c_contiguous else self.copy()
        if not dense.size:
            return np.empty(self.shape, self.dtype)
        with launch.on_device(self.device):
            flat = launch.to_host(dense)
        values: npt.NDArray[Any] = flat.view(self.dtype).reshape(self.shape)
        return values

    def assign(self, values: npt.NDArray[Any]) -> None:
        """Take over the values of a NumPy array of this shape; waits for the GPU."""
        dense = self if self.flags.c_contiguous else self.empty(self.shape, self.dtype)
        if dense.size:
            flat = np.ascontiguousarray(values, self.dtype).reshape(-1)
            with launch.on_device(self.device):
                launch.to_device(dense, flat.view(launch.storage(self.dtype)))
        if dense is not self:
            self[...] = dense
