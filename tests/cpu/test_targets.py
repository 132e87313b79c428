"""The same bits from every build of the kernels: vectors of the processor, threading layers, numbers of threads."""

from __future__ import annotations

import platform

import pytest

pytestmark = [pytest.mark.same, pytest.mark.jit, pytest.mark.cold, pytest.mark.slow]

_AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+lzcnt,+fma,+f16c"
_AVX512 = _AVX2 + ",+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl"
SETTINGS = {
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": _AVX2},
    "AVX-512": {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": _AVX512},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
    "many threads": {"NUMBA_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE"},
    "omp": {"NUMBA_THREADING_LAYER": "omp"},
    "tbb": {"NUMBA_THREADING_LAYER": "tbb"},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
    "plain Python": {"NUMBA_DISABLE_JIT": "1"},
}
NEEDS = {"AVX2": 256, "AVX-512": 512}

CODE = """
import hashlib, json, sys
import numpy as np
from normdrop import functional

def digest(*arrays):
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]

found = {}
rng = np.random.default_rng(0)
for shape in json.loads(SHAPES):
    for dtype in ("float32", "float16", "float64"):
        x, dy = rng.normal(3.0, 2.0, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
        gamma, beta = rng.normal(size=(2, shape[1]))
        y, context = functional.batch_norm(x, gamma, beta)
        found[f"batch norm {shape} {dtype}"] = digest(
            y, context.statistics, *functional.batch_norm_backward(dy, context))
        y, context = functional.batch_norm_inference(x, *context.statistics[:2], gamma, beta)
        found[f"inference {shape} {dtype}"] = digest(y, functional.batch_norm_inference_backward(dy, context)[0])
        for axes in ((), (1,)):
            y, context, mask = functional.dropout(x, 0.3, rng=5, shared_axes=axes, return_mask=True)
            found[f"dropout {shape} {dtype} {axes}"] = digest(y, mask, functional.dropout_backward(dy, context))
        y, context, mask = functional.dropout(np.asfortranarray(x), 0.3, rng=5, return_mask=True)
        found[f"Fortran {shape} {dtype}"] = digest(y, mask)
        y, context = functional.concrete_dropout(x, -0.5, rng=5)
        dx, dlogit = functional.concrete_dropout_backward(dy, context)
        found[f"concrete {shape} {dtype}"] = digest(y, dx, np.array(dlogit))
print(json.dumps(found))
"""
SMALL, LARGE = "[[5, 3], [3, 5, 37], [100, 70]]", "[[1031, 67], [3, 5, 70, 71]]"  # the latter on threads


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """What this process prints."""
    import contextlib
    import io

    found = {}
    for shapes in (SMALL, LARGE):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(CODE.replace("SHAPES", repr(shapes)), {})
        found[shapes] = out.getvalue()
    return found


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_target_layer_and_thread_count_gives_the_same_bits(in_subprocess, tmp_path, expected, name) -> None:
    from normdrop._cpu.toolchain import target

    if "NUMBA_CPU_NAME" in SETTINGS[name] and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("names of x86 processors")
    if target.vector_width() < NEEDS.get(name, 0):
        pytest.skip("this processor has no such vectors")
    plain = name == "plain Python"
    for shapes in (SMALL,) if plain else (SMALL, LARGE):
        printed = in_subprocess(
            CODE.replace("SHAPES", repr(shapes)),
            timeout=1200,
            NUMBA_CACHE_DIR=str(tmp_path / "kernels"),
            **SETTINGS[name],
        )
        assert printed == expected[shapes]
