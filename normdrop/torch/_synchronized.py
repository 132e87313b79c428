"""Batch normalization over the processes of a group: each sums its part, and what `reduce` adds is that of all.

Every process adds in the order of ranks, so that all have the same bits. A part may be empty: its process takes part in
what is gathered all the same.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch._compile import _disable_dynamo
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from normdrop import functional
from normdrop.functional import BatchNormContext
from normdrop.statistics import ChannelStatistics
from normdrop.torch._arrays import Array, array, is_known, is_served_beside, tensor, threads, vector

Tensor: TypeAlias = torch.Tensor


def is_needed(group: Any) -> bool:
    """Whether there are other processes to synchronize with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


@_disable_dynamo  # torch.compiler.disable would import the compiler with this module
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
) -> tuple[Tensor, Tensor, float]:
    """Normalize the part of this process; return also the statistics of the joined batch, and its values per channel.

    The gradient of `x` is that of the losses of all processes, those of `weight` and `bias` are this process's share.
    """
    _check(x, weight, bias)
    return _Synchronized.apply(x, weight, bias, eps, group)


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
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


class _Sum:
    """Add over the processes of a group, and remember the part of this one."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def __call__(self, part: Any) -> Any:
        self.part = part
        if isinstance(part, np.ndarray):
            first, *rest = _gathered(part, self.group)
        else:
            first, *rest = map(ChannelStatistics.from_array, _gathered(part.to_array(), self.group))
        return sum(rest, start=first)


def _gathered(part: Array, group: Any) -> Array:
    """Return the float64 arrays of all processes in the order of ranks."""
    parts = [torch.empty(part.shape, dtype=torch.float64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, torch.from_numpy(part), group)
    return torch.stack(parts).numpy()


class _Synchronized(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, float]:
        with threads(x):
            y, context = functional.batch_norm(array(x), vector(weight), vector(bias), eps=eps, reduce=_Sum(group))
        statistics = tensor(context.statistics)
        ctx.save_for_backward(x, weight, statistics)
        ctx.mark_non_differentiable(statistics)
        ctx.rest = eps, context.parameter_dtype, context.n
        ctx.group = group
        return tensor(y), statistics, context.n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        context = BatchNormContext(array(x), array(statistics), vector(weight), 1, *ctx.rest)
        reduce = _Sum(ctx.group)
        with threads(x):
            dx, dgamma, dbeta = functional.batch_norm_backward(array(dy), context, reduce=reduce)
        dgamma[...], dbeta[...] = reduce.part[:2]  # the share, where those of the whole are
        needs = ctx.needs_input_grad[:3]
        return (
            *(tensor(d) if wanted else None for d, wanted in zip((dx, dgamma, dbeta), needs, strict=True)),
            None,
            None,
        )
