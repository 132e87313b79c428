"""float64 statistics far from zero: one bound for rows and planes, few blocks and many, wherever outliers lie."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from normdrop import functional
from normdrop._cpu.kernels import plane_sums, row_sums

from ..exact import VARIANCE_BOUND, Array, exact_channels, exact_moments, layouts, relative_error

RATIOS = [1e6, 1e8, 1e12, 1e14]
NORMAL_BOUND = 1e-12
"""Of a variance without outliers."""

# Rows, channels and the length of planes: within a block; several blocks of joined rows and of planes; of rows on their
# own, with a block of an odd end; few and wide rows, each a channel's only values in a plane.
SIZES = [
    pytest.param((259, 3, 37), id="259x3"),
    pytest.param((60_000, 3, 1000), id="60000x3", marks=pytest.mark.jit),
    pytest.param((2093, 67, 7), id="2093x67", marks=pytest.mark.jit),
    pytest.param((129, 1091, 129), id="129x1091", marks=pytest.mark.jit),
    pytest.param((3, 1091, 3), id="3x1091", marks=pytest.mark.jit),
]
BLOCKS = (16, 128, 8192, 16_000, 16_384, 21_824)
"""Values of a channel from which blocks start in these sizes, among others: on the CPU and on a GPU."""


def _far(kind: str, ratio: float, n: int, n_channels: int) -> Array:
    """Rows (N, C) of values around `ratio` with standard deviation 1, as far as outliers allow."""
    rows = np.random.default_rng(3).normal(ratio, 1.0, (n, n_channels))
    if kind == "first of the channel":
        rows[0] += 1000.0
    elif kind == "huge first":
        rows[0] *= 1e6
    elif kind == "zero first":
        rows[0] = 0.0
    elif kind == "first of blocks":
        for block in BLOCKS:
            rows[::block] = ratio - 1000.0
    elif kind == "drift":
        rows += np.linspace(-1000.0, 1000.0, n)[:, np.newaxis]
    return rows


KINDS = ["normal", "first of the channel", "huge first", "zero first", "first of blocks", "drift"]


def test_these_sizes_are_of_one_block_and_of_several() -> None:
    rows, planes = [(259, 3, 1), (60_000, 3, 1), (2093, 67, 1), (129, 1091, 1)], [(60, 3, 1000), (1, 3, 60_000)]
    assert [row_sums.geometry(shape)[4] for shape in rows] == [1, 3, 3, 2]
    assert [plane_sums.geometry(shape)[6] for shape in planes] == [4, 4]


@pytest.mark.parametrize("ratio", RATIOS)
def test_oracle_is_the_exact_rational_variance_far_from_zero(ratio: float) -> None:
    for kind in KINDS:
        values = _far(kind, ratio, 200, 1)
        numbers = [Fraction(float(value)) for value in values.reshape(-1)]
        mean = sum(numbers) / 200
        var = sum((number - mean) ** 2 for number in numbers) / 200
        assert exact_moments(values) == pytest.approx((float(mean), float(var)), rel=1e-15)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_float64_variance_holds_one_bound_by_rows_and_by_planes(
    kind: str, ratio: float, size: tuple[int, int, int]
) -> None:
    rows = _far(kind, ratio, *size[:2])
    mean, var = exact_channels(rows, 1)
    for layout, x, channel_axis in layouts(rows, size[2]):
        _, context = functional.batch_norm(x, channel_axis=channel_axis)
        assert relative_error(context.var, var) <= (NORMAL_BOUND if kind == "normal" else VARIANCE_BOUND), layout
        assert np.all(np.abs(context.mean - mean) <= 1e-9 * np.sqrt(var) + 1e-15 * np.abs(mean)), layout


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("ratio", RATIOS)
def test_float64_outputs_and_gradients_lose_only_what_one_float64_cannot_hold_of_a_mean(
    ratio: float, size: tuple[int, int, int]
) -> None:
    bound, n = 1e-9 + 2e-16 * ratio, size[0]
    rows = _far("normal", ratio, *size[:2])
    all_dy = np.random.default_rng(4).normal(size=rows.shape)
    mean, var = exact_channels(rows, 1)
    inv_std, deviation = 1.0 / np.sqrt(var + 1e-5), rows - mean  # exact, as they are close to each other
    x_hat = (deviation - deviation.mean(axis=0)) * inv_std
    sum_dy, sum_product = all_dy.sum(axis=0), (all_dy * x_hat).sum(axis=0)
    terms = all_dy, -sum_dy / n, -x_hat * sum_product / n
    scale = np.sum(np.abs(all_dy) * (1.0 + np.abs(x_hat)), axis=0)
    dx_scale = (np.abs(all_dy) + np.abs(sum_dy / n) + (1.0 + np.abs(x_hat)) * np.abs(sum_product / n)) * inv_std
    arrays = rows, all_dy, x_hat, sum(terms) * inv_std, dx_scale
    for (layout, x, axis), *others in zip(*(layouts(array, size[2]) for array in arrays), strict=True):
        dy, exact_y, exact_dx, scale_dx = (array for _, array, _ in others)
        y, context = functional.batch_norm(x, channel_axis=axis)
        dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
        assert np.all(np.abs(y - exact_y) <= bound * (1.0 + np.abs(exact_y))), layout
        assert np.all(np.abs(dx - exact_dx) <= bound * scale_dx), layout
        assert np.all(np.abs(dgamma - sum_product) <= bound * scale), layout
        assert np.all(np.abs(dbeta - sum_dy) <= 1e-9 * scale), layout


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [-0.1, 1e14 / 3, -1e300 / 7, 5e-324])
def test_constant_float64_channels_have_variance_zero_and_their_value_as_mean(
    value: float, size: tuple[int, int, int]
) -> None:
    rows = _far("normal", 1e14, *size[:2])
    rows[:, 1::2] = value
    for layout, x, channel_axis in layouts(rows, size[2]):
        _, context = functional.batch_norm(x, channel_axis=channel_axis)
        assert np.all(context.var[1::2] == 0.0), layout
        assert np.all(context.mean[1::2] == value), layout
        assert np.all(context.var[::2] > 0.0), layout


@pytest.mark.jit
@pytest.mark.parametrize("kind", ["normal", "first of blocks"])
def test_bits_far_from_zero_do_not_depend_on_threads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from normdrop._cpu.toolchain import launch

    def bits() -> list[bytes]:
        results = []
        for n, n_channels, length in [(60_000, 3, 1000), (2093, 67, 7), (129, 1091, 129)]:
            for _, x, channel_axis in layouts(_far(kind, 1e14, n, n_channels), length):
                y, context = functional.batch_norm(x, channel_axis=channel_axis)
                results += [context.mean.tobytes(), context.var.tobytes(), np.sort(y, axis=None).tobytes()]
        return results

    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        expected = bits()
        for n_threads in range(2, min(numba.config.NUMBA_NUM_THREADS, 4) + 1):
            numba.set_num_threads(n_threads)
            assert bits() == expected, n_threads
    finally:
        numba.set_num_threads(before)
    monkeypatch.setattr(launch, "parallel_is_safe", lambda: False)
    assert bits() == expected
