"""The launchers: which kernel serves which arrays.

Dropout draws its mask or is given one. Batch normalization goes by planes, in one go or in blocks, by rows, or by
columns of wide rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import config

from normdrop import _exact
from normdrop._cpu.kernels import (
    columns,
    drawn_masks,
    enumeration,
    exact_lanes,
    given_masks,
    input_gradients,
    per_channel,
    planes,
    rows,
    sample_masks,
    transposed,
)
from normdrop._cpu.kernels import exact_sums as exact
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.toolchain.launch import Kernel, workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import CHANNEL_SLAB, PARALLEL_SIZE

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Plan: TypeAlias = tuple[Kernel, tuple[int, int]]

_FLOAT64, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)


def by_rows(shape: tuple[int, ...]) -> bool:
    """Whether runs are too short for vectors."""
    return shape[2] < LANES and shape[0] * shape[1] > 1


def in_one_go(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether each channel can be read again from the cache, and there are channels for every thread."""
    outer, n_channels, inner = shape
    if outer * inner * itemsize > CHANNEL_SLAB:
        return False
    return outer * n_channels * inner < PARALLEL_SIZE or n_channels >= 4 * int(config.NUMBA_NUM_THREADS)


def _by_columns(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether the columns of a task can be read again from the cache, and there are some for every thread."""
    outer, n_channels, inner = shape
    if inner > 1 or outer * columns.AT_ONCE * itemsize > CHANNEL_SLAB:
        return False
    return n_channels >= 2 * columns.AT_ONCE * int(config.NUMBA_NUM_THREADS)


@lru_cache(maxsize=1024)
def _plan(name: str, shape: tuple[int, ...], itemsize: int) -> Plan:
    """Kernel and shape of its workspace: decided once per shape."""
    order: Any = rows if by_rows(shape) else planes
    work = order.workspace_shape(shape)
    if name in ("batch_norm", "backward"):
        if order is planes and not in_one_go(shape, itemsize):
            name += "_in_blocks"
        if order is rows and _by_columns(shape, itemsize):
            order = columns
    return getattr(order, name), work


def moments(statistics: Vectors, x: Array) -> None:
    """Fill mean and biased variance of each channel."""
    run, work = _plan("moments", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(statistics, stored(x), scratch(work))


def exact_sums(sums: Integers, x: Array) -> None:
    """Fill sum(x) and sum(x * x) of each channel, exactly, and the counts of what is not finite."""
    grid = _exact.grid_of(x.dtype)
    n_parts = workers(x.size)
    work = scratch((n_parts * x.shape[1], grid.n_columns)).view(np.int64)
    run = exact_sums_of(x.dtype).variant(x.dtype, x.size)
    run(sums, stored(x), work, *grid, exact.CARRY_AFTER)


def exact_sums_of(dtype: np.dtype[Any]) -> Kernel:
    """Return the kernel for values of a dtype."""
    return exact.exact_sums if dtype == _FLOAT64 else exact_lanes.exact_sums_in_lanes


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """y = (x - mean) * scale + shift per channel."""
    run, work = _plan("normalize", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(stored(y), stored(x), vectors, scratch(work))


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Fill the statistics, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    run, work = _plan("batch_norm", x.shape, x.itemsize)
    run.variant(x.dtype, x.size, gamma.dtype)(stored(y), stored(x), statistics, gamma, beta, scratch(work), eps)


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel."""
    run, work = _plan("gradients", x.shape, x.itemsize)
    run.variant(x.dtype, x.size)(sums, stored(dy), stored(x), statistics, scratch(work))


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """Fill sums = [dgamma, dbeta], and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values each."""
    run, work = _plan("backward", x.shape, x.itemsize)
    variant = run.variant(x.dtype, x.size, gamma.dtype)
    variant(stored(dx), stored(dy), stored(x), sums, statistics, gamma, scratch(work))


def input_gradient(dx: Array, dy: Array, x: Array, vectors: Vectors) -> None:
    """Fill dx = (dy - mean_dy - (x - mean) * slope) * scale per channel."""
    if by_rows(x.shape):
        work = scratch(rows.workspace_shape(x.shape))
        run = input_gradients.row_gradient.variant(x.dtype, x.size)
        run(stored(dx), stored(dy), stored(x), vectors, work)
    else:
        input_gradients.plane_gradient.variant(x.dtype, x.size)(stored(dx), stored(dy), stored(x), vectors)


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """Fill in what `normalize` needs, and 1 / sqrt(var + eps)."""
    per_channel.inference_vectors.variant(_FLOAT64, 0, gamma.dtype)(vectors, mean, var, gamma, beta, eps)


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """running = momentum * running + (1 - momentum) * batch; what has no weight counts not even as a NaN."""
    if momentum < 1.0:
        per_channel.update_running.variant(_FLOAT64, 0)(mean, var, statistics, momentum, correction)


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """y = scale * x where the mask law keeps, else +0."""
    drawn_masks.dropout.variant(x.dtype, x.size)(stored(y), stored(x), key[0], key[1], call, threshold, scale)


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """mask[j] = whether the mask law keeps element first + j."""
    drawn_masks.keep_mask.variant(_BOOL, mask.size)(mask, key[0], key[1], call, threshold, first)


def keep_samples(mask: Mask, ids: Integers, key: tuple[int, int], call: int, threshold: int) -> None:
    """mask[n, j] = whether the mask law keeps element j under the key of sample ids[n]."""
    run = sample_masks.keep_samples.variant(_BOOL, mask.size)
    run(mask.reshape(-1), ids, mask.shape[1], *key, call, threshold)


def enumerate_masks(masks: Mask, weights: Vector, p: Vector, first: int) -> None:
    """masks[r, j] = bit j of first + r, weights[r] = its probability."""
    enumeration.enumerate_masks.variant(_FLOAT64, masks.size)(masks.reshape(-1), weights, p, first)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """y = scale * x where a given mask keeps, else +0: by planes where it is constant along memory."""
    _, n_shared, length = x.shape
    flat_y, flat_x, flat_mask = stored(y).reshape(-1), stored(x).reshape(-1), mask.reshape(-1)
    if length == 1 and n_shared > 1:
        given_masks.mask_planes.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, scale)
    else:
        length = x.size if n_shared == 1 else length
        given_masks.mask_elements.variant(x.dtype, x.size)(flat_y, flat_x, flat_mask, n_shared, length, scale)


def dropout_transposed(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """The same for elements that the law counts in another order of axes."""
    n_workers = workers(x.size)
    work = scratch((n_workers, (transposed.WORDS + 3) // 4)).view(np.uint16).reshape(-1)
    transposed.dropout_transposed.variant(x.dtype, x.size)(stored(y), stored(x), *key, call, threshold, scale, work)
