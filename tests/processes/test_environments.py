"""What surrounds a process: other processors, limits, settings changed midway, a package without sources, no home."""

from __future__ import annotations

import compileall
import importlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.jit

Run = Callable[..., str]

RIGHT = """
import numpy as np
from normdrop import _cpu, _reference

x = np.arange(300, dtype=np.float32)
y, expected = np.empty_like(x), np.empty_like(x)
_cpu.dropout(y, x, (1, 2), 3, 1 << 31, 2.0)
_reference.dropout(expected, x, (1, 2), 3, 1 << 31, 2.0)
np.testing.assert_array_equal(y, expected)
"""
"""Compiles or loads one kernel, and checks that it is right."""

CODE = (
    """
import hashlib
from normdrop._cpu.toolchain.numba_internals import CheckedFile

def told(word, method):
    def tell(self, *arguments):
        data = method(self, *arguments)
        ((_, _, (code, _)), *_) = arguments[-1] if data is None else data
        print(word, hashlib.sha256(code).hexdigest())
        return data
    return tell

CheckedFile._save_data = told("compiled", CheckedFile._save_data)
CheckedFile._load_data = told("loaded", CheckedFile._load_data)
"""
    + RIGHT
)
"""Prints whether the kernel was compiled or loaded, and a digest of its machine code."""


def test_two_kinds_of_processors_that_fill_one_cache_at_once_get_their_own_code(
    in_subprocess: Run, tmp_path: Path
) -> None:
    kinds: list[dict[str, str]] = [{"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {}]
    folders = [tmp_path / "first", tmp_path / "second"]
    codes = []
    for folder, kind in zip(folders, kinds, strict=True):
        word, code = in_subprocess(CODE, NUMBA_CACHE_DIR=str(folder), **kind).split()
        assert word == "compiled"
        codes.append(code)
    assert codes[0] != codes[1]
    shared = tmp_path / "shared"
    order = [(folders[1], "nbc"), (folders[0], "nbc"), (folders[0], "nbi"), (folders[1], "nbi")]
    for folder, suffix in order:  # both found it empty, and the first wrote its code last, the second its index
        for path in folder.rglob(f"*.{suffix}"):
            (shared / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, shared / path.relative_to(folder))
    for kind, code in zip(reversed(kinds), reversed(codes), strict=True):
        assert in_subprocess(CODE, NUMBA_CACHE_DIR=str(shared), **kind).split() == ["loaded", code]


LIMITED = """
import os, resource, sys, threading
import numpy as np
import normdrop.__main__ as __main__
from normdrop import functional
from normdrop._cpu import compilations  # which another user may not read, either
from normdrop._cpu.toolchain import launch

rows = np.ones((launch.PARALLEL_SIZE, 2), np.float32)
serial = functional.dropout(rows[:99], 0.5, rng=1)[0]  # imports what another user may not read

def limit():
    if os.getuid() == 0:  # whom no limit binds
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return
    print("not limited")
    sys.exit()

def check():
    assert np.array_equal(functional.dropout(rows, 0.5, rng=1)[0][:99], serial)
    safe, reason = launch.explain_parallel()
    assert not safe
    assert "4 further threads cannot be started" in reason
    assert launch.threads() == 1
"""


def _run_limited(in_subprocess: Run, code: str) -> None:
    printed = in_subprocess(LIMITED + code, NUMBA_NUM_THREADS="4")
    if "not limited" in printed:
        pytest.skip("this system starts threads beyond RLIMIT_NPROC")


@pytest.mark.skipif(os.name != "posix", reason="uses limits and users of POSIX")
def test_where_no_thread_can_be_started_kernels_are_serial(in_subprocess: Run) -> None:
    _run_limited(
        in_subprocess,
        """
limit()
check()
shown = next(value for name, value in __main__._facts() if name == "parallel kernels")
assert shown.startswith("no: 4 further threads cannot be started")
""",
    )


@pytest.mark.skipif(os.name != "posix", reason="uses limits and users of POSIX")
def test_where_no_further_team_can_be_started_a_new_thread_is_served_serially(in_subprocess: Run) -> None:
    """OpenMP starts a team for every Python thread."""
    _run_limited(
        in_subprocess,
        """
functional.dropout(rows, 0.5)  # a team for this thread, where there is a layer for that
limited, failures = threading.Event(), []

def run():
    limited.wait()
    try:
        if launch._layer_safety[0]:
            check()
    except BaseException as error:
        failures.append(error)

thread = threading.Thread(target=run, daemon=True)
thread.start()
limit()
limited.set()
thread.join()
assert not failures, failures
""",
    )


@pytest.mark.parametrize(
    ("planted", "place"),
    [
        ("KeyboardInterrupt", "llvmlite/binding/ffi.py"),
        ("KeyboardInterrupt", "numba/core/types/abstract.py"),
        ("RecursionError", "numba/core/typeconv/castgraph.py"),
    ],
)
def test_an_import_of_numba_that_is_broken_off_can_be_made_again(in_subprocess: Run, planted: str, place: str) -> None:
    in_subprocess(
        f"""
import os, sys
import numpy as np
from normdrop import functional

def interrupt(frame, event, _):
    if frame.f_code.co_filename.replace(os.sep, "/").endswith("{place}") and frame.f_code.co_name != "<module>":
        sys.setprofile(None)
        raise {planted}("planted")

sys.setprofile(interrupt)
try:
    functional.dropout(np.ones(300), 0.5)
    raise SystemExit("nothing was broken off")
except {planted} as error:
    assert str(error) == "planted"
"""
        + RIGHT
    )


def test_what_numba_does_before_it_compiles_is_not_interrupted(in_subprocess: Run) -> None:
    """An interrupt comes in the midst of a module, after what it cannot register twice."""
    in_subprocess(
        """
import signal, sys, threading, _thread
import numpy as np
from normdrop import functional

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it

def interrupt(frame, *_):
    if frame.f_code.co_name == "register_jitable" and frame.f_back.f_globals["__name__"] == "numba.cpython.unicode":
        sys.setprofile(None)
        _thread.interrupt_main()

threading.setprofile(interrupt)
sys.setprofile(interrupt)
try:
    functional.dropout(np.ones(300), 0.5)
    raise SystemExit("nothing was interrupted")
except KeyboardInterrupt:
    sys.setprofile(None)
    threading.setprofile(None)
"""
        + RIGHT
        + """
import numba
assert numba.njit(lambda text: text + "b")("a") == "ab"
"""
    )


@pytest.mark.parametrize("value", ["1", "nonsense"])
def test_number_of_threads_changed_in_the_environment_breaks_no_kernel(in_subprocess: Run, value: str) -> None:
    """Numba reads it anew when it compiles, and cannot change it once the threads were started."""
    in_subprocess(
        f"""
import compileall
import importlib
import os
import numba
import numpy as np
from normdrop import functional
from normdrop._cpu.toolchain import launch

numba.get_num_threads()  # starts them
x = np.ones((launch.PARALLEL_SIZE, 2), np.float32)
os.environ["NUMBA_NUM_THREADS"] = "{value}"
for part in (x[:9], x):
    assert np.isin(functional.dropout(part, 0.5)[0], (0, 2)).all()
try:
    numba.njit(lambda x: x)(1)
    raise SystemExit("Numba's own compilation is changed")
except (RuntimeError, RuntimeWarning):
    pass
""",
        NUMBA_NUM_THREADS="2",
        NUMBA_CACHE_DIR="cache",
    )


def _byte_code_alone(folder: Path) -> Path:
    """As of an application that is shipped without sources."""
    package = folder / "site" / "normdrop"
    shutil.copytree(
        importlib.import_module("normdrop").__path__[0], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    assert compileall.compile_dir(package, legacy=True, quiet=1)
    for source in package.rglob("*.py"):
        source.unlink()
    return package.parent


def _zipped(folder: Path) -> Path:
    package = Path(importlib.import_module("normdrop").__path__[0])
    path = folder / "site.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, Path("normdrop") / file.relative_to(package))
    return path


def _zipped_byte_code(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "codes"), "zip", _byte_code_alone(folder)))


@pytest.mark.parametrize("package", [_byte_code_alone, _zipped, _zipped_byte_code])
def test_a_package_without_source_files_works(
    in_subprocess: Run, tmp_path: Path, package: Callable[[Path], Path]
) -> None:
    place = package(tmp_path)
    printed = in_subprocess(
        RIGHT
        + """
import compileall
import importlib
import os
from normdrop import functional
from normdrop._cpu.toolchain import launch

rows = np.ones((launch.PARALLEL_SIZE, 2), np.float32)
assert np.isin(functional.dropout(rows, 0.5)[0], (0, 2)).all()
from normdrop._cpu import compilations
print(launch.__file__, compilations.cache_folder(), sep=os.linesep)
""",
        PYTHONPATH=str(place),
        XDG_CACHE_HOME=str(tmp_path / "home"),
        HOME=str(tmp_path / "home"),
        NUMBA_CACHE_DIR="",
    )
    file, folder = printed.splitlines()
    assert file.startswith(str(place))
    assert (folder == "None") == (package is not _zipped)


@pytest.mark.skipif(os.name != "posix", reason="uses users of POSIX")
@pytest.mark.parametrize(
    ("named", "without"),
    [({}, 'os.environ.pop("HOME", None); os.environ.pop("XDG_CACHE_HOME", None)'), ({"XDG_CACHE_HOME": ""}, "")],
)
def test_the_cache_is_never_in_whatever_the_working_directory_is(
    in_subprocess: Run, tmp_path: Path, named: dict[str, str], without: str
) -> None:
    package = tmp_path / "site" / "normdrop"
    shutil.copytree(
        importlib.import_module("normdrop").__path__[0], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "_cpu" / "kernels" / "__pycache__").touch()  # a file: nothing can be made in it, not even by root
    printed = in_subprocess(
        f"""
import os, pwd

def nobody(_):
    raise KeyError("a user without an entry")

pwd.getpwuid = nobody
{without}
"""
        + RIGHT
        + """
from normdrop._cpu.toolchain import launch
from normdrop._cpu import compilations
print(compilations.cache_folder(), launch.__file__)
""",
        PYTHONPATH=str(tmp_path / "site"),
        PYTHONDONTWRITEBYTECODE="1",
        NUMBA_CACHE_DIR="",
        **named,
    )
    assert printed.split() == ["None", str(package / "_cpu" / "toolchain" / "launch.py")]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_by_code_in_c_is_noticed(in_subprocess: Run) -> None:
    """It runs none of Python's hooks; the child must not use threads that it lacks, nor repeat its parent's keys."""
    in_subprocess(
        """
import ctypes, os, signal
import numpy as np
from normdrop import MaskStream, functional
from normdrop._cpu.toolchain import launch

x = np.ones((launch.PARALLEL_SIZE, 2), np.float32)
expected = functional.dropout(x, 0.5, rng=1)[0]
MaskStream()
reading, writing = os.pipe()
child = ctypes.CDLL(None).fork()
if child == 0:
    signal.alarm(200)
    status = 1
    try:
        if np.array_equal(functional.dropout(x, 0.5, rng=1)[0], expected) and "fork" in launch.explain_parallel()[1]:
            os.write(writing, repr(MaskStream().key).encode())
            status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert os.read(reading, 1000).decode() != repr(MaskStream().key)
""",
    )


def test_numba_logs_no_steps_of_our_compilations_unless_its_own_logger_is_told_to(
    in_subprocess: Run, tmp_path: Path
) -> None:
    """A program that logs everything has not asked for thousands of records about kernels."""
    in_subprocess(
        """
import logging
import numpy as np
from normdrop import functional

class Count(logging.Handler):
    n = 0

    def emit(self, record):
        self.n += record.name.startswith("numba.core.ssa")

root, numbas, count = logging.getLogger(), logging.getLogger("numba"), Count()
root.addHandler(count)
root.setLevel(logging.DEBUG)
functional.dropout(np.ones(9, np.float32), 0.5)
assert count.n == 0
assert numbas.level == logging.NOTSET
numbas.setLevel(logging.DEBUG)
functional.dropout(np.ones(9), 0.5)
assert count.n > 0
assert numbas.level == logging.DEBUG
""",
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
    )
