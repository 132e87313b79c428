"""What all tests share: backends, fresh interpreters, refused calls, and how many examples Hypothesis tries."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import normdrop
from normdrop import _backend

WITHOUT_JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def _has_gpu() -> bool:
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("numba.cuda") is None:
        return False
    from numba import cuda

    return bool(cuda.is_available())


def _make_shared_arrays_safe() -> None:
    """Two threads of the simulator that ask for a shared array at once may get one each; our kernels have only one."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    lock, array = threading.Lock(), FakeCUDAShared.array

    def locked(self: Any, shape: Any, dtype: Any) -> Any:
        with lock:
            return array(self, shape, dtype)

    FakeCUDAShared.array = locked


WITH_CUDA = SIMULATED or (_has_gpu() and not WITHOUT_JIT)
BACKENDS = {"reference": "normdrop._reference", "cpu": "normdrop._cpu"}
if WITH_CUDA:
    BACKENDS["cuda"] = "cuda_on_host"
if SIMULATED:
    sys.setswitchinterval(1e-6)  # the simulator's threads wait for each other in turns
    _make_shared_arrays_safe()

# The backend fixture holds for all examples of a test, so it need not be made again for each of them.
_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("ci", derandomize=True, database=None, max_examples=10 if WITHOUT_JIT else 40, **_COMMON)
settings.register_profile("dev", max_examples=40, **_COMMON)
settings.register_profile("thorough", max_examples=2000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share a run of everything among some processes, each of which takes up to 2 GB; anything less is run in one."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs compiled kernels where there are none."""
    for item in items:
        if WITHOUT_JIT and item.get_closest_marker("jit"):
            item.add_marker(pytest.mark.skip(reason="NUMBA_DISABLE_JIT is set"))
        if not WITH_CUDA and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no GPU, and NUMBA_ENABLE_CUDASIM is not set"))
        if item.get_closest_marker("ptx") and "ptx" not in (item.config.getoption("markexpr") or ""):
            item.add_marker(pytest.mark.skip(reason="runs when asked for with -m ptx"))
        if (SIMULATED or not WITH_CUDA) and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Run the test on each backend, which serves every array of the test, and return its module of launchers."""
    name = BACKENDS[request.param]
    if name == "cuda_on_host":
        sys.path.insert(0, str(Path(__file__).parent))
    module = importlib.import_module(name)
    monkeypatch.setattr(_backend.contracts, "select", lambda x: module)
    return module


@pytest.fixture
def in_subprocess(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs code in a fresh interpreter and returns what it printed.

    Warnings are errors there, the folder is an empty one, and keyword arguments are environment variables. The test
    fails if the interpreter does not end with status 0, and with ``silent=True`` also if it writes to stderr.
    """

    def run(code: str, *, silent: bool = False, timeout: float = 300, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            env=os.environ | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not (silent and done.stderr), done.stderr
        return done.stdout

    return run


def _picture(value: Any) -> Any:
    """Everything about a value that a refused call must leave as it was, to be compared with ==."""
    if isinstance(value, np.ndarray):
        mask = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else None
        return id(value), value.shape, value.strides, value.dtype.str, value.flags.writeable, value.tobytes(), mask
    if isinstance(value, normdrop.MaskStream):
        return id(value), value.key, value.call
    if isinstance(value, np.random.SeedSequence):
        return value.entropy, value.n_children_spawned
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, normdrop.Layer):
        values = {name: item for name, item in vars(value).items() if name != "_passes"}
        return id(value), _picture(values), _picture(value._passes.waiting)
    if isinstance(value, dict):
        return {name: _picture(item) for name, item in value.items()}
    return [_picture(item) for item in value] if isinstance(value, (tuple, list)) else repr(value)


def _pictures(things: SimpleNamespace) -> dict[str, Any]:
    default_keys = vars(normdrop._seeding._default_source)
    return {name: _picture(thing) for name, thing in vars(things).items()} | {
        "default keys": (default_keys["_seeded"], _picture(default_keys["_root"])),
        "NumPy's global state": repr(np.random.get_state()),  # noqa: NPY002
    }


@pytest.fixture
def refused() -> Callable[..., None]:
    """Return a function that checks that a call is refused: which error, which words, and that nothing has changed.

    The call is given `things`; every array, layer, stream and generator among them must be as it was.
    """

    def check(
        things: SimpleNamespace, call: Callable[[SimpleNamespace], Any], error: type[Exception], *words: str
    ) -> None:
        before = _pictures(things)
        with pytest.raises(error) as caught:
            call(things)
        assert caught.type is error
        message = str(caught.value)
        assert [word for word in words if word not in message] == [], message
        after = _pictures(things)
        assert [name for name in before if before[name] != after[name]] == [], "changed by a call that was refused"

    return check
