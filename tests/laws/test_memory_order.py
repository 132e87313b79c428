"""The mask law numbers elements in C order, whatever the order of the axes in memory (law 2.3)."""

from __future__ import annotations

import math
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from normdrop import _layout, functional

pytestmark = pytest.mark.kinds

SHAPES = [(7, 1, 65), (1, 3, 1), (5, 17, 33), (2, 1, 1), (3, 5, 2, 7), (3, 1, 17, 2), (2, 16, 16, 3), (1, 1, 1, 9)]
LONG = [(31, 47, 53), (5, 17, 33, 29), (2, 1, 40_001), (1, 70_001, 2), (3, 601, 1, 130), (513, 1, 131)]
DTYPES = ["float16", "float32", "float64"]
SCALE = np.float32(1 / (1 - round(0.3 * 2**32) / 2**32))


def in_order(x: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The same array, its axes in this order in memory."""
    y = np.empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))
    y[...] = x
    return y


def check(shape: tuple[int, ...], dtype: str) -> None:
    """Forward and backward, into a new array, in place and into an array of every other order."""
    rng = np.random.default_rng(sum(shape))
    x, dy = (rng.choice([-1.5, 1.0, 2.5], shape).astype(dtype) for _ in range(2))
    expected, context, mask = functional.dropout(x, 0.3, rng=11, return_mask=True)
    factor = SCALE if dtype == "float16" else x.dtype.type(context.scale)
    assert np.array_equal(expected, np.where(mask, (x * factor).astype(dtype), 0))
    expected_dx = np.where(mask, (dy * factor).astype(dtype), np.zeros((), dtype))
    orders = list(permutations(range(len(shape))))
    for order, other in zip(orders, orders[1:] + orders[:1], strict=True):
        view, gradient = in_order(x, order), in_order(dy, order)
        y, context, drawn = functional.dropout(view, 0.3, rng=11, return_mask=True)
        assert np.array_equal(drawn, mask), order
        assert np.array_equal(y, expected), order
        dx = functional.dropout_backward(gradient, context)
        assert np.array_equal(dx, expected_dx), order
        long = [axis for axis, n in enumerate(shape) if n > 1]
        assert (
            [y.strides[axis] for axis in long]
            == [view.strides[axis] for axis in long]
            == [dx.strides[axis] for axis in long]
        )
        assert np.array_equal(view, x)

        out = in_order(np.full_like(x, 7), other)
        assert functional.dropout(view, 0.3, rng=11, out=out)[0] is out
        assert np.array_equal(out, expected), (order, other)
        out[...] = 7
        assert functional.dropout_backward(gradient, context, out=out) is out
        assert np.array_equal(out, expected_dx), (order, other)
        assert np.array_equal(functional.dropout_backward(in_order(dy, other), context), expected_dx), (order, other)

        assert functional.dropout(view, 0.3, rng=11, out=view)[0] is view
        assert np.array_equal(view, expected), order
        assert functional.dropout_backward(gradient, context, out=gradient) is gradient
        assert np.array_equal(gradient, expected_dx), order


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_order_of_axes_gives_the_mask_of_c_order(backend, shape, dtype) -> None:
    check(shape, dtype)


@pytest.mark.jit
@pytest.mark.parametrize("shape", LONG, ids=str)
def test_every_order_of_axes_gives_the_mask_of_c_order_on_threads(shape) -> None:
    assert math.prod(shape) > 1 << 16
    check(shape, "float32")


@pytest.mark.jit
@pytest.mark.parametrize(
    "shape", [(1, 512, 1024), (1, 513, 1025), (2, 511, 1023), (1, 16, 2049), (1, 1025, 17), (70_000, 3, 2)], ids=str
)
def test_exchanged_axes_around_the_size_of_a_task_have_the_mask_of_c_order(shape) -> None:
    """The launcher alone, with positions and columns about as many as one task takes."""
    from normdrop import _cpu

    a, p, q = shape
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask, y = np.empty(x.size, np.bool_), np.empty_like(x)
    _cpu.keep_mask(mask, (1, 2), 3, 1 << 30)
    kept = mask.reshape(a, q, p).transpose(0, 2, 1)
    _cpu.dropout_transposed(y, x, (1, 2), 3, 1 << 30, 2.0)
    assert np.array_equal(y, np.where(kept, 2 * x, 0))


def test_exchanged_axes_write_their_own_elements_only() -> None:
    from normdrop import _cpu

    for a, p, q in product((1, 2), (1, 15, 16, 17, 33), (1, 15, 16, 17, 33)):
        buffer = np.full(a * p * q + 64, 7, np.float32)
        x = np.ones((a, p, q), np.float32)
        _cpu.dropout_transposed(buffer[32:-32].reshape(a, p, q), x, (1, 2), 3, 1 << 31, 2.0)
        assert np.all(buffer[:32] == 7)
        assert np.all(buffer[-32:] == 7)
        assert np.isin(buffer[32:-32], [0, 2]).all()


def folds(order: tuple[int, ...], shape: tuple[int, ...], exchange: Any) -> bool:
    """Whether an array of this shape, its axes in this order in memory, is (A, Q, P) with P and Q exchanged."""
    a, p, q = exchange
    if a * p * q != math.prod(shape):
        return False
    numbers = np.arange(math.prod(shape))
    in_memory = numbers.reshape(shape).transpose(order).ravel()
    return np.array_equal(numbers.reshape(a, q, p).transpose(0, 2, 1).ravel(), in_memory)


@pytest.mark.parametrize("ndim", range(1, 6))
def test_an_exchange_is_found_wherever_there_is_one_and_is_right(ndim) -> None:
    for order in permutations(range(ndim)):
        for shape in (
            product((1, 2, 3), repeat=ndim) if ndim < 5 else [(2, 3, 2, 3, 2), (1, 2, 3, 1, 2), (3, 1, 2, 2, 1)]
        ):
            found = _layout.Layout(order).exchange(shape)
            if found is not None:
                assert min(found[1:]) > 1
                assert folds(order, shape, found), (order, shape, found)
                continue
            size = math.prod(shape)
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            triples = [(size // p // q, p, q) for p in divisors for q in divisors if p > 1 < q and size % (p * q) == 0]
            assert not any(folds(order, shape, triple) for triple in triples), (order, shape)


def test_layouts_remember_only_so_many_shapes() -> None:
    layout = _layout.Layout((1, 0))
    for n in range(2, 5000):
        assert layout.exchange((n, 3)) == (1, 3, n)
        assert layout.fold((n, 3), 1) == (1, 3, n)
    assert len(layout._exchanges) <= 1024
    assert len(layout._folds) <= 1024
