"""From the sums of parts to those of channels, and to what the second half of a pass needs."""

from __future__ import annotations

import math
from typing import Any

from normdrop import _formulas
from normdrop._cuda import moments
from normdrop._cuda.launch import SHUFFLED, SIMULATED, THREADS, cuda, helper, kernel, types, with_globals  # noqa: F401
from normdrop._cuda.moments import BUFFER, in_warp  # noqa: F401

# The simulator swaps `cuda` in the module of a kernel, so that what a kernel calls must see that module's names.
sum_threads = with_globals(moments.sum_threads_code, globals()) if SIMULATED else moments.sum_threads

running = helper(_formulas.running)


@helper
def _place(part: Any, channel: Any, run: Any, stride: Any) -> Any:
    """Where a channel's part lies, as in `Parts`."""
    return part // run * stride + channel * run + part % run


@helper
def _above(work: Any, at: Any, base: Any) -> Any:
    """Return what the mean of a part is above `base`."""
    return work[at + 1] - base + work[at + 2]


@kernel("ddddnnnnnf")
def merge_moments(
    statistics: Any, vectors: Any, affine: Any, work: Any, n_channels: Any, n_parts: Any, run: Any, stride: Any,
    n_values: Any, eps: Any,
) -> None:  # fmt: skip
    """statistics[0], [1] = mean, variance of channels; with eps > 0 also the rest. A block per channel."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    for c in range(cuda.blockIdx.x, n_channels, cuda.gridDim.x):
        at = 4 * _place(0, c, run, stride)
        base, first = work[at + 1], work[at + 2]
        s, t = 0.0, 0.0
        for j in range(cuda.threadIdx.x, n_parts, THREADS):
            at = 4 * _place(j, c, run, stride)
            s += work[at] * (_above(work, at, base) - first)
        mean = first + sum_threads(s, 0.0, buffer, 1)[0] / n_values
        for j in range(cuda.threadIdx.x, n_parts, THREADS):
            at = 4 * _place(j, c, run, stride)
            delta = _above(work, at, base) - mean
            t += work[at + 3] + work[at] * delta * delta
        var = sum_threads(t, 0.0, buffer, 1)[0] / n_values
        if cuda.threadIdx.x == 0:
            mean += base
            statistics[c], statistics[n_channels + c] = mean, var
            if eps > 0.0:
                inv_std = 1.0 / math.sqrt(var + eps)
                statistics[2 * n_channels + c] = inv_std
                vectors[c], vectors[n_channels + c] = mean, affine[c] * inv_std
                vectors[2 * n_channels + c] = affine[n_channels + c]


@kernel("dddddnnnnn")
def merge_gradients(
    sums: Any, vectors: Any, statistics: Any, gamma: Any, work: Any, n_channels: Any, n_parts: Any, run: Any,
    stride: Any, n_values: Any,
) -> None:  # fmt: skip
    """sums = [dgamma, dbeta]; with n_values > 0, vectors = [mean, mean(dy), slope, scale]. A block per channel."""
    buffer = cuda.shared.array(BUFFER, types.float64)
    for c in range(cuda.blockIdx.x, n_channels, cuda.gridDim.x):
        s, t = 0.0, 0.0
        for j in range(cuda.threadIdx.x, n_parts, THREADS):
            at = 2 * _place(j, c, run, stride)
            s += work[at]
            t += work[at + 1]
        s, t = sum_threads(s, t, buffer, 1)
        if cuda.threadIdx.x == 0:
            inv_std = statistics[2 * n_channels + c]
            sums[c], sums[n_channels + c] = t * inv_std, s
            if n_values > 0:
                vectors[c], vectors[n_channels + c] = statistics[c], s / n_values
                vectors[2 * n_channels + c] = inv_std * inv_std * t / n_values
                vectors[3 * n_channels + c] = gamma[c] * inv_std


@kernel("ddnf")
def fill_vectors(vectors: Any, given: Any, n_channels: Any, eps: Any) -> None:
    """vectors = [mean, gamma * inv_std, beta, inv_std]; given = [mean, var, gamma, beta]. A thread per channel."""
    for c in range(cuda.grid(1), n_channels, cuda.gridsize(1)):
        inv_std = 1.0 / math.sqrt(given[n_channels + c] + eps)
        vectors[c], vectors[n_channels + c] = given[c], given[2 * n_channels + c] * inv_std
        vectors[2 * n_channels + c], vectors[3 * n_channels + c] = given[3 * n_channels + c], inv_std


@kernel("dddnff")
def update(mean: Any, var: Any, statistics: Any, n_channels: Any, momentum: Any, correction: Any) -> None:
    """running = momentum * running + (1 - momentum) * batch. A thread per channel."""
    for c in range(cuda.grid(1), n_channels, cuda.gridsize(1)):
        mean[c] = running(mean[c], statistics[c], momentum, 1.0 - momentum)
        var[c] = running(var[c], statistics[n_channels + c], momentum, (1.0 - momentum) * correction)
