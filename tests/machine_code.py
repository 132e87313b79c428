"""The machine code of kernels for any processor that LLVM knows; nothing of it is run.

``python machine_code.py neoverse-v2 drawn_masks.dropout float32`` prints the assembly of the serial kernel and of the
functions that it calls, which takes seconds and needs no such processor. PROCESSORS has the others.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+lzcnt,+fma,+f16c"
_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# LLVM's names of processors: (triple, features beyond those of the name, which `normdrop._cpu.toolchain.target` reads).
PROCESSORS = {
    "znver4": (_X86, _AVX2 + ",+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl"),
    "znver3": (_X86, _AVX2),
    "x86-64": (_X86, ""),
    "generic": (_ARM, ""),
    "neoverse-n1": (_ARM, ""),
    "neoverse-v2": (_ARM, ""),
    "apple-m1": (_ARM, ""),
}


def kernel_code(processor: str, kernel: str, dtype: str) -> str:
    """Return the assembly of a serial kernel, by module and name, compiled in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), processor, kernel, dtype],
            env=os.environ | {"NUMBA_CACHE_DIR": folder},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _compile(processor: str, name: str, dtype: str) -> str:
    import llvmlite.binding as llvm
    import numpy as np

    triple, features = PROCESSORS[processor]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: triple  # before Numba and normdrop ask for it
    os.environ |= {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    module, _, function = name.partition(".")
    kernel = getattr(importlib.import_module(f"normdrop._cpu.kernels.{module}"), function)
    parameters = np.dtype(dtype if dtype == "float64" else "float32") if "w" in kernel.arguments else None
    (assembly,) = kernel.compile(np.dtype(dtype), parameters, parallel=False).inspect_asm().values()
    # A module has the kernel and wrappers around it; a function begins with a label that is no local one.
    parts = re.split(r"^(?=[A-Za-z_][\w.$@]*:)", assembly, flags=re.MULTILINE)
    return "".join(part for part in parts if part.startswith("_ZN8normdrop"))


if __name__ == "__main__":
    sys.stdout.write(_compile(*sys.argv[1:]))
