"""With the JIT off: the branches of kernels that only large arrays reach, with what is large made small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import _cpu, _pool, _reference, functional
from normdrop._cpu import fused, launchers
from normdrop._cpu.kernels import (
    columns,
    drawn_masks,
    elementwise_rows,
    fused_planes,
    fused_rows,
    given_masks,
    mask_pieces,
    plane_sums,
    planes,
    row_sums,
    rows,
    transposed,
)
from normdrop._cpu.lanes import streaming
from normdrop._steps import Steps

from ..conftest import WITHOUT_JIT

pytestmark = [pytest.mark.skipif(not WITHOUT_JIT, reason="compiled kernels hold their constants"), pytest.mark.same]

CLOSE = {"rtol": 2e-7, "atol": 1e-9}


@pytest.fixture(params=[32, 1 << 30], ids=["long runs", "short runs"])
def small(request, monkeypatch) -> Any:
    """Make everything large: streamed, wide, in blocks, in several tasks."""
    modules = {
        module.__name__.rpartition(".")[2]: module
        for module in (
            columns, drawn_masks, elementwise_rows, fused, fused_planes, fused_rows, given_masks, launchers,
            mask_pieces, planes, plane_sums, rows, row_sums, streaming, transposed,
        )
    }  # fmt: skip
    limits = {
        "READ_ONCE": 0, "READ_AGAIN": 0, "LONG": request.param, "FAR": 0, "SHORT_SPAN": 32, "CHUNK": 200, "STRIP": 64,
        "SIDE_BY_SIDE": 200, "SIDE_BY_SIDE_STREAMED": 280, "PLANE_BLOCK": 64, "ROW_BLOCK": 256, "MIN_ROWS": 16,
        "MASK_PIECE": 256, "PARALLEL_SIZE": 0,
    }  # fmt: skip
    for module in modules.values():
        for name in limits.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, limits[name])
    for name in ("rows", "fused_rows"):
        monkeypatch.setattr(modules[name], "CHUNK", 600)
    monkeypatch.setattr(fused, "workers", lambda size: 3)
    monkeypatch.setattr(fused, "_kernels", {})  # what is fused has copies of the limits
    launchers._plan.cache_clear()
    yield modules
    monkeypatch.undo()
    launchers._plan.cache_clear()


def _placed(values, first, fill=None):
    """The values, `first` elements behind an aligned address."""
    memory = np.empty(values.size + first + 16, values.dtype)[first : first + values.size].reshape(values.shape)
    memory[...] = values if fill is None else fill
    return memory


@pytest.mark.parametrize("one_go", [True, False])
@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [(3, 2, 700), (5, 3, 17), (2, 40, 33), (3, 37, 16), (2, 19, 130), (300, 5), (100, 70), (101, 96), (2, 33, 3)],
    ids=str,
)
def test_batch_norm_of_what_counts_as_large_is_that_of_the_reference(small, monkeypatch, shape, dtype, first, one_go):
    monkeypatch.setattr(small["launchers"], "in_one_go", lambda *_: one_go)
    rng = np.random.default_rng(sum(shape))
    x, dy = (_placed(rng.normal(1.0, 2.0, shape).astype(dtype), first) for _ in range(2))
    folded = (*shape, 1)[:3]
    statistics, sums, affine = np.empty((3, shape[1])), np.empty((2, shape[1])), rng.normal(size=(2, shape[1]))
    y, dx = np.empty(folded, dtype), np.empty(folded, dtype)
    _reference.batch_norm(y, x.reshape(folded), statistics, *affine, 1e-5)
    _reference.batch_norm_backward(dx, dy.reshape(folded), x.reshape(folded), sums, statistics, affine[0])

    got, context = functional.batch_norm(x, *affine, out=_placed(x, first, np.nan))
    np.testing.assert_allclose(got, y.reshape(shape), **CLOSE)
    gradient = functional.batch_norm_backward(dy, context, out=_placed(x, first, np.nan))[0]
    np.testing.assert_allclose(gradient, dx.reshape(shape), **CLOSE)
    inference, _ = functional.batch_norm_inference(x, *statistics[:2], *affine, out=_placed(x, first, np.nan))
    np.testing.assert_allclose(inference, y.reshape(shape), **CLOSE)
    assert functional.batch_norm_backward(dy, context, out=dy)[0].tobytes() == gradient.tobytes()
    assert functional.batch_norm(x, *affine, out=x)[0].tobytes() == got.tobytes()


@pytest.mark.parametrize("one_go", [True, False])
@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("mask", ["none", "drawn", "given"])
@pytest.mark.parametrize(
    "shape",
    [(3, 2, 700), (5, 3, 17), (2, 40, 33), (3, 37, 16), (2, 19, 130), (300, 5, 1), (100, 70, 1), (101, 96, 1)],
    ids=str,
)
def test_fused_passes_of_what_counts_as_large_have_the_bits_of_the_steps(
    small, monkeypatch, shape, mask, first, one_go
):
    monkeypatch.setattr(launchers, "in_one_go", lambda *_: one_go)
    rng = np.random.default_rng(sum(shape))
    x, r, dy = (_placed(rng.normal(1.0, 2.0, shape).astype(np.float32), first) for _ in range(3))
    gamma, beta = rng.normal(size=(2, shape[1]))
    steps = Steps("relu", 0.0, (1 << 30) * (mask == "drawn"), 4 / 3, (1, 2), 3)
    if mask == "given":
        steps = steps._replace(mask=rng.random((shape[0], shape[2])) < 0.5, fold=(shape[1], shape[2]))
    y, expected, dx, du, dx_alone = (_placed(x, first, np.nan) for _ in range(5))
    statistics, sums, sums_alone = np.empty((3, shape[1])), np.empty((2, shape[1])), np.empty((2, shape[1]))
    _cpu.batch_norm_act(y, (x, r), statistics, (gamma, beta), 1e-5, steps)
    _cpu.batch_norm_act_backward((dx, du), (dy, x, r), sums, statistics, (gamma, beta), steps)
    vectors = np.stack([statistics[0], gamma * statistics[2], beta])
    _reference.normalize_act(expected, (x, r), vectors, steps)
    assert y.tobytes() == expected.tobytes()
    _reference.act_gradient(expected, dy, (x, r), vectors, steps)
    assert du.tobytes() == expected.tobytes()
    _cpu.batch_norm_backward(dx_alone, du, x, sums_alone, statistics, gamma)
    assert dx.tobytes() == dx_alone.tobytes()
    assert sums.tobytes() == sums_alone.tobytes()
    _cpu.batch_norm_act_backward((dy, dy), (dy, x, r), sums, statistics, (gamma, beta), steps)
    assert dy.tobytes() == dx.tobytes()
    _cpu.batch_norm_act(x, (x, r), statistics, (gamma, beta), 1e-5, steps)
    assert x.tobytes() == y.tobytes()
    flat = [a.reshape(-1) for a in (y, x, r)]
    for residual in (flat[2], None):
        _cpu.act_dropout(flat[0], (flat[1], residual), steps)
        _reference.act_dropout(expected.reshape(-1), (flat[1], residual), steps)
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("shared_axes", [(), (1,), (2,)])
def test_dropout_of_what_counts_as_large_follows_its_mask(small, first, shared_axes):
    x = _placed(np.random.default_rng(0).normal(size=(3, 40, 70)).astype(np.float32), first)
    y, context, mask = functional.dropout(
        x, 0.5, rng=2, shared_axes=shared_axes, return_mask=True, out=_placed(x, first, np.nan)
    )
    assert np.array_equal(y, np.where(mask, 2 * x, np.float32(0)))
    assert np.array_equal(functional.dropout_backward(x, context, out=x), y)


def test_a_large_dropout_in_another_memory_order_follows_its_mask(small, monkeypatch):
    x = np.random.default_rng(0).normal(size=(33, 130)).astype(np.float32)
    y, _, mask = functional.dropout(np.asfortranarray(x), 0.5, rng=2, return_mask=True)
    assert np.array_equal(y, np.where(mask, 2 * x, np.float32(0)))


def test_the_pool_gives_the_memory_of_a_large_output_again(monkeypatch):
    monkeypatch.setattr(_pool, "_pool", _pool._Pool())
    x = np.ones(1 << 19, np.float32)
    for _ in range(3):
        assert np.array_equal(functional.dropout(x, 0.0)[0], x)
    assert normdrop.pool_info()[2:] == (2, 1)
