"""Compile every kernel for GPUs, without one, and print lines of JSON: what is wrong with the code, if anything.

    python compile_for_gpus.py quick|rest|own

Every kernel and dtype becomes PTX for four generations. From there Numba has two ways to a GPU's own code, and the
linker that numba-cuda uses reports on both: from PTX, and from LLVM's intermediate code (LTO), which is the default.
`quick` has each generation go one of the ways, which takes a minute, `rest` does the rest, and `own` uses the CUDA
target that Numba itself brings along, for float32 and the oldest generation.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))
ENDS = ("75", "100")
MODULES = (
    "masks",
    "transposed",
    "moments",
    "merging",
    "normalization",
    "copies",
    "fused",
    "masked",
    "concrete",
    "connections",
    "varied",
    "gaussian",
    "drop_block",
    "affine_masks",
)
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
QUADS = re.compile(r"ld\.global\.(v4\.[fbu](32|16)|v2\.[fbu]64|[bu]64)")  # 16 bytes, or 8 for 16-bit dtypes


def use_own_target(home: Path) -> None:
    """Let `numba.cuda` be Numba's own target, and let it find the compiler of NVIDIA's packages."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if "redirector" not in type(finder).__module__]
    packages = [Path(p) / "nvidia" for p in sys.path if (Path(p) / "nvidia").is_dir()]
    for name, folder in (("libnvvm.so.4", "nvvm/lib64"), ("libdevice.10.bc", "nvvm/libdevice")):
        found = next(path for package in packages for path in package.rglob(name))
        (home / folder).mkdir(parents=True)
        (home / folder / name).symlink_to(found)
    os.environ["CUDA_HOME"] = str(home)


def numpy_dtype(name: str) -> Any:
    return types.SimpleNamespace(name=name, itemsize=2, kind="V") if name == "bfloat16" else np.dtype(name)


def kernels() -> dict[str, Any]:
    from normdrop._cuda import fused, launch

    for activation, given in (("relu", False), ("gelu", False), ("gelu_tanh", True)):
        for backward in (False, True):
            fused.fused(activation, backward=backward, given=given)
    found = {}
    for module in MODULES:
        for value in vars(importlib.import_module(f"normdrop._cuda.{module}")).values():
            for kernel in value.values() if isinstance(value, dict) else [value]:
                if isinstance(kernel, launch.Kernel):
                    found[f"{kernel.function.__name__}-{kernel.arguments}"] = kernel
    return found


def link(code: bytes, capability: str, *options: str) -> str:
    """Make a GPU's own code of PTX, or with the option -lto of intermediate code, and return the linker's report."""
    from cuda.bindings import nvjitlink

    options = (f"-arch=sm_{capability}", "-verbose", *options)
    kind = nvjitlink.InputType.LTOIR if "-lto" in options else nvjitlink.InputType.PTX
    handle = nvjitlink.create(len(options), options)
    nvjitlink.add_data(handle, kind, code, len(code), "kernel")
    nvjitlink.complete(handle)
    report = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, report)
    nvjitlink.destroy(handle)
    return report.decode()


def of_code(code: str) -> list[str]:
    """Say what is wrong with PTX."""
    return [word for word in (".local", ".func") if word in code]


def of_report(report: str) -> list[str]:
    """Say what is wrong with a linker's report: it must be about one function, without a stack and without spills."""
    frames = FRAME.findall(report)
    return [] if frames == [("0", "0", "0")] else [f"(stack, spill stores, spill loads) = {frames}: {report[-400:]}"]


def say(name: str, dtype: str, capability: str, way: str, faults: list[str], code: str = "") -> None:
    facts = [word for word in ("mul.wide.u32", "shfl.sync") if word in code] + ["quads"] * bool(QUADS.search(code))
    sys.stdout.write(json.dumps([name, dtype, capability, way, faults, facts]) + "\n")


def main(part: str, home: str) -> None:
    if part == "own":
        use_own_target(Path(home))
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    # Numba asks the device for which capability to type the functions that kernels call.
    dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=CAPABILITIES[0])
    from numba import cuda
    from numba.cuda.cudadrv import nvvm

    compile_ir, known = nvvm.compile_ir, kernels()
    now = ["", ""]

    def compile_all(modules: Any, **options: Any) -> bytes:
        """Numba's typing and code are the same for all generations and take longest: go on from there for each."""
        if part == "own":
            code: bytes = compile_ir(modules, **options)
            say(*now, "75", "PTX", of_code(code.decode()) + of_report(link(code, "75")), code.decode())
            return code
        for major, minor in CAPABILITIES:
            number, quick = f"{major}{minor}", part == "quick"
            if quick or number in ENDS:
                code = compile_ir(modules, **options | {"arch": f"compute_{number}"})
            if quick:
                say(*now, number, "code", of_code(code.decode()), code.decode())
            if quick == (number not in ENDS):
                say(*now, number, "PTX", of_report(link(code, number)))
            if quick == (number in ENDS and now[1] in ("float32", "")):
                arch = number + "a" * (major >= 9)  # as Numba does
                by_lto = compile_ir(modules, **options | {"arch": f"compute_{arch}", "gen-lto": None})
                say(*now, number, "LTO", of_report(link(by_lto, arch, "-lto")))
        return code

    nvvm.compile_ir = compile_all
    for name, kernel in known.items():
        for dtype in ("float32", "float64", "float16", "bfloat16") if "x" in kernel.arguments else ("",):
            if part != "own" or dtype in ("float32", ""):
                now[:] = name, dtype
                cuda.compile_ptx(kernel.function, kernel.signature(numpy_dtype(dtype or "float64")), cc=CAPABILITIES[0])
    if part != "quick":
        return
    nvvm.compile_ir = compile_ir
    # The same checks of what is wrong on purpose: an array per thread, and a kernel with too few registers.
    from normdrop._cuda.launch import types as numba_types

    def with_an_array(y: Any, i: Any) -> None:
        a = cuda.local.array(32, numba_types.float64)
        for j in range(32):
            a[j] = y[j] * y[j + i]
        y[i] = a[i] + a[i + 1]

    code = cuda.compile_ptx(with_an_array, numba_types.void(numba_types.float64[::1], numba_types.int64), cc=(7, 5))[0]
    say("an array per thread", "", "75", "code", of_code(code))
    say("an array per thread", "", "75", "PTX", of_report(link(code.encode(), "75")))
    kernel = known["dropout-xxuuufn"]
    code = cuda.compile_ptx(kernel.function, kernel.signature(numpy_dtype("float32")), cc=(7, 5))[0]
    say("too few registers", "", "75", "PTX", of_report(link(code.encode(), "75", "-maxrregcount=32")))


if __name__ == "__main__":
    main(*sys.argv[1:])
