"""Shared axes and whole channels, masks returned and masks given."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _reference, functional

SHAPE = (4, 3, 5, 2, 3, 2)
THRESHOLD = round(0.4 * 2**32)
SCALE = 1 / (1 - THRESHOLD / 2**32)


def reference_mask(shape, key, call=0):
    mask = np.empty(int(np.prod(shape)), np.bool_)
    _reference.keep_mask(mask, key, call, THRESHOLD)
    return mask.reshape(shape)


def normal(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def memory_orders(x):
    yield "C", x
    yield "Fortran", np.asfortranarray(x)
    yield "rolled", np.ascontiguousarray(np.moveaxis(x, 0, -1)).transpose(x.ndim - 1, *range(x.ndim - 1))
    yield "sliced", np.repeat(x, 2, axis=-1)[..., ::2]
    yield "reversed", np.ascontiguousarray(x[::-1])[::-1]


def assert_dropped_by(mask, x, y, context, scale=SCALE):
    expected = np.where(mask, x * x.dtype.type(scale), x.dtype.type(0))
    assert np.array_equal(y, expected)
    dx = functional.dropout_backward(np.ones_like(x), context)
    assert np.array_equal(dx, np.where(np.broadcast_to(mask, x.shape), x.dtype.type(scale), x.dtype.type(0)))


@pytest.mark.parametrize("ndim", range(1, 7))
def test_all_combinations_of_shared_axes_broadcast_the_mask(backend, ndim):
    shape = SHAPE[:ndim]
    for n_shared in range(ndim + 1):
        for shared_axes in combinations(range(ndim), n_shared):
            mask_shape = tuple(1 if axis in shared_axes else n for axis, n in enumerate(shape))
            key = MaskStream(ndim).key
            mask = reference_mask(mask_shape, key)
            orders = list(memory_orders(normal(shape)))
            for name, x in orders if ndim < 5 else orders[n_shared % 5 : n_shared % 5 + 1]:
                stream = MaskStream.from_key(key)
                y, context, returned = functional.dropout(x, 0.4, shared_axes=shared_axes, rng=stream, return_mask=True)
                assert returned.shape == mask_shape == context.mask_shape
                assert np.array_equal(returned, mask), (name, shared_axes)
                assert_dropped_by(mask, x, y, context)


@pytest.mark.jit
@pytest.mark.parametrize("shared_axes", [(), (0,), (1,), (2,), (3,), (2, 3), (1, 2), (0, 2), (1, 3), (0, 3), (0, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shared_axes_of_long_arrays_broadcast_the_mask(backend, dtype, shared_axes):
    shape = (5, 17, 33, 67)
    mask_shape = tuple(1 if axis in shared_axes else n for axis, n in enumerate(shape))
    mask = reference_mask(mask_shape, (1, 2), 3)
    for _, x in memory_orders(normal(shape, dtype)):
        stream = MaskStream.from_key((1, 2), 3)
        y, context = functional.dropout(x, 0.4, shared_axes=shared_axes, rng=stream)
        assert_dropped_by(mask, x, y, context)


@pytest.mark.parametrize(
    "same", [(1, 3), [3, 1], (-3, -1), (1, 3, 1, -1), (np.int64(1), 3), {1, 3}, range(1, 4, 2), np.array([1, 3])]
)
def test_shared_axes_may_be_written_in_any_way(backend, same):
    x = normal((3, 4, 5, 6))
    expected = normdrop.Dropout(0.5, shared_axes=(1, 3), rng=0)(x)
    assert np.array_equal(normdrop.Dropout(0.5, shared_axes=same, rng=0)(x), expected)
    assert np.array_equal(functional.dropout(x, 0.5, shared_axes=same, rng=0)[0], expected)
    layer = normdrop.Dropout(0.5, shared_axes=iter(same), rng=0)
    assert np.array_equal(layer(x), expected)
    layer.stream.call = 0
    assert np.array_equal(layer(x), expected)


def test_one_shared_axis_may_be_an_int(backend):
    x = normal((3, 4, 5))
    expected = functional.dropout(x, 0.5, shared_axes=(1,), rng=0)[0]
    for axis in (1, -2, np.int32(1)):
        assert np.array_equal(functional.dropout(x, 0.5, shared_axes=axis, rng=0)[0], expected)
        assert np.array_equal(normdrop.Dropout(0.5, shared_axes=axis, rng=0)(x), expected)


@pytest.mark.parametrize("ndim", [3, 4, 5])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_channel_dropout_drops_whole_channels_of_single_samples(backend, ndim, scaling):
    make = {3: normdrop.Dropout1d, 4: normdrop.Dropout2d, 5: normdrop.Dropout3d}[ndim]
    shape = (6, 5, 4, 3, 2)[:ndim]
    for channel_axis in range(-ndim, ndim):
        layer = make(0.4, channel_axis=channel_axis, scaling=scaling, rng=0)
        axis = channel_axis % ndim
        batch_axis = 1 if axis == 0 else 0
        mask_shape = tuple(n if a in (axis, batch_axis) else 1 for a, n in enumerate(shape))
        mask = reference_mask(mask_shape, MaskStream(0).key)
        scale = np.float32(SCALE if scaling == "inverted" else 1)
        for _, x in memory_orders(normal(shape)):
            layer.stream.call = 0
            assert np.array_equal(layer(x), np.where(mask, x * scale, np.float32(0)))
            assert np.array_equal(layer.backward(x), np.where(mask, x * scale, np.float32(0)))
        keep = np.float32(1 if scaling == "inverted" else 1 - THRESHOLD / 2**32)
        assert np.array_equal(layer.eval()(x), x * keep)


def test_channel_axis_is_1_by_default(backend):
    x = normal((4, 6, 3, 3))
    assert np.array_equal(normdrop.Dropout2d(rng=0)(x), normdrop.Dropout2d(channel_axis=1, rng=0)(x))


def test_channel_dropout_has_one_mask_element_per_channel_in_c_order(backend):
    """Channels-first and channels-last inputs with the same channels draw the same mask."""
    x = normal((4, 6, 3, 3))
    y = normdrop.Dropout2d(0.5, rng=0)(x)
    last = normdrop.Dropout2d(0.5, channel_axis=-1, rng=0)(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    assert np.array_equal(last.transpose(0, 3, 1, 2), y)


def mask_variants(mask):
    yield mask
    yield np.asfortranarray(mask)
    yield np.repeat(mask, 3, axis=-1)[..., ::3]
    yield np.ascontiguousarray(mask[::-1])[::-1]
    read_only = mask.copy()
    read_only.flags.writeable = False
    yield read_only


@pytest.mark.parametrize("shared_axes", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_a_callers_mask_is_applied_forward_and_backward(backend, shared_axes, scaling):
    shape = (7, 6, 19)
    mask_shape = tuple(1 if axis in shared_axes else n for axis, n in enumerate(shape))
    mask = np.random.default_rng(1).random(mask_shape) < 0.6
    before = mask.copy()
    for _, x in memory_orders(normal(shape)):
        for variant in mask_variants(mask):
            y, context = functional.dropout(x, 0.4, shared_axes=shared_axes, scaling=scaling, mask=variant)
            assert_dropped_by(mask, x, y, context, SCALE if scaling == "inverted" else 1)
            layer = normdrop.Dropout(0.4, shared_axes=shared_axes, scaling=scaling, rng=0)
            assert np.array_equal(layer(x, mask=variant), y)
            assert np.array_equal(layer.backward(x), y)
            assert layer.stream.call == 0
    assert np.array_equal(mask, before)


def test_a_constant_mask_of_zero_strides_is_applied(backend):
    x = normal((5, 8))
    for value in (True, False):
        mask = np.broadcast_to(np.bool_(value), x.shape)
        y, _ = functional.dropout(x, 0.5, mask=mask)
        assert np.array_equal(y, 2 * x if value else np.zeros_like(x))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_callers_mask_alone_decides_whatever_p_is(backend, p):
    x = normal((5, 8))
    mask = np.arange(40).reshape(5, 8) % 3 > 0
    y, context = functional.dropout(x, p, scaling="original", mask=mask)
    assert np.array_equal(y, np.where(mask, x, 0))
    assert np.array_equal(functional.dropout_backward(x, context), y)


def test_a_returned_mask_given_back_reproduces_the_pass(backend):
    x = normal((6, 7, 8))
    for shared_axes in ((), (1,), (0, 2)):
        y, _, mask = functional.dropout(x, 0.3, shared_axes=shared_axes, rng=5, return_mask=True)
        again, _, same = functional.dropout(x, 0.3, shared_axes=shared_axes, mask=mask, return_mask=True)
        assert np.array_equal(again, y)
        assert np.array_equal(same, mask)


def test_returning_the_mask_changes_neither_the_result_nor_the_stream(backend):
    x, first, second = normal((6, 7)), MaskStream(0), MaskStream(0)
    y, context = functional.dropout(x, 0.3, rng=first)
    again, same, mask = functional.dropout(x, 0.3, rng=second, return_mask=True)
    assert np.array_equal(y, again)
    assert (context, first) == (same, second)
    mask[...] = False
    assert np.array_equal(functional.dropout_backward(x, same), y)


def test_a_callers_mask_draws_nothing(backend):
    normdrop.seed(1)
    try:
        functional.dropout(np.ones(4), 0.5, mask=np.ones(4, np.bool_))
        after = MaskStream()
        normdrop.seed(1)
        assert MaskStream() == after
    finally:
        normdrop.seed(None)
