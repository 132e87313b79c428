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

    def batch_norm(self, y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None: ...

    def inference_vectors(
        self, vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float
    ) -> None: ...

    def parameter_gradients(self, sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None: ...

    def batch_norm_backward(
        self, dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array
    ) -> None: ...

    def update_running(
        self, mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float
    ) -> None: ...


_serving: dict[type, Backend] = {}


def select(x: Array) -> Backend:
    """Return the backend for `x`; Numba is imported here, on the first call, and nowhere earlier."""
    backend = _serving.get(type(x))
    if backend is None:
        backend = cast(Backend, _process.load("normdrop._cpu") if _device.on_host(x) else _device.backend())
        _serving[type(x)] = backend
    return backend
