"""Results larger than the caches are written past them, with the same bits (law 2.7)."""

import numpy as np
import pytest

from normdrop import _reference, functional
from normdrop.random import MaskStream

pytestmark = [pytest.mark.jit, pytest.mark.same]

N = 5_000_000  # float32: 20 MB, more than normdrop._cpu.lanes.streaming calls large
# Rows of whole cache lines or not, larger than what is large or not, in pairs and one left.
WIDE = (2501, 2000), (2501, 2001), (1001, 1501), (901, 5600)
MAP = (37, 40, 58, 59)  # planes whose starts are aligned to 16 bytes for some channels and not for others


def array(shape, first=0):
    """Random values, `first` elements after an address that NumPy aligns."""
    n = int(np.prod(shape))
    return np.random.default_rng(5).standard_normal(n + first, np.float32)[first:].reshape(shape)


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_a_large_dropout_gives_the_reference_bits_wherever_the_array_begins(first):
    x, out = array(N, first), np.full(N + first, np.nan, np.float32)[first:]
    expected = np.empty_like(x)
    _reference.dropout(expected, x, (1, 2), 3, 1 << 30, 4 / 3)
    y, context = functional.dropout(x, 0.25, rng=MaskStream.from_key((1, 2), 3), out=out)
    assert np.array_equal(y, expected)
    assert np.array_equal(functional.dropout_backward(x, context), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_large_dropout_of_two_bytes_gives_the_float32_bits_rounded(first, dtype):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    x = array(2 * N, first).astype(dtype)
    out = np.full(2 * N + first, 7, dtype)[first:]
    assert out.nbytes > 1 << 24
    expected = functional.dropout(x.astype(np.float32), 0.25, rng=3)[0].astype(dtype)
    assert np.array_equal(functional.dropout(x, 0.25, rng=3, out=out)[0].view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("axes", [(1, 0), (0, 2, 1)])
def test_a_large_dropout_in_another_memory_order_gives_the_bits_of_c_order(axes, first):
    shape = {2: (2003, 2503), 3: (3, 1300, 1301)}[len(axes)]
    x = array(shape, first)
    expected = functional.dropout(x, 0.25, rng=3)[0]
    n = x.size
    place = array((2, n + first))[:, first:]
    x, out = (memory.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes)) for memory in place)
    x[...] = array(shape, first)
    y, context = functional.dropout(x, 0.25, rng=3, out=out)
    assert np.array_equal(y, expected)
    assert np.array_equal(functional.dropout_backward(x, context, out=x), expected)


@pytest.mark.parametrize("shared_axes", [(2, 3), (0,), (1,)])
def test_a_large_dropout_with_shared_axes_gives_the_reference_bits(shared_axes):
    x = array(MAP)
    y, _, mask = functional.dropout(x, 0.5, shared_axes=shared_axes, rng=1, return_mask=True)
    assert np.array_equal(y, np.where(mask, 2 * x, np.float32(0)))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("shape", "channel_axis"),
    [(MAP, 1), (MAP, 3), ((N // 64, 64), 1), ((N // 66, 66), 1), ((N // 3 + 1, 3), 1), *((rows, 1) for rows in WIDE)],
)
def test_a_large_batch_norm_agrees_with_the_reference_in_and_out_of_place(shape, channel_axis, in_place):
    x, dy = array(shape), array(shape, 1)
    folded = (int(np.prod(shape[:channel_axis])), shape[channel_axis], int(np.prod(shape[channel_axis + 1 :])))
    n_channels = shape[channel_axis]
    statistics, sums = np.empty((3, n_channels)), np.empty((2, n_channels))
    affine = np.stack([np.ones(n_channels), np.zeros(n_channels)])
    y, dx = np.empty(folded, np.float32), np.empty(folded, np.float32)
    _reference.batch_norm(y, x.reshape(folded), statistics, *affine, 1e-5)
    _reference.batch_norm_backward(dx, dy.reshape(folded), x.reshape(folded), sums, statistics, affine[0])

    got, context = functional.batch_norm(x, channel_axis=channel_axis)
    np.testing.assert_allclose(got.reshape(folded), y, rtol=2e-7, atol=1e-12)
    if in_place:
        copy = x.copy()
        assert np.array_equal(functional.batch_norm(copy, channel_axis=channel_axis, out=copy)[0], got)
    gradient, _, _ = functional.batch_norm_backward(dy, context, out=dy if in_place else None)
    np.testing.assert_allclose(gradient.reshape(folded), dx, rtol=2e-7, atol=1e-9)
    target = x if in_place else None
    inference, _ = functional.batch_norm_inference(x, *statistics[:2], channel_axis=channel_axis, out=target)
    np.testing.assert_allclose(inference.reshape(folded), y, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("first", [0, 1, 4, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(101, 1021, 7, 7), (2501, 131, 4, 4), (37, 527, 16, 17), (3001, 5, 18, 19)], ids=str)
def test_short_planes_of_a_large_batch_norm_are_computed_in_float64_and_rounded_once(shape, dtype, first):
    x, dy = (array(shape, begin).astype(dtype) for begin in (0, 1))
    assert x.nbytes > 1 << 24
    gamma, beta = array((2, shape[1])).astype(np.float64)
    outs = [np.full(x.size + first, np.nan, dtype)[first:].reshape(shape) for _ in range(3)]
    y, context = functional.batch_norm(x, gamma, beta, out=outs[0])
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context, out=outs[1])
    again, _ = functional.batch_norm_inference(x, context.mean, context.var, gamma, beta, out=outs[2])

    mean, inv_std = context.mean, context.inv_std
    slope = dgamma * inv_std / context.n
    mean, mean_dy, slope, scale, shift = (
        numbers[:, None, None] for numbers in (mean, dbeta / context.n, slope, gamma * inv_std, beta)
    )
    assert np.array_equal(y, ((x - mean) * scale + shift).astype(dtype))
    assert np.array_equal(again, y)
    assert np.array_equal(dx, ((dy - mean_dy - (x - mean) * slope) * scale).astype(dtype))
    if first == 0:  # in place nothing is streamed
        assert np.array_equal(functional.batch_norm(copy := x.copy(), gamma, beta, out=copy)[0], y)
        assert np.array_equal(functional.batch_norm_backward(dy, context, out=dy)[0], dx)


@pytest.mark.parametrize(
    ("shape", "channel_axis"),
    [
        ((37, 67, 58, 59), 1),
        ((137, 1031, 7, 9), 1),
        ((37, 58, 59, 53), 3),
        ((100_003, 66), 1),
        ((2_200_001, 3), 1),
        ((3301, 2016), 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.cold)])
def test_a_large_batch_norm_of_two_bytes_gives_the_float32_bits_rounded(shape, channel_axis, dtype):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    x, dy = array(shape, 1).astype(dtype), array(shape).astype(dtype)
    assert x.nbytes > 3 << 22
    option = {"channel_axis": channel_axis}
    wide_y, wide = functional.batch_norm(x.astype(np.float32), **option)
    wide_dx = functional.batch_norm_backward(dy.astype(np.float32), wide)[0]
    expected = [values.astype(dtype) for values in (wide_y, wide_dx)]

    def bits(values):
        return values.view(np.uint16)

    for first in (0, 3):  # where the outputs begin, in elements
        outs = [np.full(x.size + first, np.nan, dtype)[first:].reshape(shape) for _ in range(2)]
        y, context = functional.batch_norm(x, out=outs[0], **option)
        assert np.array_equal(bits(y), bits(expected[0]))
        dx = functional.batch_norm_backward(dy, context, out=outs[1])[0]
        assert np.array_equal(bits(dx), bits(expected[1]))
    outs[0].fill(np.nan)
    y, _ = functional.batch_norm_inference(x, wide.mean, wide.var, out=outs[0], **option)
    assert np.array_equal(bits(y), bits(expected[0]))
    _, context = functional.batch_norm(x, out=x, **option)
    assert np.array_equal(bits(x), bits(expected[0]))
    functional.batch_norm_backward(dy, context, out=dy)
    assert np.array_equal(bits(dy), bits(expected[1]))
