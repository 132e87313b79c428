"""Arrays on a GPU, as the rest of the library meets them; Numba's CUDA target is loaded when the first one arrives.

The passes work on NumPy arrays or on `DeviceArray`, which has the part of NumPy's interface that they use. What came as
a PyTorch tensor, a CuPy array or another array leaves as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from types import ModuleType

Array = npt.NDArray[Any]
T = TypeVar("T")

_DLPACK_CUDA = (2, 13)  # device memory, managed memory


def on_host(x: Any) -> bool:
    """Whether this is a NumPy array."""
    return isinstance(x, np.ndarray)


def is_device_array(x: object) -> bool:
    """Whether `x` is an array on an NVIDIA GPU, of any library; loads nothing."""
    if isinstance(x, np.ndarray):
        return False
    if type(x).__module__.partition(".")[0] == "torch":
        return bool(getattr(x, "is_cuda", False))
    if getattr(type(x), "__cuda_ndarray__", False) or getattr(x, "__cuda_array_interface__", None) is not None:
        return True
    device = getattr(type(x), "__dlpack_device__", None)
    return device is not None and device(x)[0] in _DLPACK_CUDA


def backend() -> ModuleType:
    """Return the launchers; loads Numba's CUDA target."""
    try:
        from normdrop import _cuda
    except ImportError as error:
        raise RuntimeError(
            f"arrays on a GPU need Numba's CUDA target; install normdrop[cuda]. Python says: {error}"
        ) from error
    return _cuda


def view(x: object) -> Any:
    """Return an array on a GPU as a `DeviceArray`, without a copy; a NumPy array as it is."""
    if isinstance(x, np.ndarray):
        return x
    backend()
    from normdrop._cuda import kinds

    return kinds.view(x)


def native(x: T) -> T:
    """Return what a user is handed: a NumPy array as it is, a `DeviceArray` as the array of its library."""
    return x if isinstance(x, np.ndarray) else x.native  # type: ignore[attr-defined]


def extent(x: Any) -> tuple[int, int]:
    """Return the first address of an array on a GPU and that after its last byte; (0, 0) for one on the host."""
    return (0, 0) if on_host(x) else x.extent


def place(x: Any) -> str:
    """Say where an array is."""
    return "on the host" if isinstance(x, np.ndarray) else f"on GPU {x.device}"


def empty(shape: tuple[int, ...], dtype: Any, like: Any, order: tuple[int, ...] | None = None) -> Any:
    """Return a new array where `like` is, of the same library; `order`, on a GPU: its axes as they lie in memory."""
    return np.empty(shape, dtype) if isinstance(like, np.ndarray) else like.empty(shape, np.dtype(dtype), order)


def broadcast(x: Any, shape: list[int]) -> Any:
    """View axes of length 1 of an array on a GPU repeated."""
    return x.broadcast(tuple(shape))


def describe() -> str:
    """Say which GPU arrays would be moved to, or why to none."""
    try:
        backend()
        from normdrop._cuda import launch

        return launch.describe()
    except RuntimeError as error:
        return " ".join(f"no: {error}".split())


def to_device(values: Array, like: Any = None) -> Any:
    """Return a copy on a GPU: a Numba device array on the current one, or of the library and on the GPU of `like`."""
    backend()
    from normdrop._cuda import kinds

    return kinds.from_host(values, like)


def to_host(x: Any) -> Array:
    """Return a new NumPy array with the values of an array, wherever it is; waits for the GPU."""
    return x.copy() if isinstance(x, np.ndarray) else view(x).to_host()


def assign(x: Any, values: Array) -> None:
    """Set the values of an array, wherever it is."""
    if isinstance(x, np.ndarray):
        x[...] = values
    else:
        view(x).assign(values)
