"""Threads do not change a fused pass (laws 2.3 and 2.6): serial and parallel variants, any number of workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normdrop import _cpu, _reference
from normdrop._cpu import fused
from normdrop._cpu.toolchain import launch
from normdrop._steps import Steps

from .test_fused_bits import arrays, drawn

pytestmark = [pytest.mark.jit, pytest.mark.kinds]

# Planes in one go, some of them at once, and in blocks; joined rows, wide ones, and such as go side by side.
SHAPES = [(2, 40, 900), (30, 80, 33), (2, 3, 12_001), (23_000, 3, 1), (70, 1030, 1), (3, 30_001, 1)]


def results(shape: Any, steps: Steps) -> list[bytes]:
    """What all launchers with batch norm make of one input."""
    x, r, dy = arrays(shape, np.dtype(np.float32), 3)
    gamma, beta = np.random.default_rng(0).normal(size=(2, shape[1])).astype(np.float32)
    y, dx, du = np.full((3, *shape), np.nan, np.float32)
    statistics, sums = np.empty((3, shape[1])), np.empty((2, shape[1]))
    _cpu.batch_norm_act(y, (x, r), statistics, (gamma, beta), 1e-5, steps)
    _cpu.batch_norm_act_backward((dx, du), (dy, x, r), sums, statistics, (gamma, beta), steps)
    made = [a.tobytes() for a in (y, statistics, dx, du, sums)]
    vectors = np.stack([statistics[0], gamma * statistics[2], beta])
    for launcher, arguments in ((_cpu.normalize_act, ()), (_cpu.act_gradient, (dy,))):
        launcher(y, *arguments, (x, r), vectors, steps)
        expected = np.empty_like(y)
        getattr(_reference, launcher.__name__)(expected, *arguments, (x, r), vectors, steps)
        assert y.tobytes() == expected.tobytes()
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_workers_gives_the_bits_of_the_serial_variants(monkeypatch: Any, shape: Any) -> None:
    steps = drawn("relu")
    assert np.prod(shape) >= launch.PARALLEL_SIZE
    with monkeypatch.context() as serial:
        serial.setattr(launch, "PARALLEL_SIZE", 1 << 40)
        expected = results(shape, steps)
    for n_workers in (1, 2, 5, 64):
        monkeypatch.setattr(fused, "workers", lambda size, n=n_workers: n)  # whatever the kernel runs on
        assert results(shape, steps) == expected


@pytest.mark.parametrize("n", [65_536, 70_001])
def test_any_number_of_workers_gives_the_bits_of_the_reference_without_channels(monkeypatch: Any, n: int) -> None:
    x, r, y = arrays((n,), np.dtype(np.float32), 3)
    steps, expected = drawn("relu"), np.empty_like(x)
    _reference.act_dropout(expected, (x, r), steps)
    for n_workers in (1, 3, 64):
        monkeypatch.setattr(fused, "workers", lambda size, n=n_workers: n)
        y.fill(np.nan)
        _cpu.act_dropout(y, (x, r), steps)
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(30, 80, 33), (23_000, 3, 1)], ids=str)
def test_given_masks_are_cut_into_pieces_without_a_trace(shape: Any) -> None:
    outer, n_channels, inner = shape
    rng = np.random.default_rng(0)
    for fold in [(inner, 1), (n_channels, inner), (n_channels * inner, 1), (1, inner * n_channels)]:
        mask = rng.random((outer * n_channels * inner // (fold[0] * fold[1]), fold[1])) < 0.5
        results(shape, Steps("relu", scale=2.0, mask=mask, fold=fold))
