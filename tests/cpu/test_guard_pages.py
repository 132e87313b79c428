"""No kernel reads or writes a byte beyond an array: pages that may not be touched lie on both sides of each."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.once,
    pytest.mark.jit,
    pytest.mark.skipif(os.name != "posix", reason="protects pages with mprotect"),
]

PROGRAM = Path(__file__).parents[1] / "guarded.py"
DTYPES = ["float32", "float64", "float16", "bfloat16"]
# Narrower vectors; masked loads and stores of short ends are other instructions there, or branches.
TARGETS = {
    "AVX2": ("haswell", "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+lzcnt,+fma,+f16c"),
    "AVX": ("sandybridge", "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx"),
    "SSE4": ("nehalem", "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
    "SSE2": ("x86-64", ""),
}
on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86 processors")


def guard(dtype: str, kinds: str, **env: str) -> None:
    """Run the program in a process of its own; the case that ends it is the last that it printed."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), dtype, kinds],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit status {done.returncode} in {last}\n{done.stderr[-2000:]}"
    assert last[0].startswith("done "), last


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=[] if dtype == "float32" else pytest.mark.cold) for dtype in DTYPES]
)
def test_serial_kernels_touch_nothing_beyond_their_arrays(dtype: str) -> None:
    guard(dtype, "small", NUMBA_NUM_THREADS="1")


def test_parallel_and_streaming_kernels_touch_nothing_beyond_their_arrays() -> None:
    guard("float32", "threaded,large")


@pytest.mark.slow
@pytest.mark.cold
@pytest.mark.parametrize("dtype", DTYPES)
def test_parallel_kernels_of_every_dtype_touch_nothing_beyond_their_arrays(dtype: str) -> None:
    guard(dtype, "threaded,large")


@on_x86
@pytest.mark.slow
@pytest.mark.cold
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", list(TARGETS))
def test_kernels_for_other_processors_touch_nothing_beyond_their_arrays(target: str, dtype: str) -> None:
    name, features = TARGETS[target]
    guard(dtype, "small,large", NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NUMBA_NUM_THREADS="1")


@pytest.mark.parametrize("at_end", [False, True])
def test_a_touch_beyond_a_guarded_array_ends_the_process(at_end: bool) -> None:
    """So that the other tests can fail."""
    code = f"""
import ctypes, resource, runpy
import numpy as np

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
x = runpy.run_path({str(PROGRAM)!r})["Places"]({at_end}).empty((1000,), np.float64)
first, last = (ctypes.c_char.from_address(x.ctypes.data + at) for at in (0, x.nbytes - 1))
print(first.value, last.value, "within", flush=True)
print(ctypes.c_char.from_address(x.ctypes.data + (x.nbytes if {at_end} else -1)).value, "beyond", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "within" in done.stdout, done.stderr
    assert "beyond" not in done.stdout
    assert done.returncode < 0
