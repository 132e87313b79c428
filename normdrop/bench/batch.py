"""The arrays of a case, shared by all sides."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop.bench.shapes import Shape

Array = npt.NDArray[Any]


class Batch:
    """An input with what its passes need, all made of fixed seeds.

    Parameters
    ----------
    shape : tuple of int
        Shape of the input, channels on axis 1.
    channels_last : bool, default False
        Whether the memory is that of (N, H, W, C), of which the input is a view.
    dtype : dtype, default numpy.float32
        Dtype of input and gradient.

    Attributes
    ----------
    x, dy : ndarray
        Input, and gradient with respect to the output. Nobody writes to them.
    gamma, beta, mean, var : ndarray, shape (C,)
        Parameters and running statistics, float32 for smaller dtypes. Who changes them works on copies.
    """

    def __init__(self, shape: Shape, channels_last: bool = False, dtype: npt.DTypeLike = np.float32) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.channels_last = channels_last
        rng = np.random.default_rng(0)
        self.x = self._laid_out(rng.standard_normal(shape, np.float32))
        n_channels = shape[1] if len(shape) > 1 else 1
        parameter = np.promote_types(self.dtype, np.float32)
        self.gamma, self.var = rng.uniform(0.5, 1.5, (2, n_channels)).astype(parameter)
        self.beta, self.mean = rng.uniform(-0.5, 0.5, (2, n_channels)).astype(parameter)

    @cached_property
    def dy(self) -> Array:
        """Gradient with respect to the output."""
        return self._laid_out(np.random.default_rng(1).standard_normal(self.shape, np.float32))

    @cached_property
    def mask(self) -> Array:
        """Which positions count, in the shape of `x` without channels: each sample's up to a length drawn at random."""
        places = self.shape[:1] + self.shape[2:]
        n = int(np.prod(places[1:]))
        if n == 1:  # rows, of which three in four count
            return np.random.default_rng(2).random(places) < 0.75
        lengths = np.random.default_rng(2).integers(n // 2, n + 1, places[0])
        return (np.arange(n) < lengths[:, None]).reshape(places)

    @cached_property
    def weight(self) -> Array:
        """Weights of a dense layer with as many outputs as inputs, for `x` of two axes."""
        return np.random.default_rng(3).normal(0.0, 0.1, (self.shape[1],) * 2).astype(self.dtype)

    def _laid_out(self, values: Array) -> Array:
        values = values.astype(self.dtype, copy=False)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1) if self.channels_last else values

    def buffer(self) -> Array:
        """Make an array for the output.

        Returns
        -------
        ndarray
            Shape and strides of `x`; its memory has been touched.
        """
        return np.copy(self.x, order="K")

    def dense(self, values: Array) -> Array:
        """View an array in the order of its memory, for libraries that do not know strides.

        Parameters
        ----------
        values : ndarray
            One of the batch.

        Returns
        -------
        ndarray
            The same memory, C-contiguous: (N, H, W, C) if channels are last.
        """
        return np.moveaxis(values, 1, -1) if self.channels_last else values

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes of `dense` arrays but that of the channels."""
        channel_axis = len(self.shape) - 1 if self.channels_last else 1
        return tuple(axis for axis in range(len(self.shape)) if axis != channel_axis)

    @property
    def channel_mask(self) -> Shape:
        """Shape of a mask for whole channels of `dense` arrays."""
        lengths = self.dense(self.x).shape
        return tuple(1 if axis in self.axes[1:] else n for axis, n in enumerate(lengths))

    def column(self, vector: Array) -> Array:
        """Shape a vector over the channels so that it meets `dense` arrays.

        Parameters
        ----------
        vector : ndarray, shape (C,)
            One value per channel.

        Returns
        -------
        ndarray
            A view with 1 on all other axes.
        """
        return np.expand_dims(vector, self.axes)
