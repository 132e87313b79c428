"""Batch normalization in which not all positions count: kernels and launchers, a block for each channel's sums.

Sums are taken in two passes, the mean and then the squares about it, in one tree over the block's threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normdrop import _formulas
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import SHUFFLED, SIMULATED, THREADS, cuda, helper, kernel, n_blocks, types, with_globals  # noqa: F401
from normdrop._cuda.launchers import as_rows, normalize, parameter_gradients
from normdrop._cuda.memory import as_value, load, store
from normdrop._cuda.moments import BUFFER, in_warp, sum_threads, sum_threads_code  # noqa: F401
from normdrop._cuda.scratch import scratch
from normdrop._positions import OTHERS, SPARE, Positions

if SIMULATED:  # it swaps `cuda` in the module of a kernel, so that what a kernel calls must see that module's names
    sum_threads = with_globals(sum_threads_code, globals())

normalized = helper(_formulas.normalized)
slope_of = helper(_formulas.slope)

_FLOAT64 = np.dtype(np.float64)


@helper
def _place(position: Any, channel: Any, n_channels: Any, inner: Any) -> Any:
    """Where a channel has its value at a position."""
    return (position // inner * n_channels + channel) * inner + position % inner


@helper
def _times(mask: Any, weights: Any, position: Any, weighted: Any) -> Any:
    """How often a position counts."""
    if mask[position] == 0:
        return 0.0
    return np.float64(weights[position]) if weighted != 0 else 1.0


@kernel("dddxbsnnnnnff")
def channel_moments(
    statistics: Any, vectors: Any, affine: Any, x: Any, mask: Any, weights: Any, weighted: Any, first: Any, n: Any,
    n_channels: Any, inner: Any, total: Any, eps: Any,
) -> None:  # fmt: skip
    """statistics[0], [1] = mean, variance of channels; with eps > 0 also the rest. A block per channel."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    for c in range(cuda.blockIdx.x, n_channels, cuda.gridDim.x):
        base = np.float64(load(x, _place(first, c, n_channels, inner)))
        s, t = 0.0, 0.0
        for k in range(cuda.threadIdx.x, n, THREADS):
            w = _times(mask, weights, k, weighted)
            if w > 0.0:
                s += w * (np.float64(load(x, _place(k, c, n_channels, inner))) - base)
        offset = sum_threads(s, 0.0, buffer, 1)[0] / total
        for k in range(cuda.threadIdx.x, n, THREADS):
            w = _times(mask, weights, k, weighted)
            if w > 0.0:
                d = np.float64(load(x, _place(k, c, n_channels, inner))) - base - offset
                t += w * d * d
        var = sum_threads(t, 0.0, buffer, 1)[0] / total
        if cuda.threadIdx.x == 0:
            mean = base + offset
            statistics[c], statistics[n_channels + c] = mean, var
            if eps > 0.0:
                inv_std = 1.0 / math.sqrt(var + eps)
                statistics[2 * n_channels + c] = inv_std
                vectors[c], vectors[n_channels + c] = mean, affine[c] * inv_std
                vectors[2 * n_channels + c] = affine[n_channels + c]


@kernel("ddxxbnnn")
def channel_gradients(
    sums: Any, statistics: Any, dy: Any, x: Any, mask: Any, n: Any, n_channels: Any, inner: Any
) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] over what counts. A block per channel."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    for c in range(cuda.blockIdx.x, n_channels, cuda.gridDim.x):
        s, t = 0.0, 0.0
        for k in range(cuda.threadIdx.x, n, THREADS):
            if mask[k] != 0:
                i = _place(k, c, n_channels, inner)
                u = np.float64(load(dy, i))
                s += u
                t += u * (np.float64(load(x, i)) - statistics[c])
        s, t = sum_threads(s, t, buffer, 1)
        if cuda.threadIdx.x == 0:
            sums[c], sums[n_channels + c] = t * statistics[2 * n_channels + c], s


@kernel("xxdbnnn")
def masked(y: Any, x: Any, vectors: Any, mask: Any, keeps: Any, n_channels: Any, inner: Any) -> None:
    """y = (x - mean) * scale + shift where it counts, else 0, or x if it `keeps`. A thread per element."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        plane = i // inner
        c, position = plane % n_channels, plane // n_channels * inner + i % inner
        v = load(x, i)
        if mask[position] != 0:
            store(y, i, normalized(np.float64(v), vectors[c], vectors[n_channels + c], vectors[2 * n_channels + c]))
        elif keeps != 0:
            store(y, i, v)
        else:
            store(y, i, as_value(x, 0.0))


@kernel("xxxdddbsnnnnf")
def masked_gradient(
    dx: Any, dy: Any, x: Any, sums: Any, statistics: Any, gamma: Any, mask: Any, weights: Any, weighted: Any,
    others: Any, n_channels: Any, inner: Any, total: Any,
) -> None:  # fmt: skip
    """dx where it counts, else by others = 0 for 0, 1 for that of normalization by constants, 2 for dy."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        plane = i // inner
        c, position = plane % n_channels, plane // n_channels * inner + i % inner
        u, inv_std = load(dy, i), statistics[2 * n_channels + c]
        scale = gamma[c] * inv_std
        w = _times(mask, weights, position, weighted)
        if w > 0.0:
            slope = slope_of(sums[c], inv_std, total)
            rest = sums[n_channels + c] / total + (np.float64(load(x, i)) - statistics[c]) * slope
            store(dx, i, (np.float64(u) - w * rest) * scale)
        elif others == 1:
            store(dx, i, np.float64(u) * scale)
        elif others == 2:
            store(dx, i, u)
        else:
            store(dx, i, as_value(x, 0.0))


def _weights(x: DeviceArray, positions: Positions) -> tuple[Any, bool]:
    """The weights, or what stands for none, and whether there are any."""
    if positions.weights.size:
        return positions.weights, True
    return x.empty((1,), np.dtype(np.float32)), False


def _moments(
    statistics: DeviceArray, x: DeviceArray, positions: Positions, vectors: DeviceArray, affine: DeviceArray, eps: float
) -> None:
    _, n_channels, inner = x.shape
    mask, n = positions.mask, positions.mask.size - SPARE
    weights, weighted = _weights(x, positions)
    where = weighted, positions.first, n, n_channels, inner
    channel_moments(x.dtype, n_channels, statistics, vectors, affine, x, mask, weights, *where, positions.total, eps)


def masked_moments(statistics: DeviceArray, x: DeviceArray, positions: Positions) -> None:
    """Fill mean and biased variance of each channel over what counts."""
    _moments(statistics, x, positions, statistics, statistics, 0.0)


def masked_normalize(y: DeviceArray, x: DeviceArray, vectors: DeviceArray, positions: Positions) -> None:
    """y = (x - mean) * scale + shift where it counts, or everywhere if the others are normalized, too."""
    _, n_channels, inner = x.shape
    if positions.others == "normalize":
        normalize(y, x, vectors)
    else:
        keeps = positions.others == "keep"
        masked(x.dtype, n_blocks(x.size, THREADS), y, x, vectors, positions.mask, keeps, n_channels, inner)


def masked_batch_norm(
    y: DeviceArray, x: DeviceArray, statistics: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float,
    positions: Positions,
) -> None:  # fmt: skip
    """Fill the statistics of what counts, and y = gamma * (x - mean) / sqrt(var + eps) + beta there."""
    vectors = scratch(x, 3 * x.shape[1], 1)
    _moments(statistics, x, positions, vectors, as_rows(x, gamma, beta), eps)
    masked_normalize(y, x, vectors, positions)


def masked_parameter_gradients(
    sums: DeviceArray, dy: DeviceArray, x: DeviceArray, statistics: DeviceArray, positions: Positions
) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel, over what is normalized."""
    _, n_channels, inner = x.shape
    if positions.others == "normalize":
        parameter_gradients(sums, dy, x, statistics)
    else:
        n = positions.mask.size - SPARE
        channel_gradients(x.dtype, n_channels, sums, statistics, dy, x, positions.mask, n, n_channels, inner)


def masked_batch_norm_backward(
    dx: DeviceArray, dy: DeviceArray, x: DeviceArray, sums: DeviceArray, statistics: DeviceArray, gamma: DeviceArray,
    positions: Positions,
) -> None:  # fmt: skip
    """Fill sums = [dgamma, dbeta], over what is normalized, and dx."""
    _, n_channels, inner = x.shape
    masked_parameter_gradients(sums, dy, x, statistics, positions)
    (weights, weighted), others = _weights(x, positions), OTHERS.index(positions.others)
    vectors = sums, statistics, gamma.astype(_FLOAT64), positions.mask, weights
    blocks = n_blocks(x.size, THREADS)
    masked_gradient(x.dtype, blocks, dx, dy, x, *vectors, weighted, others, n_channels, inner, positions.total)
