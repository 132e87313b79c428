"""The bits of batch normalization depend on the array alone: not on threads, paths or the compiler."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from normdrop import functional

pytestmark = pytest.mark.same

# Both loop orders, few and many channels, with odd ends, each above the size from which kernels run on threads.
LARGE = [
    (1031, 67),
    (40_003, 3),
    (200_001, 1),
    (2, 3, 20_011),
    (1, 1, 150_001),
    (8, 67, 13, 13),
    (5003, 5, 3),
    (2, 40_003),
]
SMALL = [(37, 5), (6, 17), (3, 5, 7), (2, 3, 37), (1, 1, 70), (2, 70)]
# Rows of single channels, that can be taken by columns: of one block and of several, with odd ends.
WIDE = [(2, 64), (3, 70), (129, 1091), (300, 515)]

DIGEST = """
import hashlib
import numpy as np
from normdrop import functional

def digests(shapes, dtypes=("float32", "float64")):
    for shape in shapes:
        for dtype in dtypes:
            rng = np.random.default_rng(sum(shape))
            x, dy = rng.normal(300.0, 2.0, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
            gamma, beta = rng.normal(size=shape[1]), rng.normal(size=shape[1])
            y, context = functional.batch_norm(x, gamma, beta)
            results = [y, context.mean, context.var, *functional.batch_norm_backward(dy, context)]
            y, frozen = functional.batch_norm_inference(x, context.mean, context.var, gamma, beta, keep_x=True)
            results += [y, *functional.batch_norm_inference_backward(dy, frozen)]
            yield [hashlib.sha256(result.tobytes()).hexdigest()[:16] for result in results]
"""


def _digests(shapes: list[tuple[int, ...]]) -> list[list[str]]:
    made: dict[str, Any] = {}
    exec(DIGEST, made)  # the very code that the other interpreters run
    return list(made["digests"](shapes))


def _print_digests(shapes: list[tuple[int, ...]]) -> str:
    return DIGEST + f"\nprint(*digests({shapes!r}), sep='\\n')"


@pytest.fixture
def _all_threads() -> Any:
    import numba

    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


@pytest.mark.jit
@pytest.mark.usefixtures("_all_threads")
def test_bits_do_not_depend_on_the_number_of_threads_in_use() -> None:
    import numba

    expected = None
    for n_threads in range(1, min(numba.config.NUMBA_NUM_THREADS, 4) + 1):
        numba.set_num_threads(n_threads)
        computed = _digests(LARGE)
        expected = expected or computed
        assert computed == expected, n_threads


@pytest.mark.jit
def test_serial_and_parallel_variants_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop._cpu.toolchain import launch

    if not launch.parallel_is_safe():
        pytest.skip(launch.explain_parallel()[1])
    expected = _digests(LARGE + SMALL)
    monkeypatch.setattr(launch, "PARALLEL_SIZE", 1 << 62)
    assert _digests(LARGE) == expected[: 2 * len(LARGE)]
    monkeypatch.setattr(launch, "PARALLEL_SIZE", 0)
    assert _digests(SMALL) == expected[2 * len(LARGE) :]
    monkeypatch.setattr(launch, "parallel_is_safe", lambda: False)
    assert _digests(LARGE + SMALL) == expected


@pytest.mark.jit
@pytest.mark.parametrize(
    "setting",
    [
        {"NUMBA_NUM_THREADS": "1"},
        {"NUMBA_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"},
        {"NUMBA_THREADING_LAYER": "workqueue"},
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_process_settings(in_subprocess: Callable[..., str], setting: dict[str, str]) -> None:
    printed = in_subprocess(_print_digests(LARGE), **setting)
    assert printed.splitlines() == [str(digest) for digest in _digests(LARGE)]


@pytest.mark.jit
def test_bits_are_those_of_the_kernels_as_plain_python(in_subprocess: Callable[..., str]) -> None:
    printed = in_subprocess(_print_digests(SMALL), NUMBA_DISABLE_JIT="1")
    assert printed.splitlines() == [str(digest) for digest in _digests(SMALL)]


@pytest.mark.jit
@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", pytest.param("haswell", marks=pytest.mark.cold)])
def test_bits_do_not_depend_on_the_vectors_of_the_cpu(in_subprocess: Callable[..., str], cpu: str) -> None:
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("names of x86 processors")
    from normdrop._cpu.toolchain import target

    if cpu == "haswell" and target.vector_width() < 256:
        pytest.skip("this processor has no AVX2")
    features = "" if cpu == "generic" else "+avx2,+avx,+sse4.2,+fma"
    code = DIGEST + f"\nprint(*digests({SMALL!r}, ['float32']), sep='\\n')"
    printed = in_subprocess(code, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
    assert printed.splitlines() == [str(digest) for digest in _digests(SMALL)[::2]]


def _on_both_paths(monkeypatch: pytest.MonkeyPatch, decision: str, compute: Callable[[], Any]) -> list[Any]:
    """Compute with a decision of the launchers taken one way and the other; the plans of shapes are made anew."""
    launchers = importlib.import_module("normdrop._cpu.launchers")
    taken, kernels = [], []
    for answer in (True, False):
        monkeypatch.setattr(launchers, decision, lambda shape, itemsize, answer=answer: answer)
        launchers._plan.cache_clear()
        taken.append(compute())
        kernels += [launchers._plan("batch_norm", shape, 4)[0] for shape in ((2, 3, 37), (2, 70, 1))]
    monkeypatch.undo()
    launchers._plan.cache_clear()
    assert len(set(kernels)) == 3  # they did go two ways
    return taken


def test_bits_do_not_depend_on_the_path_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    one_go, in_blocks = _on_both_paths(monkeypatch, "in_one_go", lambda: _digests(SMALL))
    assert one_go == in_blocks


@pytest.mark.jit
def test_bits_of_large_arrays_do_not_depend_on_the_path_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    one_go, in_blocks = _on_both_paths(monkeypatch, "in_one_go", lambda: _digests(LARGE))
    assert one_go == in_blocks


@pytest.mark.parametrize(("value", "expected"), [(-0.0, 0.0), (np.inf, np.nan)])
@pytest.mark.parametrize("length", [40, 20_000])
def test_one_block_ends_as_several_do(length: int, value: float, expected: float) -> None:
    x = np.full((2, 3, length), -0.0, np.float32)
    x[0, 1, 5] = value
    _, context = functional.batch_norm(x)
    assert np.array_equal(context.mean[1], expected, equal_nan=True)
    assert not np.signbit(context.mean[[0, 2]]).any()


@pytest.mark.parametrize("shapes", [WIDE[:2], pytest.param(WIDE[2:], marks=pytest.mark.jit)], ids=str)
def test_bits_of_wide_rows_are_those_of_their_columns(monkeypatch: pytest.MonkeyPatch, shapes: Any) -> None:
    by_columns, by_rows = _on_both_paths(monkeypatch, "_by_columns", lambda: _digests(shapes))
    assert by_columns == by_rows


@pytest.mark.jit
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_of_columns_in_place_are_those_of_rows_elsewhere(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    def passes(in_place: bool) -> list[bytes]:
        results = []
        for shape in WIDE:
            x, dy = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
            y, context = functional.batch_norm(x, out=x if in_place else None)
            dx = functional.batch_norm_backward(dy, context, out=dy if in_place else None)[0]
            results += [y.tobytes(), dx.tobytes()]
        return results

    in_place, elsewhere = (_on_both_paths(monkeypatch, "_by_columns", lambda n=n: passes(n)) for n in (True, False))
    assert in_place[0] == in_place[1] == elsewhere[0] == elsewhere[1]


@pytest.mark.usefixtures("backend")
def test_bits_do_not_depend_on_where_the_array_lies() -> None:
    rng = np.random.default_rng(0)
    for shape in SMALL:
        x = rng.normal(size=shape).astype(np.float32)
        expected = functional.batch_norm(x)[0].tobytes()
        for offset in range(1, 5):
            moved = np.empty(x.size + offset, np.float32)[offset:].reshape(shape)
            moved[...] = x
            assert hashlib.sha256(functional.batch_norm(moved)[0]).digest() == hashlib.sha256(expected).digest()
