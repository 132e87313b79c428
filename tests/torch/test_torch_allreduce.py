"""Statistics and a shared batch of arrays over the processes of a group, beside one process on the joined array."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

from normdrop.torch import allreduce  # noqa: E402  # it needs PyTorch

pytestmark = [pytest.mark.once, pytest.mark.same]
STEPS = Path(__file__).with_name("allreduce_steps.py")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("world", [2, 3])
def test_processes_have_the_results_of_one_and_when_one_is_killed_no_layer_is_half_updated(
    world: int, tmp_path: Path
) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"
    logs = [tmp_path / f"{rank}.txt" for rank in range(world)]
    processes, end = [], time.monotonic() + 200
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, str(STEPS), str(rank), str(world), str(tmp_path)]
            with log.open("w") as file:
                processes.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
        codes = [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told = [log.read_text() for log in logs]
    assert codes == [0] * (world - 1) + [-signal.SIGKILL], told
    assert all(f"right on {world}" in text for text in told[:-1])


def test_without_a_group_the_error_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match=r"call init_process_group\(\) first"):
        allreduce(np.ones(2))


def test_a_process_outside_of_the_group_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: -1)
    with pytest.raises(ValueError, match="group must be one that this process is in"):
        allreduce(np.ones(2), group="another")
