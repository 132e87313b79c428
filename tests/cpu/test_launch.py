"""Kernels: compiled on first use, without fast math, in vectors; importing them starts nothing."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.jit, pytest.mark.once]

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
X86 = platform.machine().lower() in ("x86_64", "amd64")


def _modules() -> Iterator[Any]:
    package = importlib.import_module("normdrop._cpu")
    for found in pkgutil.walk_packages(package.__path__, "normdrop._cpu."):
        yield importlib.import_module(found.name)


def _kernels() -> dict[str, Any]:
    from normdrop._cpu.toolchain import launch

    values = (value for module in _modules() for value in vars(module).values())
    kernels = {id(value): value for value in values if isinstance(value, launch.Kernel)}.values()
    return {f"{kernel.function.__module__.rpartition('.')[2]}.{kernel.function.__name__}": kernel for kernel in kernels}


def _fresh(kernel: Any) -> Any:
    """The same kernel, not compiled yet."""
    from normdrop._cpu.toolchain import launch

    return launch.Kernel(kernel.function, kernel.arguments)


def _parameters(kernel: Any) -> Any:
    """A dtype of parameters, if the kernel takes any."""
    return F32 if "w" in kernel.arguments else None


def _vectors(kernel: Any, dtype: Any, instruction: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Vector instructions in the assembly of the serial variant, compiled anew into an empty cache."""
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    (assembly,) = _fresh(kernel).compile(dtype, _parameters(kernel), parallel=False).inspect_asm().values()
    assert "ret" in assembly
    return re.findall(instruction, assembly)


def test_importing_the_cpu_backend_starts_no_threading_layer(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(
        """
        import threading
        import numba
        import normdrop._cpu

        def started():
            try:
                return numba.threading_layer()
            except ValueError:
                return None

        assert started() is None
        assert threading.active_count() == 1
        kernels = [k for m in list(__import__("sys").modules.values()) if m.__name__.startswith("normdrop._cpu.")
                   for k in vars(m).values() if isinstance(k, normdrop._cpu.toolchain.launch.Kernel)]
        assert len(kernels) > 5
        assert not any(k._compiled for k in kernels)
        """
    )


def test_small_arrays_run_without_threads_and_large_ones_with(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(
        """
        import numba
        import numpy as np
        from normdrop import functional
        from normdrop._cpu.toolchain import launch

        functional.dropout(np.ones(100, np.float32), 0.5)
        functional.batch_norm(np.ones((100, 3), np.float32))
        try:
            raise SystemExit(f"{numba.threading_layer()} was started")
        except ValueError:
            pass
        functional.dropout(np.ones(launch.PARALLEL_SIZE, np.float32), 0.5)
        assert isinstance(numba.threading_layer(), str)
        """
    )


def test_every_function_of_the_design_has_a_kernel() -> None:
    names = " ".join(_kernels())
    for name in ("dropout", "keep_mask", "mask_planes", "mask_elements", "moments", "normalize", "gradients"):
        assert name in names


@pytest.mark.parametrize("parallel", [False, True])
def test_no_kernel_has_fast_math_and_all_release_the_lock(monkeypatch: pytest.MonkeyPatch, parallel: bool) -> None:
    from numba.core.dispatcher import Dispatcher

    monkeypatch.setattr(Dispatcher, "compile", lambda self, signature: None)  # the options are known without
    monkeypatch.setattr(Dispatcher, "disable_compile", lambda self: None)
    kernels = _kernels()
    assert len(kernels) > 5
    for name, kernel in kernels.items():
        options = _fresh(kernel).compile(F32, _parameters(kernel), parallel=parallel).targetoptions
        assert not options.get("fastmath"), name
        assert options["nogil"], name
        assert bool(options.get("parallel")) == parallel, name


def test_no_machine_code_is_made_of_what_kernels_inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numba

    from normdrop._cpu.toolchain import launch

    @launch.helper
    def twice(value: Any) -> Any:
        return 2.0 * value

    @launch.helper
    def four_times(value: Any) -> Any:
        return twice(twice(value))

    @launch.kernel("of")
    def fill(y: Any, value: Any) -> None:
        for i in numba.prange(y.size):
            y[i] = four_times(value)

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for parallel in (False, True):
        compiled = fill.compile(F64, parallel=parallel)
        y = np.zeros(3)
        compiled(y, 0.5)
        assert y.tolist() == [2.0, 2.0, 2.0]
        results = [result for function in (compiled, twice, four_times) for result in function.overloads.values()]
        engine = results[0].target_context.codegen()._engine
        defined = [engine.is_symbol_defined(result.fndesc.mangled_name) for result in results]
        assert defined == [True, False, False]


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["planes.backward", "planes.normalize"])
def test_a_parallel_kernel_just_compiled_is_right_in_place_wherever_arrays_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: str, name: str
) -> None:
    """Numba tells LLVM that arrays of a parallel loop never overlap: loads must not move beyond stores for that."""
    import numba

    from normdrop._cpu.lanes.half import stored

    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    fresh = _fresh(_kernels()[kernel])
    run = fresh.compile(dtype, _parameters(fresh), parallel=True)
    rng = np.random.default_rng(3)
    for inner in (17, 37, 333, 2050):
        shape = (3, 4, inner)
        x, dy = rng.normal(size=(2, *shape)).astype(dtype)
        work = np.empty((4, 8))
        numbers = rng.normal(size=(3, 4)), rng.normal(size=4).astype(F32)
        for first in range(0, 32, 3):
            results = []
            for in_place in (False, True):
                places = np.full((2, x.size + 32), np.nan, dtype)
                source, other = (stored(place[first : first + x.size].reshape(shape)) for place in places)
                source[...] = stored(dy)
                out = source if in_place else other
                if kernel == "planes.normalize":
                    run(out, source, numbers[0], work)
                else:
                    run(out, source, stored(x), np.empty((2, 4)), *numbers, work)
                results.append(out.tobytes())
            assert results[0] == results[1], (inner, first)


def test_no_function_that_kernels_call_has_fast_math() -> None:
    from numba.core.registry import CPUDispatcher

    helpers = [value for module in _modules() for value in vars(module).values() if isinstance(value, CPUDispatcher)]
    assert len(helpers) > 5
    for function in helpers:
        assert not function.targetoptions.get("fastmath"), function.__name__
        assert not function.targetoptions.get("parallel"), function.__name__


def test_no_source_asks_for_fast_math() -> None:
    """Neither as an option of a kernel nor as a flag of one instruction."""
    package = Path(importlib.import_module("normdrop").__path__[0])
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"fastmath\s*=|reassoc|nsz|[\"'](fast|contract)[\"']", source), path


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_dropout_multiplies_philox_words_in_vectors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: Any
) -> None:
    found = _vectors(_kernels()["drawn_masks.dropout"], dtype, r"\bv?pmuludq\b", monkeypatch, tmp_path)
    assert len(found) >= 20  # two products in each of ten rounds


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("module", ["rows", "planes"])
def test_normalization_computes_in_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    kernel = _kernels()[f"{module}.normalize"]
    found = _vectors(kernel, F32, r"\bv?(?:sub|mul|add)p[sd]\b|\bv?fmadd\w+pd\b", monkeypatch, tmp_path)
    assert all(any(part in name for name in found) for part in ("sub", "mul", "add"))


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("module", ["rows", "planes"])
def test_sums_are_computed_in_vectors_of_double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    kernel = _kernels()[f"{module}.moments"]
    found = _vectors(kernel, F32, r"\bv?(?:sub|mul|add)pd\b|\bv?fmadd\w+pd\b", monkeypatch, tmp_path)
    differences, products, sums = ([name for name in found if part in name] for part in ("sub", "mul", "add"))
    assert differences
    assert len(sums) >= len(differences)  # a + b, or a * 1 + b on AVX-512
    # A product that went into its sum unrounded, by contraction, would make the bits those of one processor.
    assert 2 * len(products) >= len(differences)


def test_cpu_description_names_a_processor_and_a_width() -> None:
    from normdrop._cpu.toolchain import launch, target

    assert target.cpu_name()
    assert target.vector_width() in (128, 256, 512)
    safe, why = launch.explain_parallel()
    assert safe == launch.parallel_is_safe()
    assert why
    assert launch.threads() >= 1
    assert safe or launch.threads() == 1


@pytest.mark.parametrize("name", ["load", "store", "draw", "lane_bits"])
def test_functions_of_vectors_let_llvm_use_its_widest_registers(name: str) -> None:
    """Without these two words LLVM splits 512-bit vectors in halves where it would rather clock higher."""
    import numba

    from normdrop._cpu.kernels.mask_law import draw, kept
    from normdrop._cpu.lanes.bits import lane_bits
    from normdrop._cpu.lanes.memory import load, splat_for, store
    from normdrop._cpu.lanes.simd import sum_lanes

    functions = {
        "load": (lambda x: sum_lanes(load(x, np.uint64(0))), "float64(float64[::1])"),
        "store": (lambda x: store(x, np.uint64(0), splat_for(x, 1.0)), "void(float64[::1])"),
        "draw": (lambda k: kept(draw(k, k, k, k, k)[0], k)[0], "uint16(int64)"),
        "lane_bits": (lambda words: lane_bits(words, np.uint64(0), np.uint64(3)), "uint16(uint16[::1])"),
    }
    function, signature = functions[name]
    (code,) = numba.njit(signature)(function).inspect_llvm().values()
    for attribute in ('"min-legal-vector-width"="512"', '"prefer-vector-width"="512"'):
        assert attribute in code, attribute


@pytest.mark.parametrize(("features", "width"), [("", 128), ("+sse4.2,+avx", 256), ("+avx2,+avx512f", 512)])
def test_vectors_are_as_wide_as_numba_is_told(monkeypatch: pytest.MonkeyPatch, features: str, width: int) -> None:
    from normdrop._cpu.toolchain import target

    monkeypatch.setattr(target.config, "CPU_FEATURES", features)
    assert target.vector_width() == width


@pytest.mark.parametrize(
    ("triple", "features", "arm", "half"),
    [
        ("x86_64-unknown-linux-gnu", "", False, False),
        ("x86_64-unknown-linux-gnu", "+avx2,+f16c", False, True),
        ("aarch64-unknown-linux-gnu", "", True, True),
        ("arm64-apple-darwin24.1.0", "", True, True),
    ],
)
def test_the_target_says_whether_it_is_arm_and_converts_halves(monkeypatch, triple, features, arm, half) -> None:
    from normdrop._cpu.toolchain import target

    monkeypatch.setattr(target.config, "CPU_FEATURES", features)
    monkeypatch.setattr(target.llvm, "get_process_triple", lambda: triple)
    assert (target.is_arm(), target.has_half_instructions()) == (arm, half)


def test_info_names_the_processor_and_its_kind() -> None:
    from normdrop import __main__
    from normdrop._cpu.toolchain import target

    facts = dict(__main__._facts())
    assert facts["processor"] == f"{target.cpu_name()} ({platform.machine()})"
    assert facts["vectors"] == f"{target.vector_width()} bits"
