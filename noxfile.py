"""The tasks of a developer: `nox` runs lint and tests, `nox -l` lists all, `nox -s docs` runs one.

The workflows in .github call them, and so does .ci/run, in an environment of its own.
"""

import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True

TESTS = ".[demo,test,peers]"
# Left out where only kernels matter: the commands, and tests that set up processes of their own, large arrays or more
# dtypes. Threads and bounds concern only the compiled backend, so two runs leave out the reference, too, and kernels
# for other dtypes of vectors.
KERNELS = ["tests/laws", "tests/functional", "tests/layers", "tests/cpu"]
FAST = "not slow and not cold and not ptx"
PLAIN_PYTHON = [*KERNELS, "tests/fast", "tests/cuda", "-m", f"{FAST} and not once and not jit"]
COMPILED = [*KERNELS, "-m", f"{FAST} and not once and not same", "-k", "not reference and not of_any_float_dtype"]
GENERATORS = ["tests/", "-m", f"kinds and {FAST}"]
# The simulator is slow. The kernels' own tests hold the launchers to the reference.
SIMULATED = ["tests/", "-m", f"simulated and {FAST}", "-k", "cuda and not (dropout_drops_by or larger_p)"]
LINT = [
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "--diff", "."],
    ["mypy"],
    ["numpydoc", "lint", *map(str, sorted(Path("normdrop").rglob("*.py")))],
    ["zizmor", "--offline", "--quiet", ".github"],
]


def _pytest(session: nox.Session, *args: str, **env: str) -> None:
    """Test the installed package, never the folder beside this file, in one setting of Numba's."""
    session.install(TESTS)
    session.run("pytest", *args, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, docstrings and workflows; each is run, also after one that failed."""
    session.install(".[lint,demo,test]")
    failed = []
    for command in LINT:
        try:
            session.run(*command)
        except CommandFailed:
            failed.append(" ".join(command[:2]))
    if failed:
        session.error(", ".join(failed))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, with compiled kernels."""
    _pytest(session)


@nox.session
def tests_cold(session: nox.Session) -> None:
    """Run the tests that compile many kernels anew, such as those for other processors."""
    _pytest(session, "-m", "cold")


@nox.session
def tests_matrix(session: nox.Session) -> None:
    """Run every threading layer, TBB's too, with all that may happen around a call."""
    session.install("tbb", "joblib")
    _pytest(session, "tests/processes/test_process_matrix.py", "-m", "matrix or not matrix")


@nox.session
def tests_nojit(session: nox.Session) -> None:
    """Run the tests that can run with the kernels as plain Python, as the reference is in every run."""
    _pytest(session, *PLAIN_PYTHON, "-k", "not reference", NUMBA_DISABLE_JIT="1")


@nox.session
def tests_serial(session: nox.Session) -> None:
    """Run the quicker tests of compiled kernels on one thread."""
    _pytest(session, *COMPILED, NUMBA_NUM_THREADS="1")


@nox.session
def tests_boundscheck(session: nox.Session) -> None:
    """Run the quicker tests of compiled kernels with every index checked."""
    _pytest(session, *COMPILED, NUMBA_BOUNDSCHECK="1")


@nox.session(python="3.11")
def tests_oldest(session: nox.Session) -> None:
    """Run the laws of bits, and what Numba does not document, with the oldest packages; "tests" has the newest."""
    session.install(".[test]", "--requirement", "tests/oldest.txt")
    session.run("python", "-m", "pytest", *(session.posargs or GENERATORS))


@nox.session
def tests_cudasim(session: nox.Session) -> None:
    """Run the kernels for GPUs in CUDA's simulator; give test files and "-k cuda" for more than a minute's worth."""
    _pytest(session, *([] if session.posargs else SIMULATED), NUMBA_ENABLE_CUDASIM="1")


@nox.session
def tests_ptx(session: nox.Session) -> None:
    """Compile every kernel for GPUs of four generations, without one, and by every way, where CI leaves some out."""
    session.install(".[cuda,test]")
    session.run("python", "-m", "pytest", "tests/cuda/test_cuda_ptx.py", *(session.posargs or ["-m", "ptx"]))


@nox.session
def tests_cuda(session: nox.Session) -> None:
    """Run the tests of the kernels on a GPU, large arrays too."""
    session.install(".[demo,test,peers,cuda]")
    session.run("pytest", "tests/", "-m", "not cold and not ptx", "-k", "cuda or gpu", *session.posargs)


@nox.session
def tests_arm(session: nox.Session) -> None:
    """Run the tests of bits in an emulated Python for Arm, for half an hour, and write what came out into the docs."""
    session.install(TESTS)
    arm = session.run("tests/emulated_arm.sh", "build/arm", external=True, silent=True).strip()
    env = {"NORMDROP_ARM": arm, "NORMDROP_ARM_REPORT": str(Path("docs", "_arm.md").resolve())}
    session.run("pytest", "tests/cpu/test_arm.py", "-m", "arm", "-v", "--durations=0", *session.posargs, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run every line and branch: kernels as plain Python, what generates their code with the JIT, arrays on a GPU."""
    counted = "--cov", "--cov-report="
    _pytest(session, *PLAIN_PYTHON, *counted, NUMBA_DISABLE_JIT="1")
    with tempfile.TemporaryDirectory() as empty:  # the code of a kernel that is in a cache is not generated
        _pytest(session, *GENERATORS, *counted, "--cov-append", NUMBA_CACHE_DIR=empty)
    _pytest(session, "tests/ensembles", "tests/torch", *counted, "--cov-append")
    arrays = "tests/cuda/test_cuda_arrays.py", *SIMULATED[1:]  # the way of an array on a GPU through the package
    _pytest(session, *arrays, *counted, "--cov-append", NUMBA_ENABLE_CUDASIM="1")
    session.run("coverage", "html", "-d", "build/coverage")
    session.run("coverage", "report", "--fail-under=100")


@nox.session
def doctest(session: nox.Session) -> None:
    """Run the examples in docstrings, README and docs."""
    _pytest(session, "normdrop", "README.md", "docs/")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages into build/docs; a warning is an error."""
    session.install(".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", "build/docs")


@nox.session(name="bench-smoke")
def bench_smoke(session: nox.Session) -> None:
    """Run every benchmark once with small arrays, first alone and then under asv; the numbers mean nothing."""
    session.install(".[asv]")
    session.run("python", "benchmarks", "smoke")
    _asv(session, "run", "--quick", "--show-stderr", "--environment", "existing:python", smoke=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Run all benchmarks on the latest commit, on the large shapes, too, and make the pages; takes hours."""
    session.install(".[asv]")
    _asv(session, "run", "HEAD^!", "--show-stderr", *session.posargs, full=True)
    _asv(session, "publish")


@nox.session(name="bench-compare")
def bench_compare(session: nox.Session) -> None:
    """Compare the ratios of two commits, in medians of five processes: nox -s bench-compare -- BASE."""
    if not session.posargs:
        session.error("which commit to compare with? nox -s bench-compare -- main")
    base, *options = session.posargs
    session.install(".[asv]")
    _asv(session, "continuous", base, "HEAD", *(options or ["--bench", "track_copy_ratio"]), processes=5)


def _asv(
    session: nox.Session, command: str, *args: str, smoke: bool = False, full: bool = False, processes: int = 1
) -> None:
    with session.chdir("benchmarks"):
        session.run("asv", "machine", "--yes", silent=True)
        env = {"NORMDROP_BENCH_SMOKE": "1" if smoke else "", "NORMDROP_BENCH_FULL": "1" if full else ""}
        env["NORMDROP_BENCH_PROCESSES"] = str(processes)
        session.run("asv", command, *args, env=env)
