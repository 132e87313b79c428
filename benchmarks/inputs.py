"""The arrays that all benchmarks work on."""

from functools import cached_property

import numpy as np

from .shapes import shape_of


class Batch:
    """An input, a gradient and parameters of one shape, dtype and layout, all made of fixed seeds.

    The shape always has its channels on axis 1; "channels last" is a matter of memory alone.
    """

    def __init__(self, dtype: str, layout: str, name: str) -> None:
        self.shape, self.dtype, self.last = shape_of(name), np.dtype(dtype), layout == "channels last"
        self.n_channels = self.shape[1]
        rng = np.random.default_rng(0)
        self.x = self._laid_out(rng.standard_normal(self.shape, np.float32) * 2 + 1)
        parameter = np.float32 if self.dtype.itemsize == 2 else self.dtype
        self.gamma, self.var = rng.uniform(0.5, 1.5, (2, self.n_channels)).astype(parameter)
        self.beta, self.mean = rng.uniform(-0.5, 0.5, (2, self.n_channels)).astype(parameter)

    @cached_property
    def dy(self) -> np.ndarray:
        """Gradient with respect to the output."""
        return self._laid_out(np.random.default_rng(1).standard_normal(self.shape, np.float32))

    def _laid_out(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(self.dtype)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1) if self.last else values

    def buffer(self) -> np.ndarray:
        """Return an array for an output, with the strides of x; its memory has been touched."""
        return self.x.copy(order="K")

    def dense(self, values: np.ndarray) -> np.ndarray:
        """View an array in the order of its memory."""
        return np.moveaxis(values, 1, -1) if self.last else values

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes of dense arrays but that of the channels."""
        ndim = len(self.shape)
        return tuple(range(ndim - 1)) if self.last else (0, *range(2, ndim))

    def column(self, vector: np.ndarray) -> np.ndarray:
        """View a vector over the channels so that it meets dense arrays."""
        return np.expand_dims(vector, self.axes)
