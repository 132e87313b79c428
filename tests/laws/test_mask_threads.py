"""Threads do not change a mask (laws 2.3 and 2.6): serial and parallel variants, any number of threads."""

from __future__ import annotations

import hashlib
import importlib

import numpy as np
import pytest

from normdrop import MaskStream, _reference, functional
from normdrop._cpu.kernels import given_masks

pytestmark = [pytest.mark.jit, pytest.mark.kinds]

KEY, CALL, THRESHOLD = (0x9E6C63D0, 0x1B56C4E9), 2**40 + 12345, round(0.3 * 2**32)
# (outer, shared, length): rows shorter than a vector, as long, a little and much longer, images shorter than one, and
# arrays large enough to be streamed and asked for ahead.
FOLDED = [
    (300, 11, 31), (3, 20_001, 1), (1, 1, 50_000), (50_001, 2, 1), (2, 3, 17_000), (40, 300, 5), (9, 700, 15),
    (5, 600, 16), (5, 600, 17), (3001, 2, 3), (7, 90, 100), (2, 60_001, 33), (2, 300_001, 7), (1, 1, 4_000_003),
]  # fmt: skip
SIZES = [1, 127, 128, 129, 128 * 128 - 1, 128 * 128 + 1, 100_003]


def kernels_of_dropout():
    return importlib.import_module("normdrop._cpu.kernels.drawn_masks")


def expected_mask(n, first=0):
    mask = np.empty(n, np.bool_)
    _reference.keep_mask(mask, KEY, CALL, THRESHOLD, first)
    return mask


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_serial_and_parallel_dropout_are_the_law(parallel, dtype):
    compiled = kernels_of_dropout().dropout.compile(np.dtype(dtype), parallel=parallel)
    for n in SIZES:
        x = np.arange(1, n + 1).astype(dtype)
        y = np.full(n, np.nan, dtype)
        compiled(y, x, *KEY, CALL, THRESHOLD, 2.0)
        assert np.array_equal(y, np.where(expected_mask(n), 2 * x, 0))


@pytest.mark.parametrize("parallel", [False, True])
def test_serial_and_parallel_masks_are_the_law(parallel):
    compiled = kernels_of_dropout().keep_mask.compile(np.dtype(np.bool_), parallel=parallel)
    for n in SIZES:
        for first in (0, 1, 127, 2**35 - 5):
            mask = np.empty(n, np.bool_)
            compiled(mask, *KEY, CALL, THRESHOLD, first)
            assert np.array_equal(mask, expected_mask(n, first))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("folded", FOLDED)
def test_serial_and_parallel_application_of_a_mask_agree(parallel, dtype, folded):
    n_outer, n_shared, length = folded
    x = np.random.default_rng(0).normal(size=folded).astype(dtype)
    mask = expected_mask(n_outer * length)
    y = np.full(x.size, np.nan, dtype)
    elements = given_masks.mask_elements.compile(np.dtype(dtype), parallel=parallel)
    elements(y, x.reshape(-1), mask, n_shared, length, 2.0)
    expected = np.where(mask.reshape(n_outer, 1, length), 2 * x, 0).astype(dtype)
    assert np.array_equal(y.reshape(folded), expected)
    if length == 1:
        y.fill(np.nan)
        planes = given_masks.mask_planes.compile(np.dtype(dtype), parallel=parallel)
        planes(y, x.reshape(-1), mask, n_shared, 2.0)
        assert np.array_equal(y.reshape(folded), expected)


@pytest.mark.parametrize("shared_axes", [(), (1,), (0, 2)])
def test_any_number_of_threads_gives_the_same_bits(shared_axes):
    import numba

    from normdrop._cpu.toolchain import launch

    x = np.random.default_rng(0).normal(size=(37, 50, 71)).astype(np.float32)
    assert x.size > launch.PARALLEL_SIZE
    results = []
    for n_threads in range(1, min(numba.config.NUMBA_NUM_THREADS, 4) + 1):
        before = numba.get_num_threads()
        numba.set_num_threads(n_threads)
        try:
            stream = MaskStream.from_key(KEY, CALL)
            y, context, mask = functional.dropout(x, 0.3, shared_axes=shared_axes, rng=stream, return_mask=True)
            results.append((y, mask, functional.dropout_backward(x, context)))
        finally:
            numba.set_num_threads(before)
    expected = expected_mask(results[0][1].size).reshape(results[0][1].shape)
    for y, mask, dx in results:
        assert np.array_equal(mask, expected)
        assert np.array_equal(y, results[0][0])
        assert np.array_equal(dx, y)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_process_with_any_number_of_threads_gives_the_same_bits(in_subprocess, n_threads):
    code = """
        import hashlib
        import numpy as np
        from normdrop import functional

        x = np.arange(1, 200_001, dtype=np.float32)
        print(hashlib.sha256(functional.dropout(x, 0.3, rng=5)[0].tobytes()).hexdigest())
    """
    x = np.arange(1, 200_001, dtype=np.float32)
    mask = np.empty(x.size, np.bool_)
    _reference.keep_mask(mask, MaskStream(5).key, 0, THRESHOLD)
    expected = np.where(mask, x * np.float32(1 / (1 - THRESHOLD / 2**32)), np.float32(0))
    digest = hashlib.sha256(expected.tobytes()).hexdigest()
    assert in_subprocess(code, NUMBA_NUM_THREADS=str(n_threads)).strip() == digest
