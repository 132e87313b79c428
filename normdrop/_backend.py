"""Which backend serves an array: the only device decision.

A backend is a module of launchers with the names and signatures of `normdrop._reference`.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from normdrop import _device, _process

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]


class Backend(Protocol):
    """The launchers, documented in `normdrop._reference`."""

    def keep_mask(self, mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None: ...

    def dropout(self, y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None: ...

    def dropout_transposed(
        self, y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float
    ) -> None: ...

    def apply_mask(self, y: Array, x: Array, mask: Mask, scale: float) -> None: ...

    def moments(self, statistics: Vectors, x: Array) -> None: ...

    def normalize(self, y: Array, x: Array, vectors: Vectors) -> None: ...

    def batch_norm(self, y: Array, x: Array, statistics: Vectors, affine: Vectors, eps: float) -> None: ...

    def inference_vectors(self, vectors: Vectors, given: Vectors, eps: float) -> None: ...

    def parameter_gradients(self, sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None: ...

    def batch_norm_backward(
        self, dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Vector
    ) -> None: ...

    def update_running(
        self, mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float
    ) -> None: ...


_serving: dict[str, Backend] = {}


def select(x: Array) -> Backend:
    """Return the backend for `x`; Numba is imported here, on the first call, and nowhere earlier."""
    name = "cpu" if _device.on_host(x) else "cuda"
    backend = _serving.get(name)
    if backend is None:
        backend = _serving[name] = cast(Backend, _process.load("normdrop._cpu") if name == "cpu" else _device.backend())
    return backend
