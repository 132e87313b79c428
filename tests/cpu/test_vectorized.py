"""The machine code of the hot kernels: whole vectors, no gathers, and no calls out of a loop."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.once,
    pytest.mark.jit,
    pytest.mark.cold,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86 instructions"),
]

_HASWELL = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+lzcnt,+fma,+f16c"
CPUS = {
    "skylake-avx512": ("zmm", _HASWELL + ",+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl"),
    "haswell": ("ymm", _HASWELL),
}

COUNT = """
import collections, importlib, json, re, sys
import numpy as np
from normdrop._cpu import fused
from normdrop._cpu.kernels import columns, exact_lanes, fused_planes, fused_rows, given_masks, planes, rows, transposed
from normdrop._cpu.kernels.fused_operations import Fusion

dropout = importlib.import_module("normdrop._cpu.kernels.drawn_masks")
relu = Fusion(True, "before", "relu", True)
kernels = {
    "planes.batch_norm": planes.batch_norm,
    "planes.backward": planes.backward,
    "planes.normalize": planes.normalize,
    "rows.batch_norm": rows.batch_norm,
    "rows.backward": rows.backward,
    "columns.batch_norm": columns.batch_norm,
    "columns.backward": columns.backward,
    "exact_sums_in_lanes": exact_lanes.exact_sums_in_lanes,
    "dropout": dropout.dropout,
    "mask_planes": given_masks.mask_planes,
    "mask_elements": given_masks.mask_elements,
    "dropout_transposed": transposed.dropout_transposed,
    "planes.transform_norm_before_relu_dropout_forward": fused._fused(fused_planes.transform, relu, False),
    "planes.backward_norm_before_relu_dropout_backward": fused._fused(fused_planes.backward, relu, True),
    "rows.transform_norm_before_relu_dropout_forward": fused._fused(fused_rows.transform, relu, False),
}
found = {}
for dtype, names in json.loads(sys.argv[1]).items():
    for name in names:
        parameters = np.dtype(dtype if dtype == "float64" else "float32") if "w" in kernels[name].arguments else None
        (assembly,) = kernels[name].compile(np.dtype(dtype), parameters, parallel=False).inspect_asm().values()
        # A module has the kernel and wrappers around it; a function begins with a label that is no local one.
        parts = re.split(r"^(?=[A-Za-z_][\\w.$@]*:)", assembly, flags=re.MULTILINE)
        (kernel,) = [p for p in parts if re.match(rf"_ZN8normdrop.*{name.split('.')[-1]}_{dtype}(_float..)?_serial", p)]
        labels = [(p.partition(":")[0], p) for p in parts]
        called = {label: p for label, p in labels if re.match("_ZN8normdrop.*(elementwise_rows|mask_pieces)", label)}
        kernel = "".join([kernel, *called.values()])
        counts = collections.Counter()
        for line in kernel.splitlines()[1:]:
            words = line.split(None, 1)
            if words and not words[0].startswith((".", "#")):
                width = next((w for w in ("zmm", "ymm", "xmm") if "%" + w in line), "")
                counts[f"{words[0]} {width}".strip()] += 1
        symbols = re.findall(r"movabsq\\s+\\$([A-Za-z_][\\w.$]*)|(?:call|jmp)q?\\s+([A-Za-z_][\\w.$@]*)", kernel)
        spills = re.findall(r"vmov\\w+\\s+%([yz]mm)\\d+, \\d*\\(%rsp\\)", kernel)
        aligned = re.findall(r"andq\\s+\\$-(\\d+), %rsp", kernel)
        stack = len(spills), [int(n) for n in aligned]
        found[f"{name} {dtype}"] = counts, sorted({first or second for first, second in symbols} - {*called}), stack
print(json.dumps(found))
"""

# What a kernel may call: references to arrays are counted, arrays reshaped and workspaces zeroed, all outside of the
# loops over elements; long runs of dropped elements are zeroed at a stroke.
HARMLESS = {"NRT_incref", "NRT_decref", "numba_attempt_nocopy_reshape", "memset"}

WIDE = {"vcvtps2pd": 8, "vcvtpd2ps": 8, "vmulpd": 8, "vaddpd": 8, "vsubpd": 8, "vmovnt": 4}
DRAWN = {"vpmuludq": 100, "vmulps": 1, "vmovnt": 4}
HALF = {"vcvtph2ps": 4, "vcvtps2ph": 4}

# kernel and dtype: how often an instruction must be there on whole vectors, half of what there is or less
WANTED = {
    "planes.batch_norm float32": WIDE,
    "planes.backward float32": WIDE,
    "planes.normalize float32": WIDE,
    "rows.batch_norm float32": WIDE,
    "rows.backward float32": WIDE,
    "columns.batch_norm float32": WIDE,
    "columns.backward float32": WIDE,
    "exact_sums_in_lanes float32": {"vcvtps2pd": 4, "vmulpd": 4, "vaddpd": 16, "vsubpd": 8, "vpmaxud": 4, "vpminud": 4},
    "dropout float32": DRAWN | {"vmulps": 20, "vmovnt": 32},
    "mask_planes float32": {"vmulps": 4, "vmovnt": 4},
    "mask_elements float32": {"vmulps": 2, "vmovnt": 4},
    "dropout_transposed float32": DRAWN,
    "planes.transform_norm_before_relu_dropout_forward float32": WIDE,
    "planes.backward_norm_before_relu_dropout_backward float32": WIDE,
    "rows.transform_norm_before_relu_dropout_forward float32": WIDE,
    "planes.normalize float16": {"vmulpd": 8, "vaddpd": 8} | HALF,
    "rows.backward float16": {"vmulpd": 8, "vaddpd": 8} | HALF,
    "dropout float16": {"vpmuludq": 100} | HALF,
}


@pytest.fixture(scope="module", params=list(CPUS))
def machine_code(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of the vector registers, and what is in the machine code of each kernel; nothing is run.

    That is counts of instructions, called symbols, and (vectors put on the stack, bytes to which it is aligned).
    """
    register, features = CPUS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    wanted: dict[str, list[str]] = {}
    for key in WANTED:
        name, dtype = key.split()
        wanted.setdefault(dtype, []).append(name)
    setting = {"NUMBA_CPU_NAME": request.param, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COUNT, json.dumps(wanted)],
        env=os.environ | setting,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return register, json.loads(done.stdout)


def _number(counts: dict[str, int], instruction: str, register: str) -> int:
    """How often it is there on this register; a stream is one whatever the type, and 16 bytes of a longer one."""
    if instruction == "vmovnt":
        return sum(n for key, n in counts.items() if key.startswith("vmovnt"))
    # An instruction that reads memory names its width instead of its register: vcvtpd2psy.
    suffix = {"zmm": "z", "ymm": "y"}[register]
    n = counts.get(f"{instruction} {register}", 0) + counts.get(f"{instruction}{suffix} xmm", 0)
    if instruction == "vaddpd" and register == "zmm":  # a + b is a * 1 + b there
        n += sum(n for key, n in counts.items() if re.fullmatch(r"vfmadd\d+pd zmm", key))
    return n


@pytest.mark.parametrize("kernel", list(WANTED))
def test_hot_loops_compute_in_whole_vectors(machine_code, kernel) -> None:
    register, found = machine_code
    counts, _, _ = found[kernel]
    numbers = {instruction: _number(counts, instruction, register) for instruction in WANTED[kernel]}
    few = {name: n for name, n in numbers.items() if n < WANTED[kernel][name]}
    assert not few, f"{kernel} on {register}: {few}, at least {WANTED[kernel]}; of all: {dict(sorted(counts.items()))}"


@pytest.mark.parametrize("kernel", list(WANTED))
def test_no_kernel_gathers(machine_code, kernel) -> None:
    counts, _, _ = machine_code[1][kernel]
    gathers = {name: n for name, n in counts.items() if "gather" in name}
    assert not gathers, f"{kernel}: {gathers}"


@pytest.mark.parametrize("kernel", list(WANTED))
def test_kernels_call_neither_helpers_nor_conversions_nor_copies(machine_code, kernel) -> None:
    _, symbols, _ = machine_code[1][kernel]
    assert set(symbols) <= HARMLESS, f"{kernel}: {sorted(set(symbols) - HARMLESS)}"


@pytest.mark.parametrize("kernel", list(WANTED))
def test_no_kernel_uses_registers_that_the_cpu_does_not_have(machine_code, kernel) -> None:
    register, found = machine_code
    counts, _, _ = found[kernel]
    wide = {name: n for name, n in counts.items() if name.endswith("zmm")}
    assert bool(wide) == (register == "zmm"), f"{kernel} on {register}: {wide}"


@pytest.mark.parametrize("kernel", list(WANTED))
def test_vectors_on_the_stack_do_not_cross_cache_lines(machine_code, kernel) -> None:
    _, _, (n_spills, aligned) = machine_code[1][kernel]
    assert not n_spills or set(aligned) == {64}, f"{kernel}: {n_spills} vectors on a stack aligned to {aligned or 16}"
