"""The benchmarks run, their sides compute the same, ratios are what they say, and no commit runs another's kernels."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.jit,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the tests run without the repository around them"),
]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmarks with their smallest parameters, as a package, from where they lie."""
    monkeypatch.setenv("NORMDROP_BENCH_SMOKE", "1")
    spec = importlib.util.spec_from_file_location("benchmarks", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def command(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(folder), *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_every_benchmark_runs():
    done = command(FOLDER, "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split(", ")[2].startswith("0 failed")
    ran = set(re.findall(r" s (\w+(?:\.\w+)+)\(", done.stdout))
    skipped = set(re.findall(r"^skipped +(\w+(?:\.\w+)+)\(", done.stdout, re.MULTILINE))
    without_torch = importlib.util.find_spec("torch") is None
    assert all(name.endswith("track_vs_torch") and without_torch for name in skipped)
    passes = ["time_pass", "track_copy_ratio", "track_vs_numpy", "track_vs_torch"]
    owners = ["dropout.Dropout", "dropout.ImageDropout", "dropout.ChannelDropout"]
    owners += ["batch_norm.BatchNorm", "batch_norm.BatchNormRows", "batch_norm.BatchNormInference"]
    fused = {f"fused.BatchNormAct{rows}.{name}" for rows in ("", "Rows") for name in passes if "numpy" not in name}
    fused |= {f"batch_norm.MaskedBatchNorm.{name}" for name in passes[:2]}
    fused |= {f"dropout.DropConnect.{name}" for name in passes[:2]}
    relatives = ["GaussianDropout", "GaussianNoise", "AlphaDropout", "FeatureAlphaDropout", "DropPath", "DropBlock2d"]
    fused |= {f"family.{owner}.{name}" for owner in relatives for name in passes if "numpy" not in name}
    fused |= {f"family.{owner}.{name}" for owner in ("ChannelsP", "ElementsP") for name in passes[:2]}
    assert ran | skipped == {f"{owner}.{name}" for owner in owners for name in passes} | fused | {
        "startup.timeraw_import",
        "startup.track_first_call_seconds",
        "memory.Peak.peakmem_floor",
        "memory.Peak.peakmem_forward",
        "memory.Peak.peakmem_step",
        "memory.track_bytes_kept_for_backward",
        "accuracy.Normalization.track_variance_error",
        "accuracy.Normalization.track_output_error",
        "njit.Compiled.track_kernel_ratio",
    }


def test_a_benchmark_that_fails_or_tracks_no_number_is_an_error_and_one_that_is_skipped_is_not(tmp_path):
    folder = tmp_path / "benchmarks"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(".asv", "__pycache__"))
    (folder / "good.py").write_text("def time_good(): pass\n")
    (folder / "broken.py").write_text("def time_broken(): raise KeyError('boom')\n")
    (folder / "nan.py").write_text("def track_nan(): return float('nan')\n")
    skipped = "class Peer:\n    def setup(self): raise NotImplementedError('not here')\n    def time_it(self): 1 / 0\n"
    (folder / "skipped.py").write_text(skipped)
    for name, status, line in [
        ("good", 0, " s good.time_good()"),
        ("broken", 1, "FAILED   broken.time_broken(): KeyError: 'boom'"),
        ("nan", 1, "FAILED   nan.track_nan(): ValueError: a tracked number must be finite, not nan"),
        ("skipped", 0, "skipped  skipped.Peer.time_it(): not here"),
    ]:
        done = command(folder, "smoke", name)
        assert (done.returncode, line in done.stdout) == (status, True), done.stdout + done.stderr


# A package whose kernel calls a function in another file, which Numba's cache does not look at.
KERNEL = """from numba import njit
from normdrop.constant import constant
@njit(cache=True)
def kernel(): return constant()
"""
CONSTANT = "from numba import njit\n@njit\ndef constant(): return {}\n"
RUN = "import sys; sys.path.insert(0, sys.argv[1])\nfrom normdrop.kernel import kernel; print(kernel())"
RUN_ISOLATED = f"import sys; sys.path[:0] = [sys.argv[1], {str(FOLDER.parent)!r}]\nimport benchmarks\n{RUN}"


def test_no_commit_runs_the_kernels_of_another(tmp_path):
    package = tmp_path / "installed" / "normdrop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    env = {"ASV_ENV_DIR": str(tmp_path / "env"), "NUMBA_CACHE_DIR": str(tmp_path / "shared")}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    env["NORMDROP_BENCH_SMOKE"] = ""

    def install(value: int) -> None:  # as a wheel does, whose files all have the same date
        (package / "kernel.py").write_text(KERNEL)
        (package / "constant.py").write_text(CONSTANT.format(value))
        for source in package.glob("*.py"):
            os.utime(source, (0, 1_580_601_600))

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "installed")],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    install(1)
    assert (run(RUN), run(RUN_ISOLATED)) == ("1", "1")
    install(2)
    assert run(RUN) == "1"  # the danger is real: this is the kernel of the version before
    assert run(RUN_ISOLATED) == "2"
    assert len(list((tmp_path / "env" / "normdrop-kernels").iterdir())) == 2


def test_commits_without_a_bench_are_measured_by_that_of_this_checkout(tmp_path):
    installed = tmp_path / "normdrop"
    installed.mkdir()
    (installed / "__init__.py").write_text("__version__ = '0'\n")
    (installed / "functional.py").touch()
    run = "import benchmarks.batch_norm, benchmarks.dropout, normdrop, normdrop.bench.protocol as protocol"
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(FOLDER.parent)!r}]; {run}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(normdrop.__version__, protocol.__file__)"],
        env=os.environ | {"NORMDROP_BENCH_SMOKE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == ["0", f"{FOLDER.parent / 'normdrop' / 'bench' / 'protocol.py'}\n"]


class Clock:
    """A clock that calls move, in place of the module ``time``."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1e-9  # so that waiting for a moment ends
        return self.now

    def sleep(self, seconds):
        self.now += 1000  # would be seen in any time that it is part of

    def call(self, seconds):
        """Return a call that takes so long."""

        def call():
            self.now += seconds

        return call


@pytest.fixture
def protocol(package, monkeypatch) -> tuple[ModuleType, Clock]:
    protocol = importlib.import_module("benchmarks.protocol")
    clock = Clock()
    for module in (protocol, protocol.protocol):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(protocol, "AMOUNT", dataclasses.replace(protocol.AMOUNT, rounds=5))
    return protocol, clock


def test_ratio_is_to_the_fastest_reference_of_the_round(protocol):
    protocol, clock = protocol
    assert protocol.ratio(clock.call(3.0), clock.call(6.0), clock.call(2.0)) == pytest.approx(1.5, rel=1e-6)


def test_sides_take_turns_in_both_orders_and_a_slow_moment_spoils_no_ratio(protocol):
    protocol, clock = protocol
    turns = []

    def side(name, seconds):
        def call():
            turns.append(name)
            clock.now += 10 * seconds if len(turns) == 9 else seconds  # a moment at which nothing else is slow

        return call

    assert protocol.ratio(side("own", 3.0), side("other", 2.0)) == pytest.approx(1.5, rel=1e-6)
    own, other = ("own", "other"), ("other", "own")
    rounds = list(zip(*[iter(turns[-10:])] * 2, strict=True))
    assert rounds in ([own, other, own, other, own], [other, own, other, own, other])


def test_planted_slow_down_is_as_large_as_asked_for(protocol, monkeypatch):
    protocol, clock = protocol
    assert protocol.planted(len) is len
    monkeypatch.setattr(protocol, "PLANTED", 0.2)
    slower = protocol.planted(clock.call(1e-4))
    start = clock.now
    slower()
    assert clock.now - start == pytest.approx(1.2e-4, rel=1e-3)


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_sides_of_batch_norm_compute_the_same(package, layout):
    torch = pytest.importorskip("torch")
    module = importlib.import_module("benchmarks.batch_norm")
    batch = importlib.import_module("benchmarks.passes").Batch((4, 3, 5, 7), layout == "channels last")
    assert batch.x.strides == batch.dy.strides == batch.buffer().strides
    assert batch.dense(batch.x).flags.c_contiguous
    for passes in (module.BatchNorm(), module.BatchNormInference()):
        own = passes.normdrop(batch, "")
        for other in (passes.numpy(batch, ""), passes.torch(batch, "")):
            assert other.keys() == own.keys()
            for operation in own.keys() - {"step"}:
                expected, got = own[operation](), other[operation]()
                if operation != "backward":
                    expected, got = [expected], [got]
                for a, b in zip(expected, got, strict=True):
                    b = b.detach().numpy() if isinstance(b, torch.Tensor) else b
                    b = np.moveaxis(b, -1, 1) if b.shape != a.shape else b
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Dropout", "ImageDropout", "ChannelDropout"])
def test_sides_of_dropout_drop_and_scale_alike(package, name):
    torch = pytest.importorskip("torch")
    passes = getattr(importlib.import_module("benchmarks.dropout"), name)()
    batch = importlib.import_module("benchmarks.passes").Batch((8, 16, 6, 5))
    for side in (passes.normdrop, passes.numpy, passes.torch):
        calls = side(batch, "maps 8x16x6x5")
        for operation, values in (("forward", batch.x), ("backward", batch.dy)):
            result = calls[operation]()
            result = result[0] if isinstance(result, tuple) else result
            result = result.detach().numpy() if isinstance(result, torch.Tensor) else result
            kept = result != 0
            np.testing.assert_allclose(result[kept], 2 * values[kept], rtol=1e-6)
            whole = kept.all((2, 3)) | ~kept.any((2, 3))
            assert whole.all() == (name == "ChannelDropout")
            assert 0.3 < kept.mean() < 0.7


def test_thresholds_are_silent_about_noise_and_a_slow_down_is_reported(package):
    pytest.importorskip("asv")
    noise = importlib.import_module("benchmarks.noise")
    rng = np.random.default_rng(0)
    plain = list(rng.normal(1.0, 0.01, 10))
    wild = [1.0, 1.3] * 5
    slowed = [1.2 * value for value in rng.normal(1.0, 0.01, 10)]
    calm = {"case": ("calm",), "ratio": plain, "planted": slowed}
    limits = noise.thresholds([calm, {"case": ("wild",), "ratio": [1.0] * 19 + [2.5]}], "ratio")
    assert limits["calm"] == noise.LEAST
    assert noise.LEAST < limits["wild"] <= 1.51
    assert noise.histories(plain) == noise.histories(plain)
    assert not any(noise.reported(history, limits["calm"]) for history in noise.histories(plain))
    assert max(noise.delays(calm, limits["calm"])) <= 3
    assert min(noise.delays(calm, 0.3)) == np.inf
    assert noise.deviation(wild) == pytest.approx(0.15 / 1.15)


def test_benchmarks_refuse_a_forked_process_and_asv_is_told_not_to_fork(package, monkeypatch):
    package.check_process()
    monkeypatch.setattr(package, "_PROCESS", -1)  # as a child sees it
    with pytest.raises(RuntimeError, match="spawn"):
        package.check_process()
    assert configuration()["launch_method"] == "spawn"


def test_every_threshold_belongs_to_a_benchmark_and_lets_a_slow_down_of_a_fifth_be_seen(package):
    smoke = importlib.import_module("benchmarks.smoke")
    commands = importlib.import_module("benchmarks.__main__")
    modules = [importlib.import_module(f"benchmarks.{name}") for name in commands.MODULES]
    names = [f"{m.__name__.partition('.')[2]}.{name}" for m in modules for name, _, _ in smoke.benchmarks_of(m)]
    thresholds = configuration()["regressions_thresholds"]
    assert [regex for regex in thresholds if not any(re.match(regex, name) for name in names)] == []
    for name in names:
        if name.endswith("track_copy_ratio"):
            limits = [limit for regex, limit in thresholds.items() if re.match(regex, name)]
            assert 0 < max(limits) < 0.2, name


def configuration() -> dict[str, Any]:
    lines = (FOLDER / "asv.conf.json").read_text(encoding="utf-8").splitlines()
    return json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))


def test_the_plot_by_commit_has_the_ratios_on_most_threads_and_a_gap_where_a_commit_has_none(package):
    plots, (case, *_) = importlib.import_module("benchmarks.plots"), importlib.import_module("benchmarks.noise").CASES
    owner, *parameters = case
    measured = [("first", "1", 1.5), ("first", "2", 1.25), ("third", "2", 1.75)]
    found = [plots.Figure(*one[:2], owner, plots.RATIO, tuple(parameters), one[2]) for one in measured]
    written = json.loads(plots.history(found, ["first", "second", "third"]))
    assert (written["commits"], written["n_threads"]) == (["first", "second", "third"], "2")
    assert written["lines"] == [{"case": list(case), "ratios": [1.25, None, 1.75]}]
