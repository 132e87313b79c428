"""The kernel cache: one name per variant and version; whatever is wrong with it costs time, never an exception."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normdrop._cpu import fused
from normdrop._cpu.compilations import compilations
from normdrop._cpu.kernels import fused_planes, fused_rows, input_gradients
from normdrop._cpu.kernels.fused_operations import Fusion

pytestmark = [pytest.mark.jit, pytest.mark.once]

Run = Callable[..., str]

RIGHT = """
import numpy as np
from normdrop import _cpu, _reference

x = np.arange(300, dtype=np.float32)
y, expected = np.empty_like(x), np.empty_like(x)
for p in (1 << 30, 1 << 31):
    _cpu.dropout(y, x, (1, 2), 3, p, 2.0)
    _reference.dropout(expected, x, (1, 2), 3, p, 2.0)
    np.testing.assert_array_equal(y, expected)
"""
"""Compiles or loads one kernel, and checks that it is right."""


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the kernel of RIGHT."""
    folder = tmp_path_factory.mktemp("filled")
    subprocess.run(
        [sys.executable, "-c", RIGHT], cwd=folder, env=os.environ | {"NUMBA_CACHE_DIR": str(folder)}, check=True
    )
    assert _files(folder, "nbi")
    return folder


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{suffix}"))


def _names(folder: Path) -> set[str]:
    """Names of the cached functions, as far as they are the package's."""
    return {path.name.partition("-")[0] for path in _files(folder, "nbi") if "dropout" in path.name}


def _identity(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in _files(folder, "nbc")}


def test_each_variant_and_dtype_is_cached_under_one_name_with_a_digest(in_subprocess: Run, tmp_path: Path) -> None:
    in_subprocess(
        """
        import numpy as np
        from normdrop._cpu.toolchain.launch import Kernel, kernel
        import normdrop._cpu

        dropout = __import__("sys").modules["normdrop._cpu.kernels.drawn_masks"].dropout
        for dtype in (np.float32, np.float64):
            for parallel in (False, True):
                dropout.compile(np.dtype(dtype), parallel=parallel)
        """,
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
    )
    from normdrop._cpu.toolchain import launch

    digest = launch._digest()
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    variants = [f"{dtype}_{variant}" for dtype in ("float32", "float64") for variant in ("parallel", "serial")]
    assert _names(tmp_path / "cache") == {f"drawn_masks.dropout_{variant}_{digest}" for variant in variants}
    assert len(_files(tmp_path / "cache", "nbc")) == len(variants)


def test_serial_variant_starts_no_threads_though_the_parallel_one_is_cached(in_subprocess: Run, tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    in_subprocess(
        """
        import sys, numpy as np, normdrop._cpu
        sys.modules["normdrop._cpu.kernels.drawn_masks"].dropout.compile(np.dtype(np.float32), parallel=True)
        """,
        **cache,
    )
    in_subprocess(
        RIGHT
        + """
import numba
try:
    raise SystemExit(f"{numba.threading_layer()} was started")
except ValueError:
    pass
""",
        **cache,
    )


def test_second_process_takes_the_kernel_from_the_cache(in_subprocess: Run, filled_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(filled_cache, tmp_path / "cache")
    before = _identity(tmp_path / "cache")
    in_subprocess(RIGHT, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert _identity(tmp_path / "cache") == before


def test_every_kernel_can_be_cached() -> None:
    """Numba caches no code with an address of this process in it, and says so in a warning alone."""
    float32, relu = np.dtype(np.float32), Fusion(True, "before", "relu", True)
    every = ("dropout", "channel_dropout", "sample_dropout", "batch_norm", "concrete_dropout", "drop_block")
    every += ("drop_connect",)
    compiled = [call() for call in compilations(every, [float32], (), parallel=False)]
    compiled += [input_gradients.row_gradient.compile(float32, parallel=False)]
    for kernel in (fused_planes.transform, fused_rows.transform):
        compiled += [fused._fused(kernel, relu, False).compile(float32, parallel=False)]
    for kernel in compiled:
        (code,) = kernel.overloads.values()
        assert not code.library.has_dynamic_globals, kernel.__name__
    assert len(compiled) > 15


FUSED_BY_ROWS = """
import sys
import numpy as np
from normdrop import _cpu, _reference
from normdrop._steps import Steps

x, dy = np.random.default_rng(0).normal(size=(2, 50, 3, 1)).astype(np.float32) * 4
vectors = np.stack([np.zeros(3), np.ones(3), np.zeros(3)])

def check(launcher, activation, *gradient):
    results = np.empty((2, 50, 3, 1), np.float32)
    for result, backend in zip(results, (_cpu, _reference)):
        getattr(backend, launcher)(result, *gradient, (x, None), vectors, Steps(activation))
    assert np.array_equal(*results), (launcher, activation)

check("normalize_act", "relu")
"""


def test_a_kernel_from_the_cache_and_one_that_is_compiled_beside_it_call_their_own_loops(
    in_subprocess: Run, tmp_path: Path
) -> None:
    """Both name them by counts of their own processes, and the same types of arguments."""
    in_subprocess(FUSED_BY_ROWS, NUMBA_CACHE_DIR=str(tmp_path))
    for more in ('check("act_gradient", "relu", dy)', 'check("normalize_act", "hardswish")'):
        in_subprocess(FUSED_BY_ROWS + more, NUMBA_CACHE_DIR=str(tmp_path))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _lose_parts(path: Path) -> None:
    """As after a crash of the machine: the length is right, but blocks were never written."""
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 4, len(content) - 512, 2048):
        content[start : start + 512] = bytes(512)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "zeroed": _zero,
    "without parts": _lose_parts,
    "empty": lambda path: path.write_bytes(b""),
    "overwritten": lambda path: path.write_bytes(b"\x80\x04no pickle" * 100),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


EACH = """
import importlib, sys
import numba
import numpy as np
from normdrop import _cpu, _reference
from normdrop._cpu.toolchain.launch import Kernel

dropout = importlib.import_module("normdrop._cpu.kernels.drawn_masks")
function, arguments = dropout.dropout.function, dropout.dropout.arguments
x = np.arange(300, dtype=np.float32)
y, expected = np.empty_like(x), np.empty_like(x)
_reference.dropout(expected, x, (1, 2), 3, 1 << 31, 2.0)
for folder in sys.stdin.read().splitlines():
    print(folder, flush=True)
    numba.config.CACHE_DIR = folder
    dropout.dropout = Kernel(function, arguments)
    y[...] = 0
    _cpu.dropout(y, x, (1, 2), 3, 1 << 31, 2.0)
    np.testing.assert_array_equal(y, expected)
    (compiled,) = dropout.dropout._compiled.values()
    print(sum(compiled.stats.cache_hits.values()), flush=True)
"""
"""Compiles or loads one kernel from each of some folders, checks that it is right, and prints where from."""


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_cache_is_no_exception_and_changes_no_result(filled_cache: Path, tmp_path: Path, suffix: str) -> None:
    folders = [tmp_path / name for name in ("whole", *DAMAGES)]
    for folder in folders:
        shutil.copytree(filled_cache, folder)
        for path in _files(folder, suffix):
            DAMAGES.get(folder.name, lambda path: None)(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EACH],
        input="\n".join(map(str, folders)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = done.stdout.splitlines()
    assert done.returncode == 0, f"{printed[-1:]}\n{done.stderr}"
    loaded = dict(zip(map(Path, printed[::2]), map(int, printed[1::2]), strict=True))
    assert list(loaded) == folders
    if suffix == "nbi":
        del loaded[tmp_path / "without parts"]  # so short that it is whole
    assert [folder.name for folder, hits in loaded.items() if hits] == ["whole"]


@pytest.mark.parametrize(
    "obstacle",
    [
        "caching.CacheImpl._locator_classes = []",
        "caching.CompileResultCacheImpl._locator_classes = []",
        "caching.IndexDataCacheFile._open_for_write = failing(28, 'No space left on device')",
        "caching.IndexDataCacheFile._open_for_write = failing(30, 'Read-only file system')",
        "caching.IndexDataCacheFile._load_index = failing(13, 'Permission denied')",
        "os.makedirs = os.mkdir = failing(30, 'Read-only file system')",
    ],
)
def test_folder_that_cannot_be_used_is_no_exception(in_subprocess: Run, tmp_path: Path, obstacle: str) -> None:
    code = f"""
import os
from numba.core import caching

def failing(number, text):
    def fail(*args, **kwargs):
        raise OSError(number, text)
    return fail

{obstacle}
"""
    in_subprocess(code + RIGHT, NUMBA_CACHE_DIR=str(tmp_path / "cache"))


def test_read_only_or_missing_folder_is_no_exception(in_subprocess: Run, filled_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(filled_cache, folder)
    for path in _files(folder, "nbi"):
        path.unlink()
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o500)
    try:
        in_subprocess(RIGHT, NUMBA_CACHE_DIR=str(folder))
    finally:
        for place in places:
            place.chmod(0o700)
    (tmp_path / "a file").touch()
    in_subprocess(RIGHT, NUMBA_CACHE_DIR=str(tmp_path / "a file" / "cache"))
    in_subprocess(RIGHT, NUMBA_CACHE_DIR=str(tmp_path / "not" / "there"))


def test_without_a_place_for_a_cache_there_is_no_folder(in_subprocess: Run) -> None:
    printed = in_subprocess(
        """
        from numba.core import caching
        from normdrop._cpu.toolchain import launch
        from normdrop._cpu import compilations
        print(compilations.cache_folder() is None)
        caching.CacheImpl._locator_classes = []
        print(compilations.cache_folder())
        """
    )
    assert printed.split() == ["False", "None"]


def test_changed_kernel_source_gives_a_new_name(in_subprocess: Run, tmp_path: Path) -> None:
    package = tmp_path / "site" / "normdrop"
    shutil.copytree(
        importlib.import_module("normdrop").__path__[0], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    printed = in_subprocess(
        """
        import pathlib
        from normdrop._cpu.toolchain import launch

        package = pathlib.Path(launch.__file__).parents[2]
        print(package)
        arithmetic = ("_philox.py", "_formulas.py", "_exponentials.py", "_activations.py")
        for source in ("", *arithmetic, "_cpu/kernels/mask_law.py", "_cpu/lanes/simd.py"):
            if source:
                with open(package / source, "a", encoding="utf-8") as changed:
                    changed.write("# changed\\n")
            launch.sources.digests.cache_clear()
            print(launch._digest())
        """,
        PYTHONPATH=str(tmp_path / "site"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    place, *names = printed.split()
    assert Path(place) == package
    assert len(set(names)) == len(names) == 7


def test_new_version_never_runs_the_kernel_of_an_old_one(in_subprocess: Run, tmp_path: Path) -> None:
    package = tmp_path / "site" / "normdrop"
    shutil.copytree(
        importlib.import_module("normdrop").__path__[0], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    env = {
        "PYTHONPATH": str(tmp_path / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    draw = """
import numpy as np
from normdrop import _cpu
mask = np.empty(64, np.bool_)
_cpu.keep_mask(mask, (1, 2), 3, 1 << 31)
print("".join("01"[int(kept)] for kept in mask))
"""
    before = in_subprocess(draw, **env)
    source = package / "_philox.py"
    text = source.read_text(encoding="utf-8")
    assert "ROUNDS = 10" in text
    source.write_text(text.replace("ROUNDS = 10", "ROUNDS = 9"), encoding="utf-8")
    assert in_subprocess(draw, **env) != before
    source.write_text(text, encoding="utf-8")
    assert in_subprocess(draw, **env) == before
