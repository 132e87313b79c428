"""The statistics law in every shape: around vector widths, block sizes, and at both ends of channels and planes."""

from __future__ import annotations

import numpy as np
import pytest

from normdrop import functional

from ..exact import (
    OUTPUT_BOUND,
    VARIANCE_BOUND,
    Array,
    along,
    exact_channels,
    exact_output,
    output_error,
    relative_error,
)

Shape = tuple[int, ...]


def _batch(shape: Shape, dtype: type = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).normal(5.0, 2.0, shape).astype(dtype)


def _check(x: Array, channel_axis: int = 1) -> None:
    """Statistics, output and all gradients of one batch, against the formulas in float64."""
    eps = 1e-5
    y, context = functional.batch_norm(x, eps=eps, channel_axis=channel_axis)
    mean, var = exact_channels(x, channel_axis)
    assert relative_error(context.var, var) <= VARIANCE_BOUND
    assert relative_error(context.mean, mean) <= VARIANCE_BOUND
    exact = exact_output(x, (mean, var), channel_axis, eps)
    assert output_error(y, exact) <= OUTPUT_BOUND[x.dtype]

    dy = np.random.default_rng(0).normal(size=x.shape).astype(x.dtype)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    wide = dy.astype(np.float64)
    others = tuple(axis for axis in range(x.ndim) if axis != channel_axis % x.ndim)
    n = x.size // mean.size
    sum_dy, sum_product = wide.sum(axis=others), (wide * exact).sum(axis=others)
    residual = wide - along(sum_dy / n, x.ndim, channel_axis) - exact * along(sum_product / n, x.ndim, channel_axis)
    exact_dx = residual / np.sqrt(along(var, x.ndim, channel_axis) + eps)
    assert output_error(dx, exact_dx) <= OUTPUT_BOUND[x.dtype]
    scale = np.abs(wide).sum(axis=others)
    assert np.all(np.abs(dbeta - sum_dy) <= OUTPUT_BOUND[x.dtype] * (1.0 + scale))
    assert np.all(np.abs(dgamma - sum_product) <= OUTPUT_BOUND[x.dtype] * (1.0 + scale))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("inner", range(1, 41))
def test_every_short_inner_length_is_exact(inner: int) -> None:
    _check(_batch((5, 3, inner)))
    _check(_batch((2, 1, inner), np.float64))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("n_channels", [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129])
@pytest.mark.parametrize("n_rows", [2, 3, 7, 8, 9, 17])
def test_every_width_of_rows_is_exact(n_rows: int, n_channels: int) -> None:
    _check(_batch((n_rows, n_channels)))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "shape",
    [
        (300, 1),
        (1, 1, 300),
        (1, 300, 2),
        (2, 300),
        (16, 3, 1, 1),
        (2, 33, 1, 1),
        (3, 1, 5, 7),
        (2, 3, 17, 19),
        (2, 2, 3, 4, 5),
        (1, 3, 31, 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_small_shapes_are_exact(shape: Shape, dtype: type) -> None:
    _check(_batch(shape, dtype))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("channel_axis", [0, 1, 2, 3, -1, -2])
def test_every_channel_axis_is_exact(channel_axis: int) -> None:
    _check(_batch((3, 4, 5, 6)), channel_axis)
    _check(_batch((3, 17, 2, 33), np.float64), channel_axis)


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "shape",
    [
        (200_001, 1),
        (1, 1, 200_001),
        (3, 1, 70_001),
        (2, 3, 224, 224),
        (2, 3, 129, 513),
        (2, 100_000),
        (3, 30_001),
        (300, 301, 1, 1),
        (32, 64, 14, 14),
        (7, 5, 2503),
    ],
    ids=str,
)
def test_extreme_large_shapes_are_exact(shape: Shape) -> None:
    _check(_batch(shape))
    if len(shape) == 4:
        _check(_batch(shape), -1)


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("length", [16383, 16384, 16385, 16400, 32767, 32768, 32769, 49153])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_planes_around_the_block_size_are_exact(n_channels: int, length: int) -> None:
    _check(_batch((1, n_channels, length)))
    _check(_batch((2, n_channels, length)))


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("inner", [16, 17, 100, 128])
@pytest.mark.parametrize("values", [16384 - 1, 16384, 16384 + 1, 40_000])
def test_many_planes_around_the_block_size_are_exact(values: int, inner: int) -> None:
    _check(_batch((max(2, values // inner), 2, inner)))


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("n_channels", [1, 3, 8, 17, 64])
@pytest.mark.parametrize("n_rows", [511, 512, 513, 8191, 8192, 8193, 16385])
def test_rows_around_the_block_size_are_exact(n_rows: int, n_channels: int) -> None:
    _check(_batch((n_rows, n_channels)))


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("n_channels", [1023, 1024, 1025, 1039, 2047, 2048, 2049])
@pytest.mark.parametrize("n_rows", [2, 15, 16, 17, 33, 70])
def test_columns_around_the_tile_width_are_exact(n_rows: int, n_channels: int) -> None:
    _check(_batch((n_rows, n_channels)))


@pytest.mark.jit
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("inner", [2, 3, 7, 15])
@pytest.mark.parametrize("outer", [1, 2, 999])
@pytest.mark.parametrize("n_channels", [1, 3, 70])
def test_short_planes_of_many_samples_are_exact(n_channels: int, outer: int, inner: int) -> None:
    _check(_batch((outer, n_channels, inner)))
