"""What a process of a group does for `test_torch_processes.py`: python synchronized_steps.py RANK WORLD FOLDER.

All processes make the same joined batch and cut their parts of it; what came out is saved as FOLDER/RANK.pt.
"""

from __future__ import annotations

import copy
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import normdrop.torch as ours

# Sizes of the parts of three processes; of two, the first ones.
CUTS = {
    "equal": (4, 4, 4),
    "unequal": (1, 6, 3),
    "first empty": (0, 5, 4),
    "last empty": (3, 2, 0),
    "all empty": (0,) * 3,
}


def joined_batch(n: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((n, 5, 3, 2), generator=generator, dtype=torch.float64) * 2 + torch.arange(5.0).reshape(5, 1, 1)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def layer_of(kind: Callable[..., Any], dtype: torch.dtype, **options: Any) -> Any:
    layer = kind(5, **options).to(dtype)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += torch.linspace(-0.5, 0.5, 5).to(dtype) * (i + 1)
    return layer


def network() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


def _cut(joined: Any, sizes: tuple[int, ...], rank: int) -> Any:
    return joined.split(sizes)[rank].clone()


def _step(layer: Any, x: Any, dy: Any) -> dict[str, Any]:
    x.requires_grad_()
    y = layer(x)
    y.backward(dy)
    gradients = {f"d{name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(layer.named_buffers())}


def _by_pieces(sizes: tuple[int, ...], rank: int, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    x, dy = (_cut(t, sizes, rank).to(dtype) for t in joined_batch(sum(sizes)))
    layer = layer_of(ours.SyncBatchNorm, dtype, **options)
    return _step(layer, x, dy)


def _under_ddp(sizes: tuple[int, ...], rank: int, world: int) -> dict[str, Any]:
    """Each loss is the share of the mean over the joined batch, times the processes over which DDP averages."""
    model = ours.SyncBatchNorm.convert_sync_batchnorm(network().double())
    model = torch.nn.parallel.DistributedDataParallel(model)
    x, dy = (_cut(t[:, 0].flatten(1), sizes, rank) for t in joined_batch(sum(sizes)))
    for _ in range(2):
        model.zero_grad()
        y = model(x)
        (y * dy[:, :1]).sum().mul(world / sum(sizes)).backward()
    return {name: parameter.grad for name, parameter in model.module.named_parameters()} | dict(
        model.module.named_buffers()
    )


def plain_step(rank: int, wrapped: Callable[[Any], Any]) -> dict[str, Any]:
    """A step of layers that are not synchronized, on a part and by masks of the process."""
    model = torch.nn.Sequential(network(), torch.nn.Dropout(0.5))
    ours.accelerate(model)
    step = wrapped(model)
    torch.manual_seed(rank)
    y = step(torch.randn(8, 6))
    y.square().sum().backward()
    return {"y": y.detach(), **{name: parameter.grad for name, parameter in model.named_parameters()}}


def _error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _errors(rank: int) -> dict[str, str]:
    layer = ours.SyncBatchNorm(5)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, 5, requires_grad=True)
    errors = {
        "one value": _error_of(lambda: layer(torch.ones(int(rank == 0), 5))),
        "dtype": _error_of(lambda: layer(torch.ones(3, 5, dtype=torch.int64))),
        "parameters": _error_of(lambda: layer(torch.ones(3, 5, dtype=torch.float64))),
        "no channels": _error_of(lambda: layer(torch.ones(3, 0))),
    }
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    return errors | {"twice": _error_of(lambda: dx.sum().backward())}


def _alone(rank: int, world: int) -> dict[str, Any]:
    """Batches of a group of one process are not synchronized; nor are those in inference."""
    groups = [dist.new_group([i]) for i in range(world)]
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(rank))
    layer, peer = ours.SyncBatchNorm(5, process_group=groups[rank]), torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(layer(x), peer(x))
    if rank == 0:
        torch.testing.assert_close(layer.eval()(x), peer.eval()(x))
    return {"momentum": layer.running_mean}


def main(rank: int, world: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    limit = datetime.timedelta(seconds=100)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    results: dict[str, Any] = {}
    for name, sizes in CUTS.items():
        sizes = sizes[:world]
        results[name] = _by_pieces(sizes, rank, torch.float64)
        if sum(sizes):
            results[f"{name}, DDP"] = _under_ddp(sizes, rank, world)
    sizes = CUTS["unequal"][:world]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        results[str(dtype)] = _by_pieces(sizes, rank, dtype)
    results["no parameters"] = _by_pieces(sizes, rank, torch.float64, affine=False)
    results["no statistics"] = _by_pieces(sizes, rank, torch.float64, track_running_stats=False)
    results["cumulative"] = _by_pieces(sizes, rank, torch.float64, momentum=None)
    results["plain, DDP"] = plain_step(rank, torch.nn.parallel.DistributedDataParallel)
    results["errors"] = _errors(rank)
    results["alone"] = _alone(rank, world)
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
