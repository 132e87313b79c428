"""The same bits on Arm: kernels that are compiled for NEON, and run, by an emulated Python.

`tests/emulated_arm.sh` makes that Python, and NORMDROP_ARM names its command; `nox -s tests_arm` does both. The
emulated processes share one kernel cache, empty at first, because compiling takes long there. An emulator shows neither
how fast Arm is nor what its processors may reorder between threads.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import normdrop

ARM = os.environ.get("NORMDROP_ARM", "")
REPORT = os.environ.get("NORMDROP_ARM_REPORT", "")  # the file that the docs show, docs/_arm.md
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.arm,
    pytest.mark.jit,
    pytest.mark.skipif(not ARM, reason="NORMDROP_ARM does not name an emulated Python: see tests/emulated_arm.sh"),
]

Run = Callable[..., str]
Note = Callable[[str, str], None]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs the emulated Python and returns what it printed; keywords are its environment."""
    folder = tmp_path_factory.mktemp("site")  # the package alone: what lies beside it is made for this machine
    (folder / "normdrop").symlink_to(normdrop.__path__[0], target_is_directory=True)
    ordinary = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}

    def run(*arguments: str, timeout: float = 2400, **env: str) -> str:
        done = subprocess.run(
            [ARM, *arguments],
            env=ordinary | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "kernels")} | env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def tested(emulated: Run) -> Run:
    """Return a function that runs tests in the emulated Python and returns how many passed."""

    def run(*arguments: str, **env: str) -> str:
        options = "--import-mode=importlib --strict-markers"
        printed = emulated(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"addopts={options}", *arguments, **env
        )
        found = re.search(r"^(\d+) passed", printed.splitlines()[-1])
        assert found, printed[-4000:]
        return f"{found[1]} passed"

    return run


@pytest.fixture(scope="module")
def rows(emulated: Run, request: pytest.FixtureRequest) -> Iterator[list[tuple[str, str, float]]]:
    """Collect the rows of the report, and write it if all tests of this file that ran have passed."""
    code = """
import platform, llvmlite, numba, numpy, scipy
modules = ", ".join(f"{module.__name__} {module.__version__}" for module in (numpy, scipy, numba, llvmlite))
print(f"{platform.machine()}, Python {platform.python_version()}, {modules}")
"""
    found: list[tuple[str, str, float]] = []
    versions = emulated("-c", code).strip()
    yield found
    if REPORT and len(found) == sum(item.path == Path(__file__) for item in request.session.items):
        lines = [f"| {what} | {result} | {seconds:.0f} s |" for what, result, seconds in found]
        head = ["| what ran | result | time |", "|---|---|---|"]
        Path(REPORT).write_text("\n".join([*head, *lines, "", f"Emulated: {versions}.", ""]), encoding="utf-8")


@pytest.fixture
def note(rows: list[tuple[str, str, float]]) -> Note:
    """Return a function that notes what ran and what came out."""
    begin = time.monotonic()
    return lambda what, result: rows.append((what, result, time.monotonic() - begin))


def test_golden_masks_are_drawn_on_arm(tested: Run, note: Note) -> None:
    result = tested("tests/laws/test_mask_law.py", "-k", "golden and not reference and not cuda")
    note("golden masks", result)


def test_golden_statistics_hold_on_arm(tested: Run, note: Note) -> None:
    note("golden statistics", tested("tests/laws/test_golden_statistics.py"))


# No features of x86 are among those of the second: NEON's 128 bits, and SVE where LLVM's vectorizer takes it.
PROCESSORS = {
    "generic, NEON": {},
    "Neoverse V2, NEON and SVE2": {"NUMBA_CPU_NAME": "neoverse-v2", "NUMBA_CPU_FEATURES": ""},
}


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_passes_have_the_bits_of_this_machine_on_arm(emulated: Run, note: Note, name: str) -> None:
    targets = runpy.run_path(str(Path(__file__).with_name("test_targets.py")))
    code = targets["CODE"].replace("SHAPES", repr(targets["SMALL"]))
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    expected, found = json.loads(here.stdout), json.loads(emulated("-c", code, **PROCESSORS[name]))
    assert len(expected) == 54
    assert [case for case in expected if found[case] != expected[case]] == []
    note(f"digests of passes ({name})", f"{len(found)} of {len(expected)} equal")


FUSED = """
import hashlib, json
import numpy as np
from normdrop import MaskStream, functional

x = (np.random.default_rng(3).integers(-999, 999, (6, 5, 7)) / 128).astype(np.float64)
digests = {}
def note(case, *arrays):
    digests[case] = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]
for activation in ("gelu", "tanh", "elu"):
    y, context = functional.act_dropout(x, activation=activation, p=0.25, rng=MaskStream(4))
    note(activation, y, functional.act_dropout_backward(x, context))
small = x.astype(np.float32)
y, context = functional.batch_norm_act(small[:, :, :1], residual=small[:, :, 1:2], p=0.25, rng=MaskStream(5))
note("by rows", y, *functional.batch_norm_act_backward(small[:, :, :1], context))
wide = np.resize(small, (2, 5, 70))
y, context = functional.batch_norm_act(wide, residual=wide, p=0.25, rng=MaskStream(6))
note("by planes", y, *functional.batch_norm_act_backward(wide, context))
print(json.dumps(digests))
"""


def test_fused_passes_and_activations_have_the_bits_of_this_machine_on_arm(emulated: Run, note: Note) -> None:
    here = subprocess.run([sys.executable, "-c", FUSED], capture_output=True, text=True, timeout=600, check=True)
    expected, found = json.loads(here.stdout), json.loads(emulated("-c", FUSED))
    assert len(expected) == 5
    assert found == expected
    note("digests of fused passes, with gelu, tanh and elu", f"{len(found)} of {len(expected)} equal")


def test_float16_and_bfloat16_have_the_bits_of_numpy_on_arm(tested: Run, note: Note) -> None:
    names = "statistics_are_those or masks_are_those or every_value_halved or the_identity_returns"
    note("float16, bfloat16", tested("tests/laws/test_half.py", "-k", f"({names}) and not reference and not cuda"))


def test_plain_kernels_pass_on_arm(tested: Run, note: Note) -> None:
    note("kernels as plain Python", tested("tests/cpu/test_plain_kernels.py", NUMBA_DISABLE_JIT="1"))


def test_kernels_touch_nothing_beyond_their_arrays_on_arm(emulated: Run, tested: Run, note: Note) -> None:
    tested("tests/cpu/test_guard_pages.py", "-k", "touch_beyond")  # so that the rest can fail there
    last = emulated("tests/guarded.py", "float32", "small", NUMBA_NUM_THREADS="1").splitlines()[-1]
    assert last.startswith("done ")
    note("pages that may not be touched beside arrays", last)


def test_a_page_of_the_docs_runs_on_arm(tested: Run, note: Note) -> None:
    note("examples of a page", tested("--doctest-glob=*.md", "docs/how-to/streams.md"))


WRITE = """
import pickle, sys
import numpy as np
import normdrop

folder = sys.argv[1]
x = np.random.default_rng(1).integers(-99, 99, (40, 3)).astype(np.float32) / 8
layers = [normdrop.Dropout(0.3, rng=7), normdrop.Dropout1d(0.5, rng=8), normdrop.BatchNorm(3, momentum=None)]
for layer in layers:
    layer(x[:, :, None] if isinstance(layer, normdrop.Dropout1d) else x)
    for suffix in ("npz", "safetensors"):
        layer.save(f"{folder}/{type(layer).__name__}.{suffix}")
with open(f"{folder}/layers.pickle", "wb") as file:
    pickle.dump(layers, file)
"""
GO_ON = """
import hashlib, pickle, sys
import numpy as np
import normdrop

folder = sys.argv[1]
x = np.random.default_rng(2).integers(-99, 99, (40, 3)).astype(np.float32) / 8
with open(f"{folder}/layers.pickle", "rb") as file:
    pickled = pickle.load(file)
for suffix in ("pickle", "npz", "safetensors"):
    layers = [normdrop.Dropout(0.3), normdrop.Dropout1d(0.5), normdrop.BatchNorm(3, momentum=None)]
    for layer, whole in zip(layers, pickled):
        if suffix == "pickle":
            layer = pickle.loads(pickle.dumps(whole))
        else:
            layer.load(f"{folder}/{type(layer).__name__}.{suffix}")
        values = x[:, :, None] if isinstance(layer, normdrop.Dropout1d) else x
        results = [layer(values), layer.backward(values), *layer.state_dict().values()]
        digest = hashlib.sha256(b"".join(np.asarray(result).tobytes() for result in results))
        print(type(layer).__name__, suffix, digest.hexdigest()[:16])
"""


def test_states_and_pickles_of_one_processor_go_on_alike_on_the_other(
    emulated: Run, note: Note, tmp_path: Path
) -> None:
    def here(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout

    written = {"here": here, "arm": emulated}
    for name, run in written.items():
        (tmp_path / name).mkdir()
        run("-c", WRITE, str(tmp_path / name))
    printed = [run("-c", GO_ON, str(tmp_path / name)) for run in written.values() for name in written]
    assert len(printed[0].splitlines()) == 9
    assert printed == [printed[0]] * 4
    note("states and pickles of either, gone on with on the other", "9 digests equal, 4 ways")


def test_two_kinds_of_processors_share_a_folder_of_kernels_and_no_kernel(
    emulated: Run, note: Note, tmp_path: Path
) -> None:
    right = runpy.run_path(str(Path(__file__).with_name("test_kernel_cache.py")))["RIGHT"]
    code = f"""{right}
import importlib
(kernel,) = importlib.import_module("normdrop._cpu.kernels.drawn_masks").dropout._compiled.values()
print(sum(kernel.stats.cache_hits.values()))
"""
    command = [sys.executable, "-c", code]

    def here(**env: str) -> str:
        return subprocess.run(
            command, env=os.environ | env, capture_output=True, text=True, timeout=600, check=True
        ).stdout

    def files() -> set[str]:
        return {path.name for path in tmp_path.rglob("*.nb?")}

    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    hits = [here(**folder)]
    ours = files()
    hits.append(emulated("-c", code, **folder))
    theirs = files() - ours
    hits += [here(**folder), emulated("-c", code, **folder)]
    assert [int(hit) for hit in hits] == [0, 0, 1, 1]  # each compiled its own, though the other's lay there
    assert len(ours) == len(theirs) == 2
    assert files() == ours | theirs
    note("one folder of kernels with this machine", "each found its own alone")
