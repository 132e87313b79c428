"""Kernels by planes: a channel's values lie in long runs, as in channels-first arrays (outer, C, inner).

`normdrop._cpu.plane_sums` says how sums are taken and what is in the workspace; the element-wise loops are in
`normdrop._cpu.plane_loops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.launch import helper, kernel
from normdrop._cpu.memory import address, element, item_size, pointer
from normdrop._cpu.plane_loops import gradient_run, gradient_span, normalize_run, normalize_span
from normdrop._cpu.plane_sums import (
    block_gradients,
    block_moments,
    grid_of,
    merged_gradients,
    merged_moments,
    n_blocks,
    workspace_shape,
)
from normdrop._cpu.streaming import READ_AGAIN, READ_ONCE, fence, is_far, is_long, streams

__all__ = [
    "backward",
    "backward_in_blocks",
    "batch_norm",
    "batch_norm_in_blocks",
    "gradients",
    "moments",
    "normalize",
    "workspace_shape",
]

_CHUNK = 1 << 14  # elements per task of the element-wise loops
_NEAR = 1 << 18  # bytes of channels that stay in the second-level cache, with as many that are asked for
_SLAB = 1 << 17  # bytes of neighboring channels that a task reads at once; as many are asked for and written
_SPAN = 1 << 10  # elements of a span: short planes from memory come faster in longer pieces
_SPAN_SLAB = 1 << 19  # bytes of neighboring channels at which spans end; a half of a second-level cache
_SHORT_SPAN = 1 << 8  # elements of a span not worth streaming


@helper
def _chunk(shape: Any, chunk: Any) -> Any:
    """Elements of a task: [start, stop)."""
    return chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, shape[0] * shape[1] * shape[2])


@helper
def _plane_at(shape: Any, i: Any) -> Any:
    """(channel, end) of the plane in which element i lies."""
    plane = i // shape[2]
    return plane % shape[1], plane * shape[2] + shape[2]


@kernel("PIP")
def moments(statistics: Any, x: Any, work: Any) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (grid, task // blocks, task % blocks), 0)
    for c in range(x.shape[1]):
        statistics[0, c], statistics[1, c] = merged_moments(work, pointer(x, 0), grid, c)


@kernel("OIpP")
def normalize(y: Any, x: Any, vectors: Any, work: Any) -> None:
    """y = (x - mean) * scale + shift per channel; vectors = [mean, scale, shift]. Parallel over chunks."""
    _, n_channels, inner = x.shape
    large = streams(y, x, READ_ONCE)
    spans = large and not is_long(inner) and n_channels * inner >= _SHORT_SPAN
    size = _CHUNK
    if spans:
        size = max(1, _CHUNK // inner) * inner
        for c in range(n_channels):
            work[c, 0], work[c, 1], work[c, 2] = vectors[0, c], vectors[1, c], vectors[2, c]
    for chunk in prange((x.size + size - 1) // size):
        start, stop = chunk * size, min(chunk * size + size, x.size)
        c, end = _plane_at(x.shape, start)
        while spans and start < stop:
            end = min(start + (n_channels - c) * inner, stop)
            numbers = pointer(work, 0), c * work.shape[1], work.shape[1]
            normalize_span(pointer(y, 0), pointer(x, 0), (start, end, inner), numbers, 0)
            start, c = end, 0
        while start < stop:
            numbers = vectors[0, c], vectors[1, c], vectors[2, c]
            normalize_run(pointer(y, 0), pointer(x, 0), (start, min(end, stop)), numbers, (0, large))
            start = end
            end += inner
            c = c + 1 if c + 1 < n_channels else 0
        fence()


@helper
def _channels_at_once(x: Any, size: Any, in_place: Any) -> Any:
    """(neighboring channels per task, whether their planes are written in spans), while their slab is in the cache.

    size = bytes of an element of all arrays read.
    """
    outer, n_channels, inner = x.shape
    slab = size * outer * inner
    n = _SLAB // slab
    spans = is_far(x.size * (size + item_size(x))) and not in_place and not is_long(inner)
    if spans:
        n = max(n, min(_SPAN // inner, _SPAN_SLAB // slab))
    n = max(1, min(n, n_channels // 16))
    return n, spans and n * inner >= _SHORT_SPAN


@helper
def _ahead(x: Any, size: Any, n: Any) -> Any:
    """Elements to the next n channels, which are asked for: (of x with the sums, of x with the results, of dy then).

    Of short planes, x comes while there is nothing to write. That of long ones would be gone before it is needed. Sums
    of halves take as long as those of floats, and leave no more time.
    """
    outer, _, inner = x.shape
    if not is_far(x.size * (size + item_size(x))):
        return 0, 0, 0
    near = max(size, 4) * outer * inner <= _NEAR
    return (n * inner, 0, n * inner) if near else (0, n * inner, n * inner)


@helper
def _finish_statistics(statistics: Any, c: Any, moments: Any, eps: Any) -> None:
    """statistics[:, c] = mean, variance and 1 / sqrt(variance + eps); moments = (mean, variance)."""
    statistics[0, c], statistics[1, c] = moments
    statistics[2, c] = 1.0 / np.sqrt(statistics[1, c] + eps)


@kernel("OIPwwPf")
def batch_norm(y: Any, x: Any, statistics: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """Statistics and y of each channel, while they are in the cache. Parallel over groups of channels."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    large = streams(y, x, READ_AGAIN)
    size = item_size(x)
    at_once, spans = _channels_at_once(x, size, address(y) == address(x))
    for task in prange((n_channels + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, n_channels)
        ahead = _ahead(x, size, end - first)
        for c in range(first, end):
            for b in range(n_blocks(grid)):
                block_moments(work, pointer(x, 0), (grid, c, b), ahead[0])
            _finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), eps)
            scale, shift = np.float64(gamma[c]) * statistics[2, c], np.float64(beta[c])
            work[c, 0], work[c, 1], work[c, 2] = statistics[0, c], scale, shift
        # What is done anew for each plane would take as long as a short one.
        numbers, ys, xs = pointer(work, 0), pointer(y, 0), pointer(x, 0)
        for o in range(outer):
            start, k = (o * n_channels + first) * inner, first * work.shape[1]
            if spans:
                span = start, start + (end - first) * inner, inner
                normalize_span(ys, xs, span, (numbers, k, work.shape[1]), ahead[1])
                continue
            for _ in range(first, end):
                vectors = element(numbers, k), element(numbers, k + 1), element(numbers, k + 2)
                normalize_run(ys, xs, (start, start + inner), vectors, (ahead[1], large))
                start += inner
                k += work.shape[1]
        fence()


@kernel("OIPwwPf")
def batch_norm_in_blocks(y: Any, x: Any, statistics: Any, gamma: Any, beta: Any, work: Any, eps: Any) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    large = streams(y, x, READ_AGAIN)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (grid, task // blocks, task % blocks), 0)
    for c in range(x.shape[1]):
        _finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), eps)
        work[c, 0] = np.float64(gamma[c]) * statistics[2, c]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start, stop = _chunk(x.shape, chunk)
        c, end = _plane_at(x.shape, start)
        while start < stop:
            numbers = statistics[0, c], work[c, 0], np.float64(beta[c])
            normalize_run(pointer(y, 0), pointer(x, 0), (start, min(end, stop)), numbers, (0, large))
            start = end
            end += x.shape[2]
            c = c + 1 if c + 1 < x.shape[1] else 0
        fence()


@kernel("PIIpP")
def gradients(sums: Any, dy: Any, x: Any, statistics: Any, work: Any) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    for task in prange(x.shape[1] * blocks):
        c = task // blocks
        block_gradients(work, (pointer(dy, 0), pointer(x, 0)), (grid, c, task % blocks), statistics[0, c], 0)
    for c in range(x.shape[1]):
        _finish_sums(sums, c, merged_gradients(work, grid, c), statistics[2, c])


@helper
def _finish_sums(sums: Any, c: Any, merged: Any, inv_std: Any) -> None:
    """sums[:, c] = sum(dy * x_hat) and sum(dy); merged = (sum(dy), sum(dy * (x - mean)))."""
    sums[0, c], sums[1, c] = merged[1] * inv_std, merged[0]


@helper
def _gradient_vectors(sums: Any, c: Any, n: Any, vectors: Any) -> Any:
    """(mean, mean_dy, slope, scale) of a channel; vectors = (statistics, gamma)."""
    statistics, gamma = vectors
    inv_std = statistics[2, c]
    return statistics[0, c], sums[1, c] / n, sums[0, c] * inv_std / n, np.float64(gamma[c]) * inv_std


@kernel("OIIPpwP")
def backward(dx: Any, dy: Any, x: Any, sums: Any, statistics: Any, gamma: Any, work: Any) -> None:
    """sums of `gradients`, and dx of each channel, while they are in the cache. Parallel over groups of channels."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    in_place = address(dx) == address(x) or address(dx) == address(dy)
    large = streams(dx, x, READ_AGAIN) and not in_place
    size = item_size(dy) + item_size(x)
    at_once, spans = _channels_at_once(x, size, in_place)
    for task in prange((n_channels + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, n_channels)
        ahead = _ahead(x, size, end - first)
        for c in range(first, end):
            for b in range(n_blocks(grid)):
                block_gradients(work, (pointer(dy, 0), pointer(x, 0)), (grid, c, b), statistics[0, c], ahead[0])
            _finish_sums(sums, c, merged_gradients(work, grid, c), statistics[2, c])
            vectors = _gradient_vectors(sums, c, np.float64(outer * inner), (statistics, gamma))
            work[c, 0], work[c, 1], work[c, 2], work[c, 3] = vectors
        numbers, pointers = pointer(work, 0), (pointer(dx, 0), pointer(dy, 0), pointer(x, 0))
        hints = ahead[1], ahead[2], large
        for o in range(outer):
            start, k = (o * n_channels + first) * inner, first * work.shape[1]
            if spans:
                span = start, start + (end - first) * inner, inner
                gradient_span(pointers, span, (numbers, k, work.shape[1]), hints)
                continue
            for _ in range(first, end):
                vectors = element(numbers, k), element(numbers, k + 1), element(numbers, k + 2), element(numbers, k + 3)
                gradient_run(pointers, (start, start + inner), vectors, hints)
                start += inner
                k += work.shape[1]
        fence()


@kernel("OIIPpwP")
def backward_in_blocks(dx: Any, dy: Any, x: Any, sums: Any, statistics: Any, gamma: Any, work: Any) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    _, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    large = streams(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for task in prange(n_channels * blocks):
        channel, b = task // blocks, task % blocks
        block_gradients(work, (pointer(dy, 0), pointer(x, 0)), (grid, channel, b), statistics[0, channel], 0)
    for channel in range(n_channels):
        _finish_sums(sums, channel, merged_gradients(work, grid, channel), statistics[2, channel])
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start, stop = _chunk(x.shape, chunk)
        c, end = _plane_at(x.shape, start)
        while start < stop:
            vectors = _gradient_vectors(sums, c, np.float64(x.shape[0] * inner), (statistics, gamma))
            gradient_run(
                (pointer(dx, 0), pointer(dy, 0), pointer(x, 0)), (start, min(end, stop)), vectors, (0, 0, large)
            )
            start = end
            end += inner
            c = c + 1 if c + 1 < n_channels else 0
        fence()
