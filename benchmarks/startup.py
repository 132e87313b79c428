"""What a program pays before its first pass is over."""

import os
import subprocess
import sys
import tempfile
from statistics import median

from . import SMOKE, check_process

IMPORTS = ["normdrop", "numpy", "numba"]
FIRST_CALLS = {
    "dropout": "layer = normdrop.Dropout(0.5, rng=0)",
    "batch norm": "layer = normdrop.BatchNorm(4)",
}
N_WARM = 1 if SMOKE else 7


def timeraw_import(module: str) -> str:
    """Time the import of normdrop, and of NumPy and Numba, of which its own and its first call's consist."""
    return f"import {module}"


timeraw_import.params = [["normdrop"] if SMOKE else IMPORTS]
timeraw_import.param_names = ["module"]


def _first_call(layer: str, folder: str) -> float:
    """Return the seconds of the first call in a fresh process that keeps its kernels in a folder."""
    code = f"""if True:
        import time
        import numpy, normdrop
        {FIRST_CALLS[layer]}
        x = numpy.random.default_rng(0).random((4, 4), numpy.float32)
        start = time.perf_counter()
        layer(x)
        print(time.perf_counter() - start)"""
    env = os.environ | {"NUMBA_CACHE_DIR": folder}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout)


def track_first_call_seconds(layer: str, cache: str) -> float:
    """Measure the first call after the import: compiling the kernel, or taking it from a cache."""
    check_process()
    with tempfile.TemporaryDirectory() as folder:
        cold = _first_call(layer, folder)
        return cold if cache == "cold" else median(_first_call(layer, folder) for _ in range(N_WARM))


track_first_call_seconds.params = [["dropout"] if SMOKE else list(FIRST_CALLS), ["warm"] if SMOKE else ["cold", "warm"]]
track_first_call_seconds.param_names = ["layer", "cache"]
track_first_call_seconds.unit = "seconds"
track_first_call_seconds.timeout = 300
