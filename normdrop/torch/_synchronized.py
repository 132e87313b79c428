"""Batch normalization over the processes of a group.

Each process sums its own part; the sums are gathered, and every process merges them in the order of ranks, so that all
have the same bits. A part may be empty: its process takes part in what is gathered all the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch._compile import _disable_dynamo
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from normdrop import _backend, _formulas
from normdrop._passes import Pass, Reading
from normdrop.torch import _operators
from normdrop.torch._arrays import array, is_known, is_served_beside, tensor, threads

Tensor: TypeAlias = torch.Tensor


class Batch(NamedTuple):
    """What the processes of a group know of their joined batch."""

    statistics: Tensor
    """Mean, variance (divided by n) and 1 / sqrt(variance + eps) of each channel in float64, shape (3, C)."""
    n: int
    """Number of values per channel."""
    group: Any
    """The group; None is that of all processes."""


def is_needed(group: Any) -> bool:
    """Whether there are other processes to synchronize with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def check(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Check that the kernels take a part, before the other processes wait for it."""
    if not is_known(x):
        raise TypeError(
            "SyncBatchNorm takes dense tensors of dtype float32, float64, float16 or, with ml_dtypes, bfloat16; got "
            f"{type(x).__name__} of {x.dtype}, layout {x.layout}"
        )
    for name, v in (("weight", weight), ("bias", bias)):
        if v is not None and not is_served_beside(v, x):
            raise TypeError(
                f"{name} must be on the CPU, of shape ({x.shape[1]},) and of the dtype of the input, {x.dtype}, or of "
                f"float32 where that has 16 bits; got {v.dtype} of shape {tuple(v.shape)} on {v.device}"
            )


def joined(x: Tensor, eps: float, group: Any) -> Batch:
    """Return the statistics of the joined batch, of which `x` is the part of this process."""
    n_channels = x.shape[1]
    part = np.zeros((3, n_channels))  # mean, squares about it, number of values
    n = x.numel() // n_channels
    if n:
        statistics = np.empty((3, n_channels))
        with threads(x):
            _backend.moments(statistics, Reading(array(x), 1).x)
        part[0], part[1], part[2] = statistics[0], statistics[1] * n, n
    mean, m2, n = np.zeros(n_channels), np.zeros(n_channels), 0
    for its_mean, its_m2, its_n in _gathered(part, group):
        if more := its_n[0]:
            delta = its_mean - mean
            mean = mean + delta * (more / (n + more))
            m2 = m2 + _formulas.squares_about(its_m2, delta, n * more / (n + more))
            n += int(more)
    if n == 1:
        raise ValueError(
            "all processes together have one value per channel, whose variance is no estimate; use a larger batch or "
            "eval()"
        )
    var = m2 / max(n, 1)
    return Batch(tensor(np.stack([mean, var, 1.0 / np.sqrt(var + eps)])), n, group)


def _gathered(part: np.ndarray[Any, Any], group: Any) -> np.ndarray[Any, Any]:
    """Return the parts of all processes in the order of ranks."""
    parts = [torch.empty(part.shape, dtype=torch.float64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, torch.from_numpy(part), group)
    return torch.stack(parts).numpy()


@_disable_dynamo  # torch.compiler.disable would import the compiler with this module
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
) -> tuple[Tensor, Tensor, int]:
    """Normalize the part of this process; return also the statistics and n of the joined batch."""
    check(x, weight, bias)
    batch = joined(x, eps, group)
    return _Synchronized.apply(x, weight, bias, batch, eps), batch.statistics, batch.n


class _Synchronized(Function):
    """The gradient of x is that of all processes' losses; those of gamma and beta are this process's share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: Batch, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, batch.statistics)
        ctx.n, ctx.group = batch.n, batch.group
        ctx.dtypes = [None if v is None else v.dtype for v in (weight, bias)]
        if not x.numel():
            return torch.empty_like(x)
        mean, var, _ = batch.statistics
        return _operators.batch_norm_inference(x, mean, var, weight, bias, eps)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        sums = np.zeros((2, x.shape[1]))
        if x.numel():
            read = Reading(array(x), 1)
            with threads(x):
                _backend.parameter_gradients(sums, read.beside(array(dy)), read.x, array(statistics))
        dx = None
        if ctx.needs_input_grad[0]:
            total = np.zeros_like(sums)
            for its_sums in _gathered(sums, ctx.group):
                total += its_sums
            dx = _input_gradient(dy, x, weight, array(statistics), total / max(ctx.n, 1)) if x.numel() else dy
        pairs = zip(tensor(sums), ctx.dtypes, ctx.needs_input_grad[1:3], strict=True)
        return dx, *(d.to(dtype) if is_needed else None for d, dtype, is_needed in pairs), None, None


def _input_gradient(dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Any, means: Any) -> Tensor:
    """dx = gamma * inv_std * (dy - mean(dy) - x_hat * mean(dy * x_hat)): what depends on x by a kernel, then dy."""
    mean, _, inv_std = statistics
    scale = inv_std if weight is None else inv_std * weight.detach().double().numpy()
    wide = torch.promote_types(x.dtype, torch.float32)  # rounded once to 16 bits
    walk = Pass(array(x.to(wide)), None, 1)
    with threads(x):
        _backend.normalize(walk.y, walk.x, np.stack([mean, -scale * inv_std * means[0], -scale * means[1]]))
    spread = torch.from_numpy(scale).to(wide).reshape(-1, *[1] * (x.dim() - 2))
    return tensor(walk.result()).addcmul_(dy.to(wide), spread).to(x.dtype)
