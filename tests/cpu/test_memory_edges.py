"""Memory where it is scarce or shared: the pool between threads, workspaces beyond their limit, overlaps."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

import normdrop
from normdrop import _pool, functional

pytestmark = pytest.mark.same


def test_a_block_that_another_thread_took_is_not_taken_twice() -> None:
    class Raided(deque):  # type: ignore[type-arg]
        """Between the look and the grasp, another thread takes everything."""

        def remove(self, block: object) -> None:
            self.clear()
            raise ValueError("not in deque")

        def popleft(self) -> object:
            self.clear()
            raise IndexError("pop from an empty deque")

    pool = _pool._Pool()
    block = _pool._Block(100)
    pool.idle = Raided([block])
    assert pool.take(100) is not block
    assert (pool.recycled, pool.fresh) == (0, 1)
    pool.idle = Raided([_pool._Block(100), _pool._Block(100)])
    pool.limit = 150
    pool.shrink()
    assert pool.idle_bytes() == 0
    pool.give_back(_pool._Block(200))  # larger than the pool may be
    assert pool.idle_bytes() == 0


def test_an_overlap_that_is_too_hard_to_rule_out_is_refused(monkeypatch) -> None:
    def too_hard(*_: object, **__: object) -> bool:
        raise np.exceptions.TooHardError

    memory = np.zeros((4, 10), np.float32)
    x, out = memory[:, :4], memory[:, 5:9]  # beside each other, in the same memory
    assert functional.dropout(x, 0.5, rng=1, out=out)[0] is out
    monkeypatch.setattr(np, "shares_memory", too_hard)
    with pytest.raises(ValueError, match="out overlaps x in memory"):
        functional.dropout(x, 0.5, rng=1, out=out)


def test_workspaces_of_many_shapes_are_let_go_when_they_are_too_much(monkeypatch) -> None:
    from normdrop._cpu.toolchain import scratch

    monkeypatch.setattr(scratch, "_buffers", scratch._Buffers())
    shapes = [(n, 1 << 16) for n in (4, 5, 6, 7)]  # 2 to 3.5 MB each
    for shape in shapes:
        assert scratch.scratch(shape).shape == shape
        assert scratch._buffers.n_bytes <= scratch._LIMIT
    assert shapes[-1] in scratch._buffers.by_shape
    assert shapes[0] not in scratch._buffers.by_shape
    assert scratch.scratch(shapes[-1]) is scratch.scratch(shapes[-1])


def test_running_statistics_may_lie_anywhere_in_memory() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (9, 4)).astype(np.float32)
    layer, plain = normdrop.BatchNorm(4), normdrop.BatchNorm(4)
    layer.running_mean = np.zeros(8)[::2]
    layer.running_var = np.ones(4)[::-1]
    for _ in range(2):
        assert np.array_equal(layer(x), plain(x))
    assert np.array_equal(layer.running_mean, plain.running_mean)
    assert np.array_equal(layer.running_var, plain.running_var)


def test_the_limit_of_the_pool_is_given_back_and_can_be_restored() -> None:
    before = normdrop.set_pool_limit(12345)
    try:
        assert normdrop.pool_info().limit == 12345
    finally:
        assert normdrop.set_pool_limit(before) == 12345


def test_a_workspace_larger_than_the_limit_is_not_kept(monkeypatch) -> None:
    from normdrop._cpu.toolchain import scratch

    monkeypatch.setattr(scratch, "_buffers", scratch._Buffers())
    large = (scratch._LIMIT // 8 + 1,)
    assert scratch.scratch(large).shape == large
    assert scratch._buffers.by_shape == {}


def test_an_output_that_outlives_the_pool_at_the_end_of_the_interpreter_is_no_error(monkeypatch) -> None:
    pool = _pool._Pool()
    block = pool.take(64)
    lease = _pool._Lease(block)
    monkeypatch.setattr(_pool, "_pool", None)
    lease.__del__()
    assert pool.idle_bytes() == 0


def test_the_pool_gives_only_memory_of_the_right_size() -> None:
    pool = _pool._Pool()
    small, large = pool.take(64), pool.take(128)
    pool.give_back(small)
    pool.give_back(large)
    assert pool.take(128) is large
    assert pool.take(256) is not small
    assert pool.idle_bytes() == 64
