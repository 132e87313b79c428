"""Kernels for GPUs: the launchers of the reference with their bits or bounds."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from normdrop import _reference

pytestmark = pytest.mark.simulated

DTYPES = ["float32", "float64", "float16", "bfloat16"]
BOUNDS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 1e-6, "float64": 1e-12}
SHAPES = [(5, 3, 1), (4, 3, 7), (3, 2, 40), (1, 1, 100), (33, 1, 1), (2, 9, 1), (2, 3, 17), (3, 2, 16)]


def dtype_of(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(dtype)


@pytest.fixture
def cuda():
    """The launchers for GPUs, on NumPy arrays."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    return importlib.import_module("cuda_on_host")


def both(name, cuda, arguments):
    """Run a launcher of the reference and of CUDA on copies of arguments, and return the copies."""
    results = []
    for backend in (_reference, cuda):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        assert getattr(backend, name)(*copies) is None
        results.append(copies)
    return results


@pytest.mark.cuda
def test_the_parameters_are_those_of_the_reference():
    from normdrop import _cpu, _cuda

    assert _cuda.__all__ == _cpu.__all__
    for launcher in _cuda.__all__:
        ours, theirs = (inspect.signature(getattr(module, launcher)) for module in (_cuda, _reference))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]
        assert getattr(_cuda, launcher).__doc__


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 127, 128, 131, 300])
def test_dropout_has_the_bits_of_the_reference(cuda, size, dtype):
    x = random(size, dtype=dtype_of(dtype))
    expected, computed = both("dropout", cuda, [np.empty_like(x), x, (1, 2), 2**40 + 3, 1 << 30, 4 / 3])
    assert computed[0].tobytes() == expected[0].tobytes()


@pytest.mark.cuda
@pytest.mark.parametrize("threshold", [1, 0x8000, 0x4000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("first", [0, 5, 128, 2**33 + 77])
def test_masks_have_the_bits_of_the_reference(cuda, first, threshold):
    expected, computed = both("keep_mask", cuda, [np.empty(150, np.bool_), (2**32 - 1, 7), 2**62, threshold, first])
    assert computed[0].tobytes() == expected[0].tobytes()


@pytest.mark.cuda
def test_a_tie_of_the_upper_halves_is_decided_by_the_lower(cuda):
    """The threshold's upper half is that of an element, found with the reference; so its lower half decides."""
    key, call, size = (5, 6), 1, 256
    low, high = 0, 1 << 32
    while high - low > 1:  # the least threshold that drops element 200
        middle = (low + high) // 2
        mask = np.empty(1, np.bool_)
        _reference.keep_mask(mask, key, call, middle, 200)
        low, high = (middle, high) if mask[0] else (low, middle)
    for threshold, kept in ((low, True), (high, False)):
        expected, computed = both("keep_mask", cuda, [np.empty(size, np.bool_), key, call, threshold])
        assert computed[0].tobytes() == expected[0].tobytes()
        assert bool(computed[0][200]) is kept


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 5, 7), (1, 40, 3), (2, 3, 33), (1, 1, 1)], ids=str)
def test_transposed_dropout_has_the_bits_of_the_reference(cuda, shape, dtype):
    x = random(*shape, dtype=dtype_of(dtype))
    expected, computed = both("dropout_transposed", cuda, [np.empty_like(x), x, (1, 2), 3, 1 << 30, 4 / 3])
    assert computed[0].tobytes() == expected[0].tobytes()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 90), (7, 5, 1), (3, 4, 5), (2, 70, 1), (2, 3, 16)], ids=str)
def test_given_masks_give_the_bits_of_the_reference(cuda, shape, dtype):
    x = random(*shape, dtype=dtype_of(dtype))
    x.reshape(-1)[::5] = np.nan
    mask = np.random.default_rng(1).random((shape[0], shape[2])) < 0.5
    mask[:, ::3] = False
    expected, computed = both("apply_mask", cuda, [np.empty_like(x), x, mask, 4 / 3])
    dropped = ~np.broadcast_to(mask[:, None, :], shape)
    assert computed[0][dropped].tobytes() == expected[0][dropped].tobytes() == bytes(x.itemsize * dropped.sum())
    wide = [a[0][~dropped].astype(np.float64) for a in (computed, expected)]
    assert np.array_equal(*wide, equal_nan=True)


@pytest.mark.cuda
@pytest.mark.parametrize("outlier", [0.0, 1000.0])
@pytest.mark.parametrize("shape", [(200, 3, 1), (40, 3, 7), (3, 1, 4100), (1, 1, 8200)], ids=str)
def test_variances_of_several_parts_lose_nothing_far_from_zero(cuda, shape, outlier):
    x = np.random.default_rng(0).normal(1e14, 1.0, shape)
    x[0, :, 0] += outlier
    expected, computed = (made[0] for made in both("moments", cuda, [np.zeros((3, shape[1])), x]))
    np.testing.assert_allclose(computed[0], expected[0], rtol=1e-15)
    np.testing.assert_allclose(computed[1], expected[1], rtol=1e-9 if outlier else 1e-12)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_that_of_the_reference(cuda, shape, dtype):
    x, dy = (random(*shape, dtype=dtype_of(dtype), seed=seed) for seed in (0, 1))
    n_channels, bound = shape[1], BOUNDS[dtype]
    statistics, affine = random(3, n_channels), random(2, n_channels, seed=3)

    def close(computed, expected, bound):
        wide = computed.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(*wide, rtol=bound, atol=bound)

    expected, computed = both("moments", cuda, [statistics, x])
    close(computed[0], expected[0], 1e-12)
    assert computed[0][2].tobytes() == statistics[2].tobytes()
    expected, computed = both("batch_norm", cuda, [np.empty_like(x), x, statistics, *affine, 1e-5])
    close(computed[0], expected[0], bound)
    close(computed[2], expected[2], 1e-12)
    statistics = expected[2]
    arguments = [np.empty_like(x), dy, x, random(2, n_channels), statistics, affine[0].copy()]
    expected, computed = both("batch_norm_backward", cuda, arguments)
    close(computed[0], expected[0], bound)
    close(computed[3], expected[3], 1e-11)
    sums = both("parameter_gradients", cuda, [random(2, n_channels), dy, x, statistics])
    close(sums[1][0], sums[0][0], 1e-11)
    vectors = both("inference_vectors", cuda, [random(4, n_channels), *abs(random(4, n_channels)), 1e-5])
    close(vectors[1][0], vectors[0][0], 1e-14)


@pytest.mark.cuda
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_running_statistics_are_those_of_the_reference(cuda, momentum):
    mean, var = random(2, 5, dtype=np.float32)
    expected, computed = both("update_running", cuda, [mean, var, abs(random(3, 5)), momentum, 1.25])
    for i in range(2):
        np.testing.assert_allclose(computed[i], expected[i], rtol=1e-7)


@pytest.fixture
def small_parts(monkeypatch):
    """Let blocks sum few values each, so that small arrays have several parts."""
    module = importlib.import_module("normdrop._cuda.launchers")
    monkeypatch.setattr(importlib.import_module("normdrop._cuda.moments"), "PART", 64)
    module._plan.cache_clear()
    yield
    module._plan.cache_clear()


@pytest.mark.cuda
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("shape", [(300, 3, 1), (1, 2, 300), (6, 2, 50), (2, 2, 100), (200, 1, 2)], ids=str)
def test_a_mean_far_from_zero_costs_no_digits_over_several_parts(cuda, shape):
    x = np.random.default_rng(0).normal(300, 0.1, shape).astype(np.float32)
    statistics = np.empty((3, shape[1]))
    cuda.moments(statistics, x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(statistics[0], exact.mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(statistics[1], exact.var(axis=(0, 2)), rtol=1e-9)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(40, 3, 1), (4, 3, 18)], ids=str)
def test_constant_and_broken_channels_keep_to_themselves(cuda, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[:, 0], x[1, 2, 0] = 0.1, np.nan
    y, statistics = np.empty_like(x), np.empty((3, 3))
    affine = np.array([[2.0, 2.0, 2.0], [0.7, 0.7, 0.7]])
    cuda.batch_norm(y, x, statistics, *affine, 1e-5)
    assert np.all(y[:, 0] == np.float32(0.7))
    assert np.isfinite(y[:, 1]).all()
    assert np.isnan(y[:, 2]).all()


@pytest.mark.cuda
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("shape", [(300, 5, 1), (3, 2, 150)], ids=str)
def test_sums_have_the_same_bits_however_many_blocks_run(cuda, shape, monkeypatch):
    from normdrop._cuda import launch

    x = random(*shape, dtype=np.float32)
    results = []
    for most in (1, 2, 3):
        monkeypatch.setattr(launch, "_MOST_BLOCKS", most)
        statistics = np.empty((3, shape[1]))
        cuda.moments(statistics, x)
        results.append(statistics[:2].tobytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.cuda
def test_a_kernel_is_configured_once_per_grid_and_stream_and_warns_of_nothing(monkeypatch):
    from normdrop._cuda import launch

    configured, started = [], []

    class Compiled:
        def __getitem__(self, configuration):
            warnings.warn("Grid size will likely result in GPU under-utilization", UserWarning, stacklevel=1)
            configured.append(configuration)
            return lambda *arguments: started.append((configuration, arguments))

    array = SimpleNamespace(address=0, device=0, stream=0)
    kernel = launch.Kernel(lambda y: None, "x")
    monkeypatch.setattr(kernel, "compile", lambda dtype: Compiled())
    monkeypatch.setattr(launch, "SIMULATED", False)
    monkeypatch.setattr(launch, "current_device", lambda: 0)
    monkeypatch.setattr(launch, "_bound", lambda argument, letter: letter)
    for blocks in (1, 2, 1, 0):
        kernel(np.dtype(np.float32), blocks, array)
    assert configured == [(1, launch.THREADS, 0), (2, launch.THREADS, 0)]
    assert [configuration[0] for configuration, _ in started] == [1, 2, 1, 1]


@pytest.mark.cuda
def test_what_is_new_is_bound_to_the_stream_of_what_came_in(monkeypatch):
    from normdrop._cuda import kinds, launch

    made, device_array = [], launch.cuda.device_array

    def noted(*arguments, **options):
        made.extend([options.pop("stream")] if "stream" in options else [])
        return device_array(*arguments, **options)

    monkeypatch.setattr(launch, "_stream", lambda pointer: f"stream {pointer}")
    monkeypatch.setattr(launch.cuda, "device_array", noted)
    x = kinds.NumbaKind(0, 7).empty((3,), np.dtype(np.float32), (0,))
    assert x.copy().stream == 7
    assert made == ["stream 7", "stream 7"]


@pytest.mark.gpu
def test_large_arrays_on_a_gpu(cuda):
    for shape in ((64, 32, 56, 56), (100_000, 64)):
        x = np.random.default_rng(0).normal(300, 0.1, shape).astype(np.float32)
        from normdrop import _device, functional

        d = _device.to_device(x)
        y = _device.to_host(functional.dropout(d, 0.3, rng=1)[0])
        assert y.tobytes() == functional.dropout(x, 0.3, rng=1)[0].tobytes()
        first, again = (functional.batch_norm(d) for _ in range(2))
        assert _device.to_host(first[1].statistics).tobytes() == _device.to_host(again[1].statistics).tobytes()
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        exact = x.astype(np.float64).var(axis=axes)
        np.testing.assert_allclose(_device.to_host(first[1].var), exact, rtol=1e-6)


def test_without_a_gpu_moving_there_is_one_error_that_says_what_is_missing(in_subprocess):
    code = """
    import numpy as np
    import normdrop

    layer = normdrop.BatchNorm(3)
    try:
        layer.to_device()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
    else:
        print("a GPU")
    assert type(layer.gamma) is np.ndarray
    """
    said = in_subprocess(code, NUMBA_ENABLE_CUDASIM="0")
    assert said.startswith(("normdrop cannot use a GPU here: it needs an NVIDIA GPU", "arrays on a GPU need", "a GPU"))
