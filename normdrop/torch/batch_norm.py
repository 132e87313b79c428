"""Batch normalization layers of PyTorch, computed by normdrop."""

from __future__ import annotations

import torch

from normdrop.torch import functional


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """What all ranks share."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Normalize by the batch in training, by the running statistics in inference."""
        self._check_input_dim(input)
        counted = self.training and self.track_running_stats and self.num_batches_tracked is not None
        momentum = 0.0 if self.momentum is None else self.momentum
        if counted and self.momentum is None:
            momentum = 1.0 / (float(self.num_batches_tracked) + 1.0)
        running = self.running_mean, self.running_var
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        if self.training and not self.track_running_stats:
            running = None, None
        y = functional.batch_norm(input, *running, self.weight, self.bias, by_batch, momentum, self.eps)
        if counted:  # after the pass: one that fails counts not
            self.num_batches_tracked.add_(1)
        return y


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, computed by normdrop on the CPU; parameters and state as there.

    `momentum` is PyTorch's, the weight of the **new** value: one minus that of `normdrop.BatchNorm`.

    Parameters
    ----------
    *args, **kwargs : Any
        As for `torch.nn.BatchNorm1d`.

    See Also
    --------
    normdrop.torch.functional.batch_norm : the function.
    normdrop.BatchNorm : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import BatchNorm1d
    >>> layer = BatchNorm1d(4)
    >>> _ = layer.load_state_dict(torch.nn.BatchNorm1d(4).state_dict())
    >>> layer(torch.randn(8, 4)).shape
    torch.Size([8, 4])
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W); see `BatchNorm1d`."""


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for (N, C, D, H, W); see `BatchNorm1d`."""
