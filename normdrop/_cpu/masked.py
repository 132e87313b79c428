"""The launchers of batch normalization in which not all positions count: by rows, or by planes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _formulas
from normdrop._cpu.kernels import masked_planes as planes
from normdrop._cpu.kernels import masked_rows as rows
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.launchers import in_one_go, normalize, parameter_gradients
from normdrop._cpu.toolchain.launch import Kernel
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._positions import SPARE, Positions

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]

_NO_WEIGHTS = np.zeros(0, np.float32)
_ALL = 0xFFFF  # of 16 elements


class _Plan(NamedTuple):
    """How arrays of a shape are passed over."""

    by_rows: bool
    in_one_go: bool  # whether a kernel reads each channel again from the cache
    work: tuple[int, int]  # shape of a workspace where no sums by rows are taken


@lru_cache(maxsize=1024)
def _plan(shape: tuple[int, ...], itemsize: int) -> _Plan:
    """Decide it, once per shape."""
    if shape[2] == 1:
        return _Plan(True, False, rows.workspace_shape(shape, 0))
    return _Plan(False, in_one_go(shape, itemsize), planes.workspace_shape(shape))


def _kernel(plan: _Plan, name: str) -> Kernel:
    run: Kernel = getattr(rows if plan.by_rows else planes, name)
    return run


def _summed(plan: _Plan, shape: tuple[int, ...], positions: Positions) -> tuple[Array, Array, Vectors]:
    """Return what sums take: by planes the mask, by rows those that count; their weights; and a workspace."""
    if not plan.by_rows:
        return positions.mask, positions.weights, scratch(plan.work)
    counted = np.flatnonzero(positions.mask[:-SPARE])
    weights = positions.weights[counted] if positions.weights.size else _NO_WEIGHTS
    return counted, weights, scratch(rows.workspace_shape(shape, counted.size))


def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Fill mean and biased variance of each channel over what counts."""
    plan = _plan(x.shape, x.itemsize)
    run = _kernel(plan, "moments").variant(x.dtype, x.size)
    run(statistics, stored(x), *_summed(plan, x.shape, positions))


def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """y = (x - mean) * scale + shift where it counts, or everywhere if the others are normalized, too."""
    if positions.others == "normalize":
        normalize(y, x, vectors)
        return
    plan, rest = _plan(x.shape, x.itemsize), _ALL if positions.others == "keep" else 0
    run = _kernel(plan, "normalize").variant(x.dtype, x.size)
    run(stored(y), stored(x), vectors, positions.mask, rest, scratch(plan.work))


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Fill the statistics of what counts, and y = gamma * (x - mean) / sqrt(var + eps) + beta there."""
    plan = _plan(x.shape, x.itemsize)
    if plan.in_one_go and positions.others != "normalize":
        run = planes.batch_norm.variant(x.dtype, x.size, gamma.dtype)
        work, rest = scratch(plan.work), _ALL if positions.others == "keep" else 0
        run(stored(y), stored(x), statistics, gamma, beta, positions.mask, positions.weights, work, eps, rest)
    else:
        masked_moments(statistics, x, positions)
        statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
        masked_normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]), positions)


def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel, over what is normalized."""
    if positions.others == "normalize":
        parameter_gradients(sums, dy, x, statistics)
        return
    plan = _plan(x.shape, x.itemsize)
    run = _kernel(plan, "gradients").variant(x.dtype, x.size)
    counted, _, work = _summed(plan, x.shape, positions._replace(weights=_NO_WEIGHTS))
    run(sums, stored(dy), stored(x), statistics, counted, work)


def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Fill sums = [dgamma, dbeta], over what is normalized, and dx."""
    mask, weights, _, _, n, others = positions
    plan, rest = _plan(x.shape, x.itemsize), 0 if others == "zero" else _ALL
    arrays = stored(dx), stored(dy), stored(x)
    if plan.in_one_go and others != "normalize":
        run = planes.backward.variant(x.dtype, x.size, gamma.dtype)
        run(*arrays, sums, statistics, gamma, mask, weights, scratch(plan.work), n, rest)
        return
    masked_parameter_gradients(sums, dy, x, statistics, positions)
    mean, _, inv_std = statistics
    scale = gamma * inv_std
    factor = scale if others == "normalize" else np.ones_like(scale)
    vectors = np.stack([mean, sums[1] / n, _formulas.slope(sums[0], inv_std, n), scale, factor])
    run = _kernel(plan, "input_gradient").variant(x.dtype, x.size)
    run(*arrays, vectors, mask, weights, rest, scratch(plan.work))
