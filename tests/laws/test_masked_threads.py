"""Threads do not change a pass in which not all positions count: serial and parallel variants give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normdrop import _cpu, _positions
from normdrop._cpu.toolchain import launch

pytestmark = [pytest.mark.jit, pytest.mark.once]

# Planes in one go and in blocks, of which some have nothing that counts; joined rows, wide ones, and several tiles.
SHAPES = [(2, 40, 900), (30, 80, 33), (2, 3, 50_001), (23_000, 3, 1), (70, 1030, 1), (700, 130, 1)]


def results(shape: Any, others: str, *, weighted: bool) -> list[bytes]:
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3.0, 2.0, (2, *shape)).astype(np.float32)
    mask, weights = rng.random(shape[0] * shape[2]) < 0.6, rng.random(shape[0] * shape[2]).astype(np.float32)
    mask[: 20_000 if mask.size > 90_000 else 0] = False
    where = _positions.of(mask, weights if weighted else None, others, like=x)
    y, dx, z = np.full((3, *shape), np.nan, np.float32)
    statistics, sums = np.ones((3, shape[1])), np.empty((2, shape[1]))
    gamma, beta = rng.normal(size=(2, shape[1])).astype(np.float32)
    _cpu.masked_batch_norm(y, x, statistics, gamma, beta, 1e-5, where)
    _cpu.masked_batch_norm_backward(dx, dy, x, sums, statistics, gamma, where)
    _cpu.masked_normalize(z, x, statistics, where)
    return [a.tobytes() for a in (y, statistics, dx, sums, z)]


@pytest.mark.parametrize("others", ["zero", "normalize", "keep"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads_gives_the_bits_of_the_serial_variants(monkeypatch: Any, shape: Any, others: str) -> None:
    assert np.prod(shape) >= launch.PARALLEL_SIZE
    for weighted in (False, True):
        parallel = results(shape, others, weighted=weighted)
        with monkeypatch.context() as serial:
            serial.setattr(launch, "PARALLEL_SIZE", 1 << 40)
            assert results(shape, others, weighted=weighted) == parallel
