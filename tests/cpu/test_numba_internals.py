"""What Numba and llvmlite do not document is used in one file, and nothing but speed depends on it."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest

from normdrop._cpu import compilations
from normdrop._cpu.toolchain import launch, numba_internals

pytestmark = [pytest.mark.same, pytest.mark.kinds]

DOCUMENTED = {"numba", "numba.extending", "numba.core.cgutils", "llvmlite.ir", "llvmlite.binding"}
"""Modules that are on the pages of Numba and llvmlite; `cgutils` is on those about writing intrinsics."""


def _imported(source: str) -> Iterator[str]:
    """Modules that a file takes something from, or is all of."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            whole = {alias.name for alias in node.names if f"{module}.{alias.name}" in DOCUMENTED}
            yield from (f"{module}.{name}" for name in whole)
            if len(whole) < len(node.names):
                yield module


def _attributes(source: str) -> Iterator[str]:
    yield from (node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))


def test_what_numba_does_not_document_is_used_in_one_file_alone() -> None:
    folder = Path(importlib.import_module("normdrop._cpu").__path__[0])
    private = {word for part in numba_internals.PARTS.values() for name in part.names for word in name.split(".")}
    private = {word for word in private if word.startswith("_")} - {"_lock"}  # which others have, too
    private |= {"_cache", "_cache_file", "_is_initialized", "magic_tuple", "make_array", "intrinsic_name", "attributes"}
    found = set()
    for path in set(folder.rglob("*.py")) - {folder / "toolchain" / "numba_internals.py"}:
        source = path.read_text(encoding="utf-8")
        modules = {name for name in _imported(source) if name.split(".")[0] in ("numba", "llvmlite")}
        found |= {(path.name, name) for name in (modules - DOCUMENTED) | (private & set(_attributes(source)))}
    assert found == set()


def test_this_version_of_numba_has_all_parts_and_each_says_what_happens_without() -> None:
    assert numba_internals.MISSING == {}
    assert numba_internals._find("numba:a name that nothing has") is None
    for part in numba_internals.PARTS.values():
        assert part.purpose
        assert part.without
        assert part.since
        assert part.names


def test_numba_is_one_that_was_tested() -> None:
    """What pyproject.toml allows ends before the first minor version that nobody has run the tests with."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (bounds,) = re.findall(r'"numba>=([0-9]+)[.]([0-9]+),<([0-9]+)[.]([0-9]+)"', pyproject)
    first, end, here = tuple(map(int, bounds[:2])), tuple(map(int, bounds[2:])), numba.version_info.short
    assert first <= here < end
    assert {part.since for part in numba_internals.PARTS.values()} == {f"{bounds[0]}.{bounds[1]}.0"}


HIDE = """
import sys
from importlib import import_module
from operator import attrgetter

ABSENT, views, twins = object(), {}, {}

def kind_of(owner):
    kind = type(owner)

    def seen(self, attribute):
        view = views.get(id(self), {})
        if attribute in view and sys._getframe(1).f_globals["__name__"].startswith("normdrop"):
            if view[attribute] is ABSENT:
                raise AttributeError(attribute)
            return view[attribute]
        return kind.__getattribute__(self, attribute)

    return type(kind.__name__, (kind,), {"__getattribute__": seen, "__slots__": ()})

def change(owner, attribute, view):
    if id(owner) not in views:
        views[id(owner)] = {}
        owner.__class__ = kind_of(owner)
    views[id(owner)][attribute] = view

def hide(name):
    module, _, attributes = name.partition(":")
    path, _, last = attributes.rpartition(".")
    place = import_module(module)
    owner = attrgetter(path)(place) if path else place
    if not isinstance(owner, type):
        return change(owner, last, ABSENT)
    if owner not in twins:  # a class of which normdrop sees a subclass that lacks something
        twins[owner] = kind_of(owner)(owner.__name__, (owner,), {})
        views[id(twins[owner])] = {}
        change(place, path, twins[owner])
    views[id(twins[owner])][last] = ABSENT
"""
"""Lets normdrop, and not Numba itself, find "module:attribute.attribute" no more."""

WORK = """
import hashlib
import numpy as np
from normdrop import _cpu, _reference
from normdrop._cpu.toolchain import launch

def work(backend):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(3, 2, (2, 5, 3, 40))
    flat, gamma, beta = rng.normal(size=launch.PARALLEL_SIZE).astype(np.float32), rng.normal(size=3), rng.normal(size=3)
    dropped, y, dx, statistics, sums = (np.zeros_like(like) for like in (flat, x, x, np.ones((3, 3)), np.ones((2, 3))))
    backend.dropout(dropped, flat, (1, 2), 3, 1 << 31, 2.0)
    backend.batch_norm(y, x, statistics, gamma, beta, 1e-5)
    backend.batch_norm_backward(dx, dy, x, sums, statistics, gamma)
    return dropped, y, dx, statistics, sums

computed, expected = work(_cpu), work(_reference)
assert computed[0].tobytes() == expected[0].tobytes()
for a, b in zip(computed[1:], expected[1:], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
bits = hashlib.sha256(b"".join(map(np.ndarray.tobytes, computed))).hexdigest()
"""
"""Compares some kernels with the reference; their bits."""

Run = Callable[..., str]


OF_PROCESSES = ["compiler's lock", "LLVM's lock", "getting ready", "settings that stay"]
"""Parts without which the same code is compiled."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the kernels give with all parts, and a cache with these kernels."""
    folder = tmp_path_factory.mktemp("filled")
    command = [sys.executable, "-W", "error", "-c", WORK + "print(bits)"]
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip(), folder / "cache"


def _missing(names: set[str]) -> list[str]:
    """Parts that need one of these names."""
    return [part for part in numba_internals.PARTS if names & set(numba_internals.PARTS[part].names)]


@pytest.mark.jit
@pytest.mark.slow
@pytest.mark.parametrize("part", [*numba_internals.PARTS, "all"])
def test_without_a_part_of_numba_the_bits_are_the_same(
    in_subprocess: Run, filled: tuple[str, Path], part: str, tmp_path: Path
) -> None:
    bits, cache = filled
    if part in OF_PROCESSES:
        shutil.copytree(cache, tmp_path / "cache")
    parts = numba_internals.PARTS if part == "all" else [part]
    names = {name for part in parts for name in numba_internals.PARTS[part].names}
    printed = in_subprocess(
        HIDE
        + f"""
import numba
for name in {sorted(names)}:
    hide(name)
"""
        + WORK
        + """
from normdrop._cpu.toolchain import numba_internals
from normdrop._cpu import compilations
assert compilations.cache_folder()
print(list(numba_internals.MISSING), bits, sep=";")
""",
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert printed.strip() == f"{_missing(names)};{bits}"
    assert list((tmp_path / "cache").rglob("*.nbc"))


@pytest.mark.jit
def test_any_name_that_is_gone_is_noticed(in_subprocess: Run) -> None:
    in_subprocess(
        HIDE
        + """
from normdrop._cpu.toolchain import numba_internals

for name in {name for part in numba_internals.PARTS.values() for name in part.names}:
    assert numba_internals._find(name) is not None, name
    hide(name)
    assert numba_internals._find(name) is None, name
"""
    )


@pytest.mark.jit
def test_numbas_own_cache_serves_where_files_cannot_be_checked(in_subprocess: Run, tmp_path: Path) -> None:
    hidden = HIDE + 'hide("numba.core.caching:IndexDataCacheFile._save_data")\n'
    code = """
import importlib
import numpy as np
from normdrop import functional

assert functional.dropout(np.ones(300, np.float32), 0.5)[0].size == 300
kernel = importlib.import_module("normdrop._cpu.kernels.drawn_masks").dropout
print(sum(sum(compiled.stats.cache_hits.values()) for compiled in kernel._compiled.values()))
"""
    folder = str(tmp_path / "cache")
    assert [in_subprocess(hidden + code, NUMBA_CACHE_DIR=folder) for _ in range(2)] == ["0\n", "1\n"]
    assert in_subprocess(code, NUMBA_CACHE_DIR=folder) == "0\n"  # a file without a digest is none


@pytest.mark.jit
@pytest.mark.skipif(sys.platform != "linux", reason="names the user's folder as Linux does")
def test_numbas_own_cache_is_not_used_below_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(numba_internals.MISSING, "checked cache", ["a name"])
    monkeypatch.setattr(launch.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(OSError, match="working directory"):
        numba_internals.cached(launch.threads)
    assert compilations.cache_folder() is None
    monkeypatch.setattr(launch.config, "CACHE_DIR", str(tmp_path))
    assert str(compilations.cache_folder()).startswith(str(tmp_path))


@pytest.mark.jit
def test_numbas_own_cache_serves_where_its_files_are_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba_internals, "_Cache", lambda function: SimpleNamespace())
    assert type(numba_internals.cached(launch.threads)._cache).__module__ == "numba.core.caching"


def test_info_names_the_parts_of_numba_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop import __main__

    assert dict(__main__._facts())["inner parts of Numba"] == "all found"
    monkeypatch.setitem(numba_internals.MISSING, "LLVM's lock", ["a name"])
    monkeypatch.setitem(numba_internals.MISSING, "no wrappers", ["a name"])
    assert dict(__main__._facts())["inner parts of Numba"] == "without LLVM's lock, no wrappers"


def test_wide_registers_are_asked_for_where_attributes_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    function, other = SimpleNamespace(attributes=set()), SimpleNamespace(attributes=["alwaysinline"])
    numba_internals.use_wide_registers(function)
    numba_internals.use_wide_registers(other)
    assert len(function.attributes) == 2
    assert other.attributes == ["alwaysinline"]


def test_without_a_part_there_are_no_options_and_no_locks_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numba_internals.helper_options().keys() > {"forceinline", "pipeline_class"}
    for part in numba_internals.PARTS:
        monkeypatch.setitem(numba_internals.MISSING, part, ["a name"])
    assert numba_internals.helper_options() == {}
    assert numba_internals.kernel_options(True) == {"parallel": True}
    assert numba_internals.kernel_options(False) == {"parallel": False}
    (lock,) = numba_internals._locks()
    assert lock is not numba_internals.COMPILER_LOCK
    with lock, lock:
        assert not numba_internals.may_get_ready()
    before = launch.config.reload_config
    with numba_internals.settings_stay():
        assert launch.config.reload_config is before
