"""The kernel cache once more: what is damaged or foreign is never run and is mended; races, limits, other users."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import normdrop
from normdrop._cpu.toolchain import sources

pytestmark = [
    pytest.mark.once,
    pytest.mark.jit,
    pytest.mark.skipif(os.name != "posix", reason="uses limits and users of POSIX"),
]

Run = Callable[..., str]

RIGHT = """
import importlib, sys
import numpy as np
from normdrop import _cpu, _reference

for dtype in sys.argv[1:] or ["float32"]:
    x = np.arange(300).astype(dtype)
    y, expected = np.empty_like(x), np.empty_like(x)
    _cpu.dropout(y, x, (1, 2), 3, 1 << 31, 2.0)
    _reference.dropout(expected, x, (1, 2), 3, 1 << 31, 2.0)
    np.testing.assert_array_equal(y, expected)
kernel = importlib.import_module("normdrop._cpu.kernels.drawn_masks").dropout
print(sum(compiled.stats.cache_hits[s] for compiled in kernel._compiled.values() for s in compiled.stats.cache_hits))
"""
"""Compiles or loads a kernel for each dtype, checks that they are right, and prints how many were loaded."""


def _hits(folder: Path, *dtypes: str, before: str = "", **env: str) -> int:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + RIGHT, *dtypes],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)} | env,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return int(done.stdout)


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "cache"
    assert _hits(folder, "float32", "float64") == 0
    return folder


@pytest.fixture
def cache(filled_cache: Path, tmp_path: Path) -> Path:
    """A cache of its own with two kernels."""
    return Path(shutil.copytree(filled_cache, tmp_path / "cache"))


def _file(folder: Path, dtype: str, suffix: str) -> Path:
    (path,) = folder.rglob(f"*drawn_masks.dropout_{dtype}_*.{suffix}")
    return path


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    """One bit of the machine code."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "suffix"), [(_empty, "nbi"), (_empty, "nbc"), (_flip_a_bit, "nbc")])
def test_what_is_damaged_is_compiled_and_written_anew(cache: Path, damage: Callable[[Path], None], suffix: str) -> None:
    damage(_file(cache, "float32", suffix))
    assert _hits(cache) == 0
    assert _hits(cache) == 1


def test_the_file_of_another_kernel_is_not_run(cache: Path) -> None:
    shutil.copy(_file(cache, "float32", "nbc"), _file(cache, "float64", "nbc"))
    assert _hits(cache, "float32", "float64") == 1


def test_a_disk_that_fills_up_in_the_midst_of_a_file_costs_only_the_cache(tmp_path: Path) -> None:
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    assert _hits(tmp_path / "cache", before=full) == 0
    assert [path for path in (tmp_path / "cache").rglob("*") if "tmp" in path.name] == []
    assert _hits(tmp_path / "cache") == 0
    assert _hits(tmp_path / "cache") == 1


def test_processes_that_race_on_a_cold_cache_are_all_right(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-W", "error", "-c", RIGHT, "float32", "float64"]
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    racing = [subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(300) for process in racing] == [0, 0, 0]
    assert _hits(folder, "float32", "float64") == 2


def test_without_a_home_and_beside_a_read_only_package_there_is_no_cache(in_subprocess: Run, tmp_path: Path) -> None:
    package = tmp_path / "site" / "normdrop"
    source = importlib.import_module("normdrop").__path__[0]
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_cpu" / "kernels" / "__pycache__").touch()  # a file: nothing can be made in it, not even by root
    printed = in_subprocess(
        "from normdrop._cpu import compilations as it; print(it.cache_folder(), it.launch.__file__)" + RIGHT,
        PYTHONPATH=str(tmp_path / "site"),
        PYTHONDONTWRITEBYTECODE="1",
        NUMBA_CACHE_DIR="",
        HOME="/dev/null",
        XDG_CACHE_HOME="/dev/null/cache",
    )
    assert printed.split() == ["None", str(package / "_cpu" / "toolchain" / "launch.py"), "0"]


AS_ANOTHER = """
import sys, os
import numba, numpy as np, numpy.testing
from normdrop import _reference, functional
functional.dropout(np.ones(3), 0.5)  # what Numba imports late, this user may not be allowed to read
os.setgid(65534)
os.setuid(65534)
numba.config.CACHE_DIR = sys.argv.pop()
try:
    open(numba.config.CACHE_DIR + "/mine", "w")
    raise SystemExit("this is no other user's")
except PermissionError:
    pass
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_cache_of_another_user_costs_only_time(cache: Path, tmp_path: Path, mode: int) -> None:
    """It is not even read: Numba takes a folder that it can write to, or none."""
    for path in [tmp_path, *tmp_path.parents][:4]:
        if path != Path(path.anchor) and path.stat().st_uid == 0:
            path.chmod(path.stat().st_mode | 0o055)
    cache.chmod(mode)
    assert _hits(tmp_path / "own", "float32", str(cache), before=AS_ANOTHER) == 0


def _imported(path: Path) -> set[str]:
    """Modules of the package outside of the compiled backend that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "normdrop":
            _, *rest = (node.module or "").split(".")
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found - {"_cpu"}


def test_all_arithmetic_that_kernels_compile_is_in_their_names() -> None:
    """Else a kernel of an older version would be taken for the present one's."""
    package = Path(normdrop.__path__[0])
    found: set[str] = set()
    files = [path for room in ("kernels", "lanes") for path in (package / "_cpu" / room).glob("*.py")]
    new = set().union(*map(_imported, files))
    while new:
        found |= new
        new = set().union(*(_imported(package / f"{name}.py") for name in new)) - found
    assert found == set(sources.ARITHMETIC)
