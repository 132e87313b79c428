"""Batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as peer

from normdrop.torch import _gradients, _operators
from normdrop.torch._arrays import is_served, is_served_beside


def batch_norm(
    input: torch.Tensor,  # noqa: A002
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Normalize each channel, as `torch.nn.functional.batch_norm`.

    Parameters
    ----------
    input : torch.Tensor, shape (N, C, ...)
        Batch.
    running_mean, running_var : torch.Tensor, shape (C,), or None
        Running statistics: updated where `training`, else what the batch is normalized by.
    weight, bias : torch.Tensor, shape (C,), optional
        Scale and shift.
    training : bool, default False
        Whether to normalize by the statistics of the batch.
    momentum : float, default 0.1
        Weight of the **new** value in the running statistics, PyTorch's way: one minus that of `normdrop.BatchNorm`.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    torch.Tensor
        Of the shape, dtype and memory format of `input`.

    Raises
    ------
    ValueError
        There is one value per channel in training.

    See Also
    --------
    normdrop.torch.BatchNorm2d : the layer.

    Notes
    -----
    The statistics of the batch are float64, whatever the dtype of the input; running ones are rounded to their dtype.
    Gradients of any order are computed. Where a graph is recorded for inference, PyTorch's own operator is: a compiler
    fuses it with its neighbors, and an exported program runs without normdrop.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import functional
    >>> functional.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    others = (running_mean, running_var, weight, bias)
    if not is_ours(input, others, training, momentum, eps):
        return peer.batch_norm(input, *others, training, momentum, eps)
    if not training:
        return _gradients.batch_norm_inference(input, *others, eps)
    y, statistics = _gradients.batch_norm(input, weight, bias, eps)
    if running_mean is not None:
        _operators.update_running(running_mean, running_var, statistics, momentum, input.numel() // input.shape[1])
    return y


def is_ours(
    x: torch.Tensor, others: Sequence[torch.Tensor | None], training: bool, momentum: float, eps: float
) -> bool:
    """Whether the kernels take this pass."""
    if not is_served(x) or x.dim() < 2 or _gradients.is_transformed(x) or not eps > 0.0:
        return False
    if not all(is_served_beside(v, x) for v in others) or (others[0] is None) != (others[1] is None):
        return False
    if training:
        return x.numel() > x.shape[1] and 0.0 <= momentum <= 1.0  # of one value per channel, PyTorch's error
    return others[0] is not None and not _operators.is_watched()
