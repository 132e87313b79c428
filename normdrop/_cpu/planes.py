"""Kernels by planes: a channel's values lie in long runs, as in channels-first arrays (outer, C, inner).

`normdrop._cpu.plane_sums` says how sums are taken and what is in the workspace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.arithmetic import input_gradient, normalized
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.plane_sums import (
    block_gradients,
    block_moments,
    merged_gradients,
    merged_moments,
    n_blocks,
    workspace,
)
from normdrop._cpu.simd import LANES, address, fence, load, splat, widen
from normdrop._cpu.streaming import put, streams

__all__ = [
    "backward",
    "backward_in_blocks",
    "batch_norm",
    "batch_norm_in_blocks",
    "gradients",
    "moments",
    "normalize",
    "workspace",
]

_CHUNK = 1 << 14  # elements per task of the element-wise loops


@helper
def _normalize_run(y: Any, x: Any, run: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift on run = [start, stop); vectors = (mean, scale, shift)."""
    i, stop = run
    mean, scale, shift = vectors
    streaming = streams(y, x, i, LANES)
    means, scales, shifts = splat(mean), splat(scale), splat(shift)
    while i + 4 * LANES <= stop:
        x0, x1, x2, x3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        put(y, i, normalized(widen(x0), means, scales, shifts), streaming)
        put(y, i + LANES, normalized(widen(x1), means, scales, shifts), streaming)
        put(y, i + 2 * LANES, normalized(widen(x2), means, scales, shifts), streaming)
        put(y, i + 3 * LANES, normalized(widen(x3), means, scales, shifts), streaming)
        i += 4 * LANES
    while i + LANES <= stop:
        put(y, i, normalized(widen(load(x, i)), means, scales, shifts), streaming)
        i += LANES
    while i < stop:
        y[i] = normalized(np.float64(x[i]), mean, scale, shift)
        i += 1


@helper
def _gradient_run(dx: Any, dy: Any, x: Any, run: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on run = [start, stop); vectors = (mean, mean_dy, slope, scale)."""
    i, stop = run
    mean, mean_dy, slope, scale = vectors
    streaming = streams(dx, x, i, LANES) and address(dx) != address(dy)
    means, means_dy, slopes, scales = splat(mean), splat(mean_dy), splat(slope), splat(scale)
    while i + 2 * LANES <= stop:
        x0, x1, d0, d1 = load(x, i), load(x, i + LANES), load(dy, i), load(dy, i + LANES)
        put(dx, i, input_gradient(widen(d0), widen(x0), means, means_dy, slopes, scales), streaming)
        put(dx, i + LANES, input_gradient(widen(d1), widen(x1), means, means_dy, slopes, scales), streaming)
        i += 2 * LANES
    while i + LANES <= stop:
        put(dx, i, input_gradient(widen(load(dy, i)), widen(load(x, i)), means, means_dy, slopes, scales), streaming)
        i += LANES
    while i < stop:
        dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean, mean_dy, slope, scale)
        i += 1


@helper
def _chunk(x: Any, chunk: Any) -> Any:
    """Elements of a task: [start, stop)."""
    return chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, x.size)


@helper
def _normalize_chunk(y: Any, x: Any, shape: Any, chunk: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift per channel on a chunk of flat arrays; vectors = (mean, scale, shift)."""
    mean, scale, shift = vectors
    start, stop = _chunk(x, chunk)
    while start < stop:
        plane = start // shape[2]
        c = plane % shape[1]
        end = min(stop, plane * shape[2] + shape[2])
        _normalize_run(y, x, (start, end), (mean[c], scale[c], shift[c]))
        start = end
    fence()


@kernel("VVIP")
def moments(mean: Any, var: Any, x: Any, work: Any) -> None:
    """Mean and biased variance of each channel. Parallel over channels and blocks."""
    blocks = n_blocks(x.shape)
    flat = x.reshape(x.size)
    for task in prange(mean.size * blocks):
        block_moments(work, flat, x.shape, task // blocks, task % blocks)
    for c in range(mean.size):
        mean[c], var[c] = merged_moments(work, x.shape, c)


@kernel("OIvvv")
def normalize(y: Any, x: Any, mean: Any, scale: Any, shift: Any) -> None:
    """y = (x - mean) * scale + shift per channel. Parallel over chunks."""
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        _normalize_chunk(flat_y, flat_x, x.shape, chunk, (mean, scale, shift))


@kernel("OIVVvvPf")
def batch_norm(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """Moments and y of each channel, while the channel is in the cache. Parallel over channels."""
    outer, n_channels, inner = x.shape
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for c in prange(n_channels):
        for b in range(n_blocks(x.shape)):
            block_moments(work, flat_x, x.shape, c, b)
        mean[c], var[c] = merged_moments(work, x.shape, c)
        vectors = (mean[c], gamma[c] * (1.0 / np.sqrt(var[c] + eps)), beta[c])
        for o in range(outer):
            start = (o * n_channels + c) * inner
            _normalize_run(flat_y, flat_x, (start, start + inner), vectors)
        fence()


@kernel("OIVVvvPf")
def batch_norm_in_blocks(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    blocks = n_blocks(x.shape)
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for task in prange(mean.size * blocks):
        block_moments(work, flat_x, x.shape, task // blocks, task % blocks)
    scale = np.empty(mean.size)
    for c in range(mean.size):
        mean[c], var[c] = merged_moments(work, x.shape, c)
        scale[c] = gamma[c] * (1.0 / np.sqrt(var[c] + eps))
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        _normalize_chunk(flat_y, flat_x, x.shape, chunk, (mean, scale, beta))


@kernel("PIIvP")
def gradients(sums: Any, dy: Any, x: Any, mean: Any, work: Any) -> None:
    """sums[0], sums[1] = sum(dy), sum(dy * (x - mean)) of each channel. Parallel over channels and blocks."""
    blocks = n_blocks(x.shape)
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    for task in prange(mean.size * blocks):
        c = task // blocks
        block_gradients(work, flat_dy, flat_x, (x.shape, c, task % blocks), mean[c])
    for c in range(mean.size):
        sums[0, c], sums[1, c] = merged_gradients(work, x.shape, c)


@helper
def _gradient_vectors(sums: Any, c: Any, n: Any, vectors: Any) -> Any:
    """(mean, mean_dy, slope, scale) of a channel; vectors = (mean, inv_std, gamma)."""
    mean, inv_std, gamma = vectors
    return mean[c], sums[0, c] / n, sums[1, c] * inv_std[c] * inv_std[c] / n, gamma[c] * inv_std[c]


@kernel("OIIvvvPP")
def backward(dx: Any, dy: Any, x: Any, mean: Any, inv_std: Any, gamma: Any, sums: Any, work: Any) -> None:
    """sums of `gradients`, and dx of each channel, while the channel is in the cache. Parallel over channels."""
    outer, n_channels, inner = x.shape
    flat_dx, flat_dy, flat_x = dx.reshape(x.size), dy.reshape(x.size), x.reshape(x.size)
    for c in prange(n_channels):
        for b in range(n_blocks(x.shape)):
            block_gradients(work, flat_dy, flat_x, (x.shape, c, b), mean[c])
        sums[0, c], sums[1, c] = merged_gradients(work, x.shape, c)
        vectors = _gradient_vectors(sums, c, np.float64(outer * inner), (mean, inv_std, gamma))
        for o in range(outer):
            start = (o * n_channels + c) * inner
            _gradient_run(flat_dx, flat_dy, flat_x, (start, start + inner), vectors)
        fence()


@kernel("OIIvvvPP")
def backward_in_blocks(dx: Any, dy: Any, x: Any, mean: Any, inv_std: Any, gamma: Any, sums: Any, work: Any) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    _, n_channels, inner = x.shape
    blocks = n_blocks(x.shape)
    flat_dx, flat_dy, flat_x = dx.reshape(x.size), dy.reshape(x.size), x.reshape(x.size)
    for task in prange(n_channels * blocks):
        channel = task // blocks
        block_gradients(work, flat_dy, flat_x, (x.shape, channel, task % blocks), mean[channel])
    for channel in range(n_channels):
        sums[0, channel], sums[1, channel] = merged_gradients(work, x.shape, channel)
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start, stop = _chunk(x, chunk)
        while start < stop:
            plane = start // inner
            end = min(stop, plane * inner + inner)
            n = np.float64(x.shape[0] * inner)
            vectors = _gradient_vectors(sums, plane % n_channels, n, (mean, inv_std, gamma))
            _gradient_run(flat_dx, flat_dy, flat_x, (start, end), vectors)
            start = end
        fence()
