"""The launchers of batch normalization in which not all positions count: by rows, or by planes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _formulas
from normdrop._cpu.kernels import masked_planes as planes
from normdrop._cpu.kernels import masked_rows as rows
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.launchers import in_one_go, normalize, parameter_gradients
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._positions import SPARE, Positions

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]

_NO_WEIGHTS = np.zeros(0, np.float32)
_ALL = 0xFFFF  # of 16 elements


def _by_rows(shape: tuple[int, ...]) -> bool:
    return shape[2] == 1


def _in_one_go(x: Array, positions: Positions) -> bool:
    """Whether a kernel reads each channel again from the cache; what is normalized everywhere has none."""
    return positions.others != "normalize" and not _by_rows(x.shape) and in_one_go(x.shape, x.itemsize)


def _counted(positions: Positions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return which rows count, and their weights."""
    counted = np.flatnonzero(positions.mask[:-SPARE])
    return counted, positions.weights[counted] if positions.weights.size else _NO_WEIGHTS


def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Fill mean and biased variance of each channel over what counts."""
    if _by_rows(x.shape):
        counted, weights = _counted(positions)
        work = scratch(rows.workspace_shape(x.shape, counted.size))
        rows.moments.variant(x.dtype, x.size)(statistics, stored(x), counted, weights, work)
    else:
        work = scratch(planes.workspace_shape(x.shape))
        planes.moments.variant(x.dtype, x.size)(statistics, stored(x), positions.mask, positions.weights, work)


def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """y = (x - mean) * scale + shift where it counts, or everywhere if the others are normalized, too."""
    rest = _ALL if positions.others == "keep" else 0
    if positions.others == "normalize":
        normalize(y, x, vectors)
    elif _by_rows(x.shape):
        work = scratch(rows.workspace_shape(x.shape, 0))
        rows.normalize.variant(x.dtype, x.size)(stored(y), stored(x), vectors, positions.mask, rest, work)
    else:
        work = scratch(planes.workspace_shape(x.shape))
        planes.normalize.variant(x.dtype, x.size)(stored(y), stored(x), vectors, positions.mask, rest, work)


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Fill the statistics of what counts, and y = gamma * (x - mean) / sqrt(var + eps) + beta there."""
    if _in_one_go(x, positions):
        run = planes.batch_norm.variant(x.dtype, x.size, gamma.dtype)
        work, rest = scratch(planes.workspace_shape(x.shape)), _ALL if positions.others == "keep" else 0
        run(stored(y), stored(x), statistics, gamma, beta, positions.mask, positions.weights, work, eps, rest)
    else:
        masked_moments(statistics, x, positions)
        statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
        masked_normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]), positions)


def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel, over what is normalized."""
    if positions.others == "normalize":
        parameter_gradients(sums, dy, x, statistics)
    elif _by_rows(x.shape):
        counted, _ = _counted(positions)
        work = scratch(rows.workspace_shape(x.shape, counted.size))
        rows.gradients.variant(x.dtype, x.size)(sums, stored(dy), stored(x), statistics, counted, work)
    else:
        work = scratch(planes.workspace_shape(x.shape))
        planes.gradients.variant(x.dtype, x.size)(sums, stored(dy), stored(x), statistics, positions.mask, work)


def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Fill sums = [dgamma, dbeta], over what is normalized, and dx."""
    mask, weights, _, _, n, others = positions
    rest, scaled = 0 if others == "zero" else _ALL, others == "normalize"
    arrays = stored(dx), stored(dy), stored(x)
    if _in_one_go(x, positions):
        run = planes.backward.variant(x.dtype, x.size, gamma.dtype)
        run(*arrays, sums, statistics, gamma, mask, weights, scratch(planes.workspace_shape(x.shape)), n, rest)
        return
    masked_parameter_gradients(sums, dy, x, statistics, positions)
    mean, _, inv_std = statistics
    scale = gamma * inv_std
    factor = scale if scaled else np.ones_like(scale)
    vectors = np.stack([mean, sums[1] / n, _formulas.slope(sums[0], inv_std, n), scale, factor])
    if _by_rows(x.shape):
        work = scratch(rows.workspace_shape(x.shape, 0))
        rows.input_gradient.variant(x.dtype, x.size)(*arrays, vectors, mask, weights, rest, scaled, work)
    else:
        work = scratch(planes.workspace_shape(x.shape))
        planes.input_gradient.variant(x.dtype, x.size)(*arrays, vectors, mask, weights, rest, work)
