"""Statistics of arrays over the processes of a group of ``torch.distributed``."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def allreduce(part: T, group: Any = None) -> T:
    """Return the sum of what all processes give, the same bits on each.

    ``normdrop.BatchNorm(n, reduce=normdrop.torch.allreduce)``, a layer for NumPy arrays, makes one batch of those of
    all processes. `SyncBatchNorm` is the layer for tensors.

    Parameters
    ----------
    part : ChannelStatistics, ndarray or anything else that adds
        What this process has.
    group : torch.distributed.ProcessGroup, optional
        Which processes, by default all. Each must call.

    Returns
    -------
    ChannelStatistics, ndarray or what was given
        ``part_0 + part_1 + ...``, added in the order of ranks.

    Raises
    ------
    RuntimeError
        There is no group yet, or a process of it is gone.
    ValueError
        This process is not in `group`.

    Notes
    -----
    Parts are pickled, so that they may be of any shape and dtype: two messages go from each process to each, of the
    sizes and of the parts. The processes of a group trust each other.

    Examples
    --------
    >>> import numpy as np
    >>> import torch.distributed as dist
    >>> import normdrop.torch
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> normdrop.torch.allreduce(np.ones(2))
    array([1., 1.])
    >>> dist.destroy_process_group()
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed has no group of processes; call init_process_group() first")
    n = dist.get_world_size(group)
    if n < 1:
        raise ValueError("group must be one that this process is in; let only its processes call")
    parts: list[Any] = [None] * n
    dist.all_gather_object(parts, part, group)
    first, *rest = parts
    whole: T = sum(rest, start=first)
    return whole
