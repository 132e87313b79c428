"""Dropout with a buffer for the output, beside a plain copy of as many bytes: the floor that memory sets."""

import numpy as np

from normdrop import functional

from . import DTYPES, SHAPES, batch


class Dropout:
    """Element dropout at p = 0.5."""

    params = [SHAPES, DTYPES]
    param_names = ["shape", "dtype"]

    def setup(self, shape, dtype):
        self.x = batch(shape, dtype)
        self.y = np.empty_like(self.x)
        self.dx = np.empty_like(self.x)
        self.time_copy(shape, dtype)
        _, self.context = functional.dropout(self.x, 0.5, rng=0, out=self.y)
        self.time_backward(shape, dtype)

    def time_copy(self, shape, dtype):
        np.copyto(self.y, self.x)

    def time_forward(self, shape, dtype):
        functional.dropout(self.x, 0.5, rng=0, out=self.y)

    def time_backward(self, shape, dtype):
        functional.dropout_backward(self.x, self.context, out=self.dx)


class ChannelDropout:
    """Whole channels dropped at p = 0.5: one mask element for each sample and channel."""

    params = [SHAPES[1:], DTYPES]
    param_names = ["shape", "dtype"]

    def setup(self, shape, dtype):
        self.x = batch(shape, dtype)
        self.y = np.empty_like(self.x)
        self.shared_axes = tuple(range(2, len(shape)))
        self.time_forward(shape, dtype)

    def time_forward(self, shape, dtype):
        functional.dropout(self.x, 0.5, shared_axes=self.shared_axes, rng=0, out=self.y)
