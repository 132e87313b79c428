"""Memory of large outputs is used again, but never while anybody looks at it (law 2.7, docs/how-to/buffers.md)."""

import gc
import pickle
import threading

import numpy as np
import pytest

import normdrop
from normdrop import _pool, functional

pytestmark = [pytest.mark.jit, pytest.mark.once]  # so large arrays take too long without

SHAPE = (512, 1024)  # float32: 2 MiB
N_BYTES = 4 * 512 * 1024


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """What other tests have made is not looked at again in each collection here, which takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fresh_pool(monkeypatch):
    gc.collect()
    pool = _pool._Pool()
    monkeypatch.setattr(_pool, "_pool", pool)
    return pool


def forward(seed=0):
    x = np.random.default_rng(seed).standard_normal(SHAPE, np.float32)
    return functional.dropout(x, 0.5, rng=seed)[0]


def address(y):
    return y.__array_interface__["data"][0]


def test_the_memory_of_an_output_that_is_gone_is_used_again():
    first = address(forward())
    assert normdrop.pool_info().idle == N_BYTES
    assert address(forward()) == first
    assert normdrop.pool_info() == (1 << 28, N_BYTES, 1, 1)


def test_an_output_that_is_kept_is_not_written_to():
    kept = forward(1)
    copy = kept.copy()
    for seed in range(2, 6):
        assert not np.shares_memory(forward(seed), kept)
    assert np.array_equal(kept, copy)


@pytest.mark.parametrize(
    "look",
    [
        lambda y: y[3:5],
        lambda y: y.T,
        lambda y: y.reshape(-1)[::7],
        lambda y: y.view(np.uint8),
        lambda y: np.asarray(memoryview(y)),
        lambda y: np.frombuffer(y.data, np.float32),
        lambda y: y.view(np.matrix),
        lambda y: np.lib.stride_tricks.as_strided(y, (2, 2), (4, 4)),
        lambda y: np.broadcast_to(y, (2, *y.shape)),
    ],
)
def test_any_view_keeps_the_memory_from_being_used_again(look):
    view = look(forward(1))
    gc.collect()
    copy = np.array(view)
    assert normdrop.pool_info().idle == 0
    others = [forward(seed) for seed in range(2, 5)]
    assert np.array_equal(view, copy, equal_nan=view.dtype.kind == "f")
    del view
    gc.collect()
    assert normdrop.pool_info().idle == N_BYTES
    del others


def test_two_outputs_alive_at_once_never_share_memory():
    outputs = [forward(seed) for seed in range(8)]
    del outputs[::2]
    outputs += [forward(seed) for seed in range(8)]
    for i, a in enumerate(outputs):
        assert not any(np.shares_memory(a, b) for b in outputs[:i])


def test_idle_memory_is_bounded_in_bytes_and_blocks():
    normdrop.set_pool_limit(3 * N_BYTES)
    outputs = [forward(seed) for seed in range(6)]
    outputs.clear()
    assert normdrop.pool_info().idle == 3 * N_BYTES
    normdrop.set_pool_limit(N_BYTES)
    assert normdrop.pool_info().idle == N_BYTES
    normdrop.set_pool_limit(1 << 30)
    outputs = [_pool.empty((1 << 20,), np.dtype(np.uint8)) for _ in range(40)]
    outputs.clear()
    assert normdrop.pool_info().idle <= 16 * N_BYTES


def test_a_limit_of_zero_turns_the_pool_off():
    assert normdrop.set_pool_limit(0) == 1 << 28
    y = forward()
    assert y.flags.owndata
    del y
    assert normdrop.pool_info() == (0, 0, 0, 0)


def test_small_outputs_and_outputs_with_out_leave_the_pool_alone():
    x, out = np.ones(SHAPE, np.float32), np.empty(SHAPE, np.float32)
    functional.dropout(x, 0.5, rng=0, out=out)
    functional.dropout(x[:100], 0.5, rng=0)
    assert normdrop.pool_info() == (1 << 28, 0, 0, 0)


def test_outputs_of_the_pool_are_aligned_to_cache_lines_and_of_any_order_and_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        for order in ("C", "F"):
            x = np.ones((1000, 1100), dtype, order=order)
            y, _ = functional.dropout(x, 0.25, rng=0)
            assert y.dtype == dtype
            assert y.strides == x.strides
            assert address(y) % 64 == 0
            assert y.flags.writeable
    assert np.array_equal(pickle.loads(pickle.dumps(y)), y)


def test_blocks_that_come_back_in_several_threads_are_all_there():
    results = []
    threads = [threading.Thread(target=check, args=(seed, results)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80
    info = normdrop.pool_info()
    assert info.recycled + info.fresh == 160
    assert info.idle <= 16 * N_BYTES


def check(seed, results):
    """Draw one mask twice; both outputs are alive at once, others come and go in other threads."""
    x = np.random.default_rng(seed).standard_normal(SHAPE, np.float32)
    for _ in range(20):
        y, z = functional.dropout(x, 0.5, rng=seed)[0], functional.dropout(x, 0.5, rng=seed)[0]
        results.append(np.array_equal(y, z) and not np.shares_memory(y, z))
        del y, z


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)])
def test_a_limit_that_is_none_is_refused_by_name(value, error):
    with pytest.raises(error, match="n_bytes"):
        normdrop.set_pool_limit(value)
    assert normdrop.pool_info().limit == 1 << 28
