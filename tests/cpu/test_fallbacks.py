"""What happens seldom: another thread that was faster, a system that does not tell, a library that is missing."""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

import normdrop
from normdrop import _checks, _process, _seeding, _streams

pytestmark = [pytest.mark.same, pytest.mark.kinds]


def test_a_stream_lock_that_was_held_at_a_fork_is_free_in_the_child(monkeypatch) -> None:
    """What the hooks do in a child, where the thread that held the lock is missing."""
    from normdrop._cpu.toolchain import launch

    monkeypatch.setattr(_streams, "_stream_lock", threading.Lock())
    _streams._stream_lock.acquire()
    _streams._after_fork()
    assert _streams._stream_lock.acquire(timeout=0)
    _streams._stream_lock.release()
    monkeypatch.setattr(_process, "_pid", _process._pid)
    _process._after_fork()
    assert _process.forked()
    assert not launch.parallel_is_safe()
    assert "forked" in launch.explain_parallel()[1]


def test_what_is_done_under_a_lock_is_not_begun_again_in_its_midst() -> None:
    lock = threading.RLock()
    again = _process.not_within(lock, "reading")
    with _process.not_within(lock, "reading"), pytest.raises(RuntimeError, match="while its thread was reading; call"):
        again.__enter__()
    with _process.not_within(lock, "reading"):
        pass


def test_a_flag_may_be_a_bool_of_numpy() -> None:
    assert _checks.flag(np.True_, "keep_x") is True
    assert _checks.flag(np.False_, "keep_x") is False


def test_a_child_of_an_unseeded_process_makes_keys_of_its_own() -> None:
    normdrop.seed(None)
    normdrop.MaskStream()
    root = _seeding._default_source._root
    _seeding._default_source.after_fork()
    assert _seeding._default_source._root is None
    assert _seeding._default_source.next().entropy != root.entropy
    normdrop.seed(None)


def test_threads_are_not_entered_where_they_are_known_to_end_the_process(monkeypatch) -> None:
    from normdrop._cpu.toolchain import launch

    monkeypatch.setattr(launch.config, "NUMBA_NUM_THREADS", 4)
    monkeypatch.setattr(launch, "_layer_safety", None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        patch.setitem(sys.modules, "torch", ModuleType("torch"))
        assert launch.explain_parallel()[0] is False
        assert "PyTorch" in launch.explain_parallel()[1]
    with monkeypatch.context() as patch:
        patch.setattr(launch.numba, "threading_layer", lambda: "omp")
        patch.setattr(_process, "native_threads", lambda: 1)
        assert launch.explain_parallel() == (
            False,
            "Numba's threads were started by a parent of this process and did not survive the fork",
        )
    for layer, safe in (("omp", True), ("tbb", True), ("workqueue", False)):
        with monkeypatch.context() as patch:
            patch.setattr(launch, "_layer_safety", None)
            patch.setattr(launch.numba, "get_num_threads", lambda: 4)
            patch.setattr(launch.numba, "threading_layer", lambda layer=layer: layer)
            patch.setattr(_process, "native_threads", lambda: 9)
            assert launch.explain_parallel()[0] is safe
            assert launch.threads() == (4 if safe else 1)
    monkeypatch.setattr(launch.config, "NUMBA_NUM_THREADS", 1)
    assert launch.explain_parallel() == (False, "Numba has one thread")


def test_a_threading_layer_that_does_not_start_means_no_threads(monkeypatch) -> None:
    from normdrop._cpu.toolchain import launch

    def fail() -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(launch.numba, "get_num_threads", fail)
    monkeypatch.setattr(_process, "native_threads", lambda: 9)
    assert launch._probe_layer() == (False, "Numba's threading layer does not start: no such layer")


def test_there_is_a_cache_folder_unless_numba_finds_none(monkeypatch) -> None:
    from normdrop._cpu import compilations
    from normdrop._cpu.toolchain import launch, numba_internals

    def cached(function) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    assert launch.config.DISABLE_JIT or compilations.cache_folder()
    monkeypatch.setattr(numba_internals, "cached", cached)
    assert compilations.cache_folder() is None


def test_the_number_of_native_threads_is_unknown_where_the_system_does_not_tell(monkeypatch) -> None:
    def fail(_path: str) -> list[str]:
        raise OSError("no /proc")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fail)
        assert _process.native_threads() is None
    if sys.platform == "linux":
        assert _process.native_threads() >= 1


@pytest.mark.parametrize("eps", [np.float32(1e-3), Fraction(1, 1000), 1])
def test_eps_may_be_any_real_number(eps) -> None:
    assert _checks.eps(eps) == float(eps)
    assert normdrop.BatchNorm(2, eps=eps).eps == float(eps)


def test_warmup_counts_every_kernel_of_every_operation(monkeypatch) -> None:
    """The kernels themselves are compiled by other tests."""
    from normdrop._cpu.toolchain.launch import Kernel

    asked = []
    monkeypatch.setattr(Kernel, "compile", lambda self, *dtypes, parallel: asked.append((self, dtypes, parallel)))
    dtypes = ["float32", "float16"]
    assert normdrop.warmup(dtypes=dtypes, parallel=False) == len(asked) == len(set(asked))
    assert {kernel.function.__name__ for kernel, _, _ in asked} >= {
        "dropout", "keep_mask", "mask_elements", "batch_norm_in_blocks", "update_running", "inference_vectors",
    }  # fmt: skip
    assert not any(parallel for _, _, parallel in asked)
    with pytest.raises(TypeError, match="dtypes must be"):
        normdrop.warmup("dropout", "no such type")


@pytest.mark.parametrize("rich", [True, False])
def test_warmup_shows_its_progress_if_rich_is_there_and_works_if_not(monkeypatch, rich) -> None:
    from normdrop._cpu.toolchain.launch import Kernel

    monkeypatch.setattr(Kernel, "compile", lambda self, *dtypes, parallel: None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    assert normdrop.warmup("dropout", parallel=False, progress=True) > 0
    assert ("compiling kernels" in sys.stderr.getvalue()) == rich


def test_layers_and_streams_say_what_they_are() -> None:
    stream = normdrop.MaskStream.from_key((1, 2), 3)
    assert repr(stream) == "MaskStream(key=(1, 2), call=3)"
    options = "scaling='inverted', rng=MaskStream(key=(1, 2), call=3), training=True)"
    assert repr(normdrop.Dropout(0.25, shared_axes=(1,), rng=stream)) == f"Dropout(p=0.25, shared_axes=(1,), {options}"
    assert repr(normdrop.Dropout2d(0.5, rng=stream)) == f"Dropout2d(p=0.5, channel_axis=1, {options}"
    assert normdrop.Dropout(0.5, scaling="original").scaling == "original"
    assert normdrop.BatchNorm(7).num_features == 7


def test_a_stream_for_initial_parameters_gives_one_call_to_them() -> None:
    stream = normdrop.MaskStream.from_key((1, 2), 3)
    gamma = normdrop.BatchNorm(4, gamma_init="uniform", rng=stream).gamma
    assert stream.call == 4
    again = normdrop.BatchNorm(4, gamma_init="uniform", rng=normdrop.MaskStream.from_key((1, 2), 3)).gamma
    assert np.array_equal(gamma, again)


@pytest.mark.jit
@pytest.mark.parametrize(("lanes", "number"), [(1.0, 1), (np.float32(1.0), 1.0), (np.float32(1.0), np.float32(1.0))])
def test_vectors_mix_with_no_numbers_but_float64_ones_with_float64(lanes, number) -> None:
    import numba

    from normdrop._cpu.lanes.simd import splat, sum_lanes, widen
    from normdrop._cpu.toolchain.launch import helper

    @helper
    def mixed(x, y):
        return sum_lanes(widen(splat(x) + y))

    with pytest.raises(numba.TypingError):
        mixed(lanes, number)


@pytest.fixture
def uncached(monkeypatch) -> list[str]:
    """Let every attempt at a cache fail, and list the kernels that were compiled all the same."""
    from normdrop._cpu.toolchain import numba_internals

    tried: list[str] = []

    def cached(function, signature, **options) -> None:
        tried.append(function.__name__)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba_internals, "cached", cached)
    return tried


@pytest.mark.jit
def test_a_kernel_that_cannot_be_cached_is_compiled_all_the_same(uncached) -> None:
    from normdrop._cpu.kernels import per_channel
    from normdrop._cpu.toolchain import launch

    kernel = launch.Kernel(per_channel.inference_vectors.function, "Pwwwwf")
    vectors, given = np.empty((4, 2)), np.array([[1.0, 2.0], [3.0, 8.0], [2.0, 3.0], [5.0, 6.0]])
    kernel.variant(np.dtype(np.float64), 0, given.dtype)(vectors, *given, 1.0)
    assert len(uncached) == 1
    assert np.array_equal(vectors, [[1, 2], [1, 1], [5, 6], [0.5, 1 / 3]])


@pytest.mark.jit
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_without_instructions_for_float16_give_the_same_bits(monkeypatch, uncached, dtype) -> None:
    """The same kernel, generated in this process for a processor that cannot convert."""
    from normdrop._cpu import launchers
    from normdrop._cpu.kernels import given_masks
    from normdrop._cpu.lanes import half
    from normdrop._cpu.toolchain import launch

    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    x = np.arange(1 << 16, dtype=np.uint16).view(kind)[: 100 * 655].copy()
    mask = np.arange(655) % 3 != 0
    expected = np.empty_like(x)
    launchers.apply_mask(expected.reshape(655, 1, 100), x.reshape(655, 1, 100), np.repeat(mask[:, None], 100, 1), 0.5)
    monkeypatch.setattr(half.target, "has_half_instructions", lambda: False)
    fresh = launch.Kernel(given_masks.mask_planes.function, given_masks.mask_planes.arguments)
    y = np.full_like(x, 7)
    fresh.variant(kind, x.size)(half.stored(y), half.stored(x), mask, 100, 0.5)
    assert uncached
    with np.errstate(invalid="ignore"):
        nan = np.isnan(expected)
        assert np.array_equal(np.isnan(y), nan)
    assert np.array_equal(y.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


def test_channels_larger_than_the_caches_or_too_few_for_the_threads_are_computed_in_blocks() -> None:
    from normdrop._cpu import launchers

    def name(shape: tuple[int, ...]) -> str:
        return str(launchers._plan("batch_norm", shape, 4)[0].function.__name__)

    assert name((1, 1000, 2_000_000)) == "batch_norm_in_blocks"
    assert name((2, 1, 100_000)) == "batch_norm_in_blocks"
    assert name((2, 1, 100)) == name((2, 100_000, 100)) == "batch_norm"


def test_a_child_of_a_seeded_process_goes_on_with_its_keys() -> None:
    normdrop.seed(3)
    root = _seeding._default_source._root
    _seeding._default_source.after_fork()
    assert _seeding._default_source._root is root
    normdrop.seed(None)


def test_the_description_of_this_machine_names_a_processor_a_width_and_a_folder() -> None:
    from normdrop._cpu import compilations
    from normdrop._cpu.toolchain import target

    assert target.cpu_name()
    assert target.vector_width() in (128, 256, 512)
    assert os.path.isabs(compilations.cache_folder() or "/")


@pytest.mark.parametrize("dtype", [None, "int32", ">f4"])
def test_warmup_refuses_dtypes_that_inputs_cannot_have(dtype) -> None:
    with pytest.raises(TypeError, match="dtypes must be float32"):
        normdrop.warmup("dropout", dtype)


def test_locks_are_held_over_a_fork_and_free_after_it(monkeypatch) -> None:
    lock = threading.RLock()
    monkeypatch.setattr(_process, "_locks", [])
    _process.wait_before_fork(lock)

    def is_free() -> bool:
        found: list[bool] = []
        other = threading.Thread(target=lambda: found.append(lock.acquire(timeout=0.01) and lock.release() is None))
        other.start()
        other.join()
        return found[0]

    assert is_free()
    _process._before_fork()
    assert not is_free()
    _process._let_go()
    assert is_free()


@pytest.mark.jit
def test_a_kernel_is_loaded_if_whole_and_compiled_if_damaged(monkeypatch, tmp_path) -> None:
    from normdrop._cpu.toolchain import launch

    monkeypatch.setattr(launch.config, "CACHE_DIR", str(tmp_path))
    drawn = importlib.import_module("normdrop._cpu.kernels.drawn_masks").keep_mask

    def hits() -> int:
        compiled = launch.Kernel(drawn.function, drawn.arguments).compile(np.dtype(bool), parallel=False)
        return sum(compiled.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1]
    (data,) = tmp_path.rglob("*.nbc")
    for damage in (lambda content: content[:-1], lambda content: bytes(32) + content[32:]):
        data.write_bytes(damage(data.read_bytes()))
        assert [hits(), hits()] == [0, 1]
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(b"no pickle")
    assert [hits(), hits()] == [0, 1]
    index.unlink()
    index.mkdir()
    assert [hits(), hits()] == [0, 0]
