"""Loops by planes: a channel's values lie in long runs, as in channels-first arrays (outer, C, inner).

Statistics are sums over blocks of a channel, sum(a - p) and sum((a - p) * (b - q)): the moments with a = b = x and p
= q the block's first value, the gradients with a = dy, p = 0, b = x, q = mean. Blocks follow from the shape; each is
summed in 16 float64 lanes, the lanes in a fixed tree, the blocks in order: the bits do not depend on threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.arithmetic import centered, input_gradient, normalized
from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.simd import LANES, load, splat, store, sum_lanes, widen

_CHUNK = 1 << 14  # elements per task of the element-wise loops

# Values per block. The error of a block's variance grows with it (shifting by one of n values cancels at most n + 1
# times the variance), the cost of merging blocks shrinks.
_BLOCK = 1 << 14


def tiling(shape: Any) -> Any:
    """Return (planes per block, values per plane and block, blocks per channel)."""
    outer, _, inner = shape
    length = min(inner, _BLOCK)
    planes = max(1, _BLOCK // inner)
    return planes, length, ((outer + planes - 1) // planes) * ((inner + length - 1) // length)


_tiling = helper(tiling)


@helper
def _n_blocks(shape: Any) -> Any:
    """Blocks per channel."""
    return _tiling(shape)[2]


@helper
def _block(shape: Any, channel: Any, b: Any) -> Any:
    """Block b of a channel: (offset of its first value, planes, values per plane)."""
    outer, n_channels, inner = shape
    planes, length, _ = _tiling(shape)
    n_runs = (inner + length - 1) // length
    o, i = (b // n_runs) * planes, (b % n_runs) * length
    return (o * n_channels + channel) * inner + i, min(planes, outer - o), min(length, inner - i)


@helper
def _block_sums(a: Any, b: Any, block: Any, stride: Any, shifts: Any) -> Any:
    """sum(a - p), sum((a - p) * (b - q)) over a block of flat arrays; planes are `stride` apart, shifts = (p, q)."""
    start, n_planes, length = block
    p, q = shifts
    ps, qs = splat(p), splat(q)
    s0, s1, t0, t1 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    s, t = 0.0, 0.0
    for plane in range(n_planes):
        i = start + plane * stride
        stop = i + length
        while i + 2 * LANES <= stop:
            u0 = widen(load(a, i)) - ps
            u1 = widen(load(a, i + LANES)) - ps
            t0 += u0 * (widen(load(b, i)) - qs)
            t1 += u1 * (widen(load(b, i + LANES)) - qs)
            s0 += u0
            s1 += u1
            i += 2 * LANES
        if i + LANES <= stop:
            u0 = widen(load(a, i)) - ps
            t0 += u0 * (widen(load(b, i)) - qs)
            s0 += u0
            i += LANES
        while i < stop:
            u = np.float64(a[i]) - p
            t += u * (np.float64(b[i]) - q)
            s += u
            i += 1
    return s + sum_lanes(s0 + s1), t + sum_lanes(t0 + t1)


@helper
def _block_moments(partial: Any, x: Any, shape: Any, channel: Any, b: Any) -> None:
    """partial[channel, 2b], [.., 2b + 1] = mean of block b of a channel and sum of squares about it."""
    block = _block(shape, channel, b)
    shift = np.float64(x[block[0]])
    s, t = _block_sums(x, x, block, shape[1] * shape[2], (shift, shift))
    offset, m2 = centered(s, t, block[1] * block[2])
    partial[channel, 2 * b], partial[channel, 2 * b + 1] = shift + offset, m2


@helper
def _merged_moments(partial: Any, shape: Any, channel: Any) -> Any:
    """Mean and biased variance of a channel from those of its blocks; only non-negative terms are added."""
    first = partial[channel, 0]
    n = np.float64(shape[0] * shape[2])
    offset, m2 = 0.0, 0.0
    for b in range(_n_blocks(shape)):
        block = _block(shape, channel, b)
        offset += (partial[channel, 2 * b] - first) * (block[1] * block[2])
    mean = first + offset / n
    for b in range(_n_blocks(shape)):
        block = _block(shape, channel, b)
        delta = partial[channel, 2 * b] - mean
        m2 += partial[channel, 2 * b + 1] + delta * delta * (block[1] * block[2])
    return mean, m2 / n


@helper
def _block_gradients(partial: Any, dy: Any, x: Any, places: Any, mean: Any) -> None:
    """partial[channel, 2b], [.., 2b + 1] = sum(dy), sum(dy * (x - mean)) in a block; places = (shape, channel, b)."""
    shape, channel, b = places
    s, t = _block_sums(dy, x, _block(shape, channel, b), shape[1] * shape[2], (0.0, mean))
    partial[channel, 2 * b], partial[channel, 2 * b + 1] = s, t


@helper
def _merged_gradients(partial: Any, shape: Any, channel: Any) -> Any:
    """Sums of a channel from those of its blocks."""
    s, t = 0.0, 0.0
    for b in range(_n_blocks(shape)):
        s += partial[channel, 2 * b]
        t += partial[channel, 2 * b + 1]
    return s, t


@kernel("VVIP")
def moments(mean: Any, var: Any, x: Any, partial: Any) -> None:
    """Mean and biased variance of each channel. Parallel over channels and blocks."""
    blocks = _n_blocks(x.shape)
    flat = x.reshape(x.size)
    for task in prange(x.shape[1] * blocks):
        _block_moments(partial, flat, x.shape, task // blocks, task % blocks)
    for channel in range(x.shape[1]):
        mean[channel], var[channel] = _merged_moments(partial, x.shape, channel)


@kernel("VVIIvP")
def gradients(sum_dy: Any, sum_product: Any, dy: Any, x: Any, mean: Any, partial: Any) -> None:
    """sum(dy) and sum(dy * (x - mean)) of each channel. Parallel over channels and blocks."""
    blocks = _n_blocks(x.shape)
    flat_dy, flat_x = dy.reshape(x.size), x.reshape(x.size)
    for task in prange(x.shape[1] * blocks):
        channel = task // blocks
        _block_gradients(partial, flat_dy, flat_x, (x.shape, channel, task % blocks), mean[channel])
    for channel in range(x.shape[1]):
        sum_dy[channel], sum_product[channel] = _merged_gradients(partial, x.shape, channel)


@helper
def _normalize_run(y: Any, x: Any, run: Any, vectors: Any) -> None:
    """y = (x - mean) * scale + shift on run = [start, stop); vectors = (mean, scale, shift)."""
    i, stop = run
    mean, scale, shift = vectors
    means, scales, shifts = splat(mean), splat(scale), splat(shift)
    while i + LANES <= stop:
        store(y, i, normalized(widen(load(x, i)), means, scales, shifts))
        i += LANES
    while i < stop:
        y[i] = normalized(np.float64(x[i]), mean, scale, shift)
        i += 1


@helper
def _gradient_run(dx: Any, dy: Any, x: Any, run: Any, vectors: Any) -> None:
    """dx of `_formulas.input_gradient` on run = [start, stop); vectors = (mean, mean_dy, slope, scale)."""
    i, stop = run
    mean, mean_dy, slope, scale = vectors
    means, means_dy, slopes, scales = splat(mean), splat(mean_dy), splat(slope), splat(scale)
    while i + LANES <= stop:
        store(dx, i, input_gradient(widen(load(dy, i)), widen(load(x, i)), means, means_dy, slopes, scales))
        i += LANES
    while i < stop:
        dx[i] = input_gradient(np.float64(dy[i]), np.float64(x[i]), mean, mean_dy, slope, scale)
        i += 1


@kernel("OIvvv")
def normalize(y: Any, x: Any, mean: Any, scale: Any, shift: Any) -> None:
    """y = (x - mean) * scale + shift per channel. Parallel over chunks."""
    _, n_channels, inner = x.shape
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, x.size)
        while start < stop:
            plane = start // inner
            c = plane % n_channels
            end = min(stop, plane * inner + inner)
            _normalize_run(flat_y, flat_x, (start, end), (mean[c], scale[c], shift[c]))
            start = end


@kernel("OIIvvvv")
def input_gradients(dx: Any, dy: Any, x: Any, mean: Any, mean_dy: Any, slope: Any, scale: Any) -> None:
    """dx = (dy - mean_dy - (x - mean) * slope) * scale per channel. Parallel over chunks."""
    _, n_channels, inner = x.shape
    flat_dx, flat_dy, flat_x = dx.reshape(x.size), dy.reshape(x.size), x.reshape(x.size)
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start, stop = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, x.size)
        while start < stop:
            plane = start // inner
            c = plane % n_channels
            end = min(stop, plane * inner + inner)
            _gradient_run(flat_dx, flat_dy, flat_x, (start, end), (mean[c], mean_dy[c], slope[c], scale[c]))
            start = end


@kernel("OIVVvvPf")
def batch_norm(y: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, partial: Any, eps: Any) -> None:
    """Moments and y of each channel, while the channel is in the cache. Parallel over channels."""
    outer, n_channels, inner = x.shape
    flat_y, flat_x = y.reshape(x.size), x.reshape(x.size)
    for c in prange(n_channels):
        for b in range(_n_blocks(x.shape)):
            _block_moments(partial, flat_x, x.shape, c, b)
        center, spread = _merged_moments(partial, x.shape, c)
        mean[c], var[c] = center, spread
        scale = gamma[c] * (1.0 / np.sqrt(spread + eps))
        for o in range(outer):
            start = (o * n_channels + c) * inner
            _normalize_run(flat_y, flat_x, (start, start + inner), (center, scale, beta[c]))


@kernel("OIIvvvP")
def backward(dx: Any, dy: Any, x: Any, mean: Any, inv_std: Any, gamma: Any, partial: Any) -> None:
    """Both sums, left in partial[:, :2], and dx of each channel, while it is in the cache. Parallel over channels."""
    outer, n_channels, inner = x.shape
    n = np.float64(outer * inner)
    flat_dx, flat_dy, flat_x = dx.reshape(x.size), dy.reshape(x.size), x.reshape(x.size)
    for c in prange(n_channels):
        for b in range(_n_blocks(x.shape)):
            _block_gradients(partial, flat_dy, flat_x, (x.shape, c, b), mean[c])
        s, t = _merged_gradients(partial, x.shape, c)
        partial[c, 0], partial[c, 1] = s, t
        vectors = (mean[c], s / n, t * inv_std[c] * inv_std[c] / n, gamma[c] * inv_std[c])
        for o in range(outer):
            start = (o * n_channels + c) * inner
            _gradient_run(flat_dx, flat_dy, flat_x, (start, start + inner), vectors)
