"""Several processes, over gloo: a synchronized batch is the joined one, and layers work under DDP."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import _synchronized, accelerate, restore  # noqa: E402

pytestmark = pytest.mark.once
STEPS = Path(__file__).parent / "synchronized_steps.py"
PARTS = ["equal", "unequal", "first empty", "last empty"]
RUNNING = ["running_mean", "running_var", "num_batches_tracked"]


def _run(world: int, folder: Path, limit: float = 240) -> list[dict[str, Any]]:
    """Run the steps in as many processes, none of which outlives the limit."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"
    command = [sys.executable, "-W", "error", str(STEPS)]
    logs = [folder / f"{rank}.txt" for rank in range(world)]
    processes, end = [], time.monotonic() + limit
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as file:
                arguments = [*command, str(rank), str(world), str(folder)]
                processes.append(subprocess.Popen(arguments, env=env, stdout=file, stderr=file))
        codes = [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not any(codes), "\n".join(log.read_text() for log in logs)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in (2, 3)])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 2 and of 3 processes saved."""
    return _run(request.param, tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def steps() -> dict[str, Any]:
    """The names of the script: the same layers and batches."""
    import runpy

    return runpy.run_path(str(STEPS))


def _alone(steps: dict[str, Any], world: int, parts: str, **options: Any) -> dict[str, Any]:
    """A step of PyTorch's layer on the joined batch."""
    layer = steps["layer_of"](torch.nn.BatchNorm2d, torch.float64, **options)
    return steps["_step"](layer, *steps["joined_batch"](sum(steps["CUTS"][parts][:world])))


def _assert_are_joined(parts: list[dict[str, Any]], expected: dict[str, Any], tolerance: float) -> None:
    def close(got: Any, wanted: Any) -> None:
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)

    for name in ("y", "dx"):
        close(torch.cat([part[name] for part in parts]), expected[name])
    for name in ("dweight", "dbias"):
        if name in expected:
            close(sum(part[name] for part in parts), expected[name])
    for name in RUNNING:
        if name in expected:
            close(parts[0][name], expected[name])


@pytest.mark.parametrize("parts", PARTS)
def test_a_batch_in_parts_is_the_joined_one_forward_backward_and_in_running_statistics(
    results: list[dict[str, Any]], steps: dict[str, Any], parts: str
) -> None:
    _assert_are_joined([r[parts] for r in results], _alone(steps, len(results), parts), 1e-12)


@pytest.mark.parametrize("parts", PARTS)
def test_all_processes_have_the_same_statistics_to_the_last_bit(results: list[dict[str, Any]], parts: str) -> None:
    for other in results[1:]:
        for name in RUNNING:
            assert torch.equal(results[0][parts][name], other[parts][name])
        for name, value in results[0][f"{parts}, DDP"].items():
            assert torch.equal(value, other[f"{parts}, DDP"][name])


@pytest.mark.parametrize("parts", PARTS)
def test_gradients_that_ddp_averages_are_those_of_the_mean_over_the_joined_batch(
    results: list[dict[str, Any]], steps: dict[str, Any], parts: str
) -> None:
    model, n = steps["network"]().double(), sum(steps["CUTS"][parts][: len(results)])
    x, dy = (t[:, 0].flatten(1) for t in steps["joined_batch"](n))
    for _ in range(2):
        model.zero_grad()
        (model(x) * dy[:, :1]).sum().div(n).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    got = results[0][f"{parts}, DDP"]
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_short_dtypes_are_synchronized_too(
    results: list[dict[str, Any]], steps: dict[str, Any], dtype: str, tolerance: float
) -> None:
    parts = [r[f"torch.{dtype}"] for r in results]
    assert {value.dtype for part in parts for name, value in part.items() if name != "num_batches_tracked"} == {
        getattr(torch, dtype)
    }
    _assert_are_joined(parts, _alone(steps, len(results), "unequal"), tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("no parameters", {"affine": False}),
        ("no statistics", {"track_running_stats": False}),
        ("cumulative", {"momentum": None}),
    ],
)
def test_options_mean_what_they_mean_in_one_process(
    results: list[dict[str, Any]], steps: dict[str, Any], name: str, options: dict[str, Any]
) -> None:
    expected = _alone(steps, len(results), "unequal", **options)
    assert results[0][name].keys() == expected.keys()
    _assert_are_joined([r[name] for r in results], expected, 1e-12)


def test_an_empty_batch_of_all_processes_changes_no_statistics(results: list[dict[str, Any]]) -> None:
    for r in results:
        step = r["all empty"]
        assert step["y"].shape == step["dx"].shape == (0, 5, 3, 2)
        assert not step["dweight"].any()
        assert not step["running_mean"].any()
        assert bool((step["running_var"] == 1).all())


def test_what_cannot_be_done_is_refused_in_every_process_and_changes_nothing(results: list[dict[str, Any]]) -> None:
    words = {
        "one value": "one value per channel",
        "dtype": "got Tensor of torch.int64",
        "parameters": "weight must be on the CPU, of shape (5,) and of the dtype of the input, torch.float64",
        "no channels": "number of input channels should be non-zero",
        "twice": "once_differentiable",
    }
    for r in results:
        assert {name: text for name, text in words.items() if text not in r["errors"][name]} == {}, r["errors"]


def test_plain_layers_under_ddp_have_masks_of_their_own_and_averaged_gradients(
    results: list[dict[str, Any]], steps: dict[str, Any]
) -> None:
    alone = [steps["plain_step"](rank, lambda model: model) for rank in range(len(results))]
    assert len({tuple((step["y"] == 0).flatten().tolist()) for step in alone}) == len(alone)
    for r, step in zip(results, alone, strict=True):
        torch.testing.assert_close(r["plain, DDP"].pop("y"), step.pop("y"))
        for name, gradient in r["plain, DDP"].items():
            average = sum(other[name] for other in alone if name in other) / len(alone)
            torch.testing.assert_close(gradient, average, rtol=1e-5, atol=1e-6)


def test_processes_of_other_groups_are_not_waited_for(results: list[dict[str, Any]]) -> None:
    assert len({tuple(r["alone"]["momentum"].tolist()) for r in results}) == len(results)


def _in_threads(world: int, work: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let threads stand for processes: what they gather goes through a list."""
    board, barrier = [None] * world, threading.Barrier(world, timeout=60)
    rank_of: dict[int, int] = {}

    def gathered(part: Any, group: Any) -> Any:
        assert group is None
        board[rank_of[threading.get_ident()]] = part.copy()
        barrier.wait()
        parts = np.stack(board)
        barrier.wait()
        return parts

    def run(rank: int) -> Any:
        rank_of[threading.get_ident()] = rank
        return work(rank)

    monkeypatch.setattr(_synchronized, "is_needed", lambda group: True)
    monkeypatch.setattr(_synchronized, "_gathered", gathered)
    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(run, rank) for rank in range(world)]
        return [future.result(120) for future in futures]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("parts", [*PARTS, "all empty"])
def test_threads_in_place_of_processes_find_the_same(
    monkeypatch: pytest.MonkeyPatch, steps: dict[str, Any], parts: str, options: dict[str, Any]
) -> None:
    sizes = steps["CUTS"][parts]
    got = _in_threads(len(sizes), lambda rank: steps["_by_pieces"](sizes, rank, torch.float64, **options), monkeypatch)
    if sum(sizes):
        _assert_are_joined(got, _alone(steps, len(sizes), parts, **options), 1e-12)
    assert [part["y"].shape[0] for part in got] == list(sizes)


def test_only_wanted_gradients_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_synchronized, "is_needed", lambda group: True)
    monkeypatch.setattr(_synchronized, "_gathered", lambda part, group: np.stack([part, part]))
    layer, x = ours.SyncBatchNorm(3), torch.arange(12.0).reshape(4, 3)
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert (x.grad, layer.bias.grad) == (None, None)
    y, statistics, n = _synchronized.batch_norm(x.requires_grad_(), None, None, 1e-5, None)
    assert (y.requires_grad, statistics.requires_grad, n) == (True, False, 8)


def test_refusals_come_before_anything_is_gathered_or_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_synchronized, "is_needed", lambda group: True)
    layer = ours.SyncBatchNorm(5)
    with pytest.raises(TypeError, match=r"got Tensor of torch\.int64"):
        layer(torch.ones(3, 5, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"weight must be .* of shape \(4,\)"):
        layer(torch.ones(3, 4))
    monkeypatch.setattr(_synchronized, "_gathered", lambda part, group: part[None])
    with pytest.raises(ValueError, match="one value per channel"):
        layer(torch.ones(1, 5))
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.filterwarnings("ignore", "error:Dynamo detected")  # the latter of what it would look into
def test_a_compiler_leaves_the_layer_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_synchronized, "is_needed", lambda group: True)
    monkeypatch.setattr(_synchronized, "_gathered", lambda part, group: np.stack([part, part]))
    results = []
    for wrapped in (lambda model: model, lambda model: torch.compile(model, backend="aot_eager")):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), ours.SyncBatchNorm(5))
        y = wrapped(model)(torch.randn(6, 3))
        y.square().sum().backward()
        results.append([y.detach(), *model.buffers(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_group_gathers_in_the_order_of_ranks_and_one_process_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    limit = datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=limit)
    try:
        assert not _synchronized.is_needed(None)
        part = np.arange(6.0).reshape(3, 2)
        assert np.array_equal(_synchronized._gathered(part, None), part[None])
    finally:
        torch.distributed.destroy_process_group()


def test_accelerate_swaps_synchronized_layers_and_conversion_keeps_parameters_and_group() -> None:
    layer = torch.nn.SyncBatchNorm(5, process_group=3)
    text = repr(layer)
    assert accelerate(layer).n_swapped == 1
    assert (type(layer), layer.process_group, repr(layer)) == (ours.SyncBatchNorm, 3, text)
    assert restore(layer).n_swapped == 1
    assert type(layer) is torch.nn.SyncBatchNorm
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(5, momentum=0.2), ours.BatchNorm1d(5), torch.nn.Dropout())
    before = [*model.parameters(), *model.buffers()]
    assert ours.SyncBatchNorm.convert_sync_batchnorm(model, 4) is model
    assert [type(layer) for layer in model] == [ours.SyncBatchNorm, ours.SyncBatchNorm, torch.nn.Dropout]
    assert all(a is b for a, b in zip(before, [*model.parameters(), *model.buffers()], strict=True))
    assert (model[0].process_group, model[0].momentum) == (4, 0.2)


def test_without_a_group_the_layer_is_that_of_one_process() -> None:
    layer, peer, x = ours.SyncBatchNorm(5), torch.nn.SyncBatchNorm(5), torch.randn(6, 5, 2)
    torch.testing.assert_close(layer(x), peer(x))
    assert layer.state_dict().keys() == peer.state_dict().keys()
    assert repr(layer) == repr(peer)
    assert layer.to("meta")(x.to("meta")).device.type == "meta"
    with pytest.raises(ValueError, match="at least 2D"):
        layer(torch.ones(3))
