"""Every threading layer with everything that may happen around a call: no abort, no hang, no other bits.

The table in full takes minutes: `nox -s tests_matrix`. By default there are the cells that no other test looks at.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.jit, pytest.mark.skipif(os.name != "posix", reason="forks and sends signals")]

PROGRAM = Path(__file__).parents[1] / "process_scenarios.py"
LAYERS = ("omp", "tbb", "workqueue", "none")
ONCE = [
    "many_threads",
    "fork",
    "fork_while_compiling",
    "pool_fork",
    "pool_spawn",
    "pool_forkserver",
    "executor_threads",
    "executor_processes",
    "joblib_backends",
    "data_loader",
    "beside_users_kernel",
    "inside_users_kernel",
    "signal_handler",
    "signal_wait",
    "shutdown_in_a_finalizer",
]
SCENARIOS = dict.fromkeys(ONCE, 1) | {"shutdown": 5}  # how often: what happens depends on chance
NEEDS = {"joblib_backends": "joblib", "data_loader": "torch"}
USERS = ("beside_users_kernel", "inside_users_kernel")
BY_DEFAULT = {
    ("omp", "fork_while_compiling"),
    ("omp", "inside_users_kernel"),
    ("omp", "pool_spawn"),
    ("omp", "signal_handler"),
    ("workqueue", "beside_users_kernel"),
    ("none", "shutdown"),
}


def _cells() -> list[object]:
    cells = [(layer, scenario) for scenario in SCENARIOS for layer in LAYERS]
    return [pytest.param(*cell, marks=[] if cell in BY_DEFAULT else pytest.mark.matrix) for cell in cells]


def _layer_starts(layer: str) -> dict[str, str] | str:
    """Environment in which Numba starts this layer, or why it does not."""
    env = {"PROCESS_SCENARIOS_LAYER": layer}
    if layer == "none":
        return env
    env["NUMBA_THREADING_LAYER"] = layer
    if layer == "tbb":  # pip puts its library where the loader does not look
        paths = [str(Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    code = "import numba; numba.get_num_threads(); print(numba.threading_layer())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    return env if done.stdout.strip() == layer else f"Numba does not start {layer} here: {done.stderr.strip()[-200:]}"


def _run(folder: Path, env: dict[str, str], *words: str, timeout: float = 200) -> str:
    """Run the program in a session of its own, of which nothing is left when it takes too long."""
    command = [sys.executable, "-W", "error", str(PROGRAM), *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, env=os.environ | env, cwd=folder, text=True, start_new_session=True, **streams
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            out, err = process.communicate()
            pytest.fail(f"{words[0]} hangs\n{out}\n{err}")
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out.strip()


@pytest.fixture(scope="module")
def layers() -> dict[str, dict[str, str] | str]:
    return {layer: _layer_starts(layer) for layer in LAYERS}


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, dict[str, str] | str]) -> str:
    """What serial kernels give in a quiet process; afterwards all kernels are in the cache."""
    folder = tmp_path_factory.mktemp("digest")
    serial = _run(folder, {"NUMBA_NUM_THREADS": "1"}, "digest", "", timeout=500)
    parallel = _run(folder, {}, "digest", "", timeout=500)
    assert parallel == serial
    return serial


@pytest.mark.parametrize(("layer", "scenario"), _cells())
def test_a_call_neither_ends_nor_hangs_nor_changes_bits(
    layers: dict[str, dict[str, str] | str], digest: str, tmp_path: Path, layer: str, scenario: str
) -> None:
    env = layers[layer]
    if isinstance(env, str):
        pytest.skip(env)
    if scenario in USERS and layer == "none":
        pytest.skip("without a threading layer there are no parallel kernels of the user's")
    if scenario in NEEDS and importlib.util.find_spec(NEEDS[scenario]) is None:
        pytest.skip(f"{NEEDS[scenario]} is not installed")
    for _ in range(SCENARIOS[scenario]):
        assert _run(tmp_path, env, scenario, digest).splitlines()[-1] == "done"  # TBB warns on standard output
