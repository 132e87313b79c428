"""Batch normalization with buffers for the outputs, channels first and channels last."""

import numpy as np

from normdrop import functional

from . import DTYPES, SHAPES, batch


class BatchNorm:
    """All passes; ``channel_axis`` 1 is channels first, -1 channels last."""

    params = [SHAPES, DTYPES, [1, -1]]
    param_names = ["shape", "dtype", "channel_axis"]

    def setup(self, shape, dtype, channel_axis):
        if channel_axis == -1:
            shape = (shape[0], *shape[2:], shape[1])
        self.x = batch(shape, dtype)
        self.y = np.empty_like(self.x)
        self.dx = np.empty_like(self.x)
        self.gamma = np.ones(shape[channel_axis], dtype)
        self.beta = np.zeros(shape[channel_axis], dtype)
        _, self.context = functional.batch_norm(self.x, self.gamma, self.beta, channel_axis=channel_axis, out=self.y)
        self.time_backward(shape, dtype, channel_axis)
        self.time_inference(shape, dtype, channel_axis)

    def time_forward(self, shape, dtype, channel_axis):
        functional.batch_norm(self.x, self.gamma, self.beta, channel_axis=channel_axis, out=self.y)

    def time_backward(self, shape, dtype, channel_axis):
        functional.batch_norm_backward(self.x, self.context, out=self.dx)

    def time_inference(self, shape, dtype, channel_axis):
        mean, var = self.context.mean, self.context.var
        functional.batch_norm_inference(self.x, mean, var, self.gamma, self.beta, channel_axis=channel_axis, out=self.y)
