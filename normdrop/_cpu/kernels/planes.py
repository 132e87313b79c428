"""Kernels by planes: a channel's values lie in long runs, as in channels-first arrays (outer, C, inner).

`normdrop._cpu.kernels.plane_sums` says how sums are taken and what is in the workspace; the element-wise loops are in
`normdrop._cpu.kernels.elementwise`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.arithmetic import slope
from normdrop._cpu.kernels.elementwise import Numbers, Run, Span, numbers_of, write_run, write_span
from normdrop._cpu.kernels.operations import gradient
from normdrop._cpu.kernels.operations import normalize as normalized
from normdrop._cpu.kernels.plane_sums import (
    block_gradients,
    block_moments,
    grid_of,
    merged_gradients,
    merged_moments,
    n_blocks,
    workspace_shape,
)
from normdrop._cpu.kinds import Flag, Index, Inputs, Memory, Operation, Real, Shape, Table, Workspace
from normdrop._cpu.lanes.memory import address, item_size, pointer
from normdrop._cpu.lanes.streaming import exceeds_last_level_cache, fence, is_long, should_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import CHUNK, NEAR, READ_AGAIN, READ_ONCE, SHORT_SPAN, SLAB, SPAN, SPAN_SLAB

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


@helper
def _chunk(shape: Shape, chunk: Index) -> Any:
    """Elements of a task: [start, stop)."""
    return chunk * CHUNK, min(chunk * CHUNK + CHUNK, shape[0] * shape[1] * shape[2])


@helper
def _plane_at(shape: Shape, i: Index) -> Any:
    """(channel, end) of the plane in which element i lies."""
    plane = i // shape[2]
    return plane % shape[1], plane * shape[2] + shape[2]


@helper
def write_chunk(y: Memory, inputs: Inputs, shape: Shape, chunk: Any, operation: Operation, numbers: Numbers) -> None:
    """Write chunk = (first element, end, whether streamed, whether in spans, what to prefetch); arrays begin there.

    A span is written for each image. Memory that was streamed waits for a `fence`.
    """
    start, stop, streaming, spans, ahead = chunk
    _, n_channels, inner = shape
    c, end = _plane_at(shape, start)
    first, end, n = 0, end - start, stop - start
    while first < n:
        if spans:
            image = min(end + (n_channels - 1 - c) * inner, n)
            write_span(y, inputs, Span(first, image, end, c, inner), operation, numbers, ahead)
            first, end, c = image, image + inner, 0
        else:
            run = Run(first, min(end, n), streaming)
            write_run(y, inputs, run, operation, numbers_of(numbers, c), ahead)
            first = end
            end += inner
            c = c + 1 if c + 1 < n_channels else 0


@helper
def write_channels(
    y: Memory, inputs: Inputs, shape: Shape, channels: Any, how: Any, operation: Operation, numbers: Numbers
) -> None:
    """Write all planes of channels [first, end); how = (whether in spans, whether streamed, what to prefetch)."""
    outer, n_channels, inner = shape
    first, end = channels
    spans, streaming, ahead = how
    for o in range(outer):
        start = (o * n_channels + first) * inner
        if spans:
            span = Span(start, start + (end - first) * inner, start + inner, first, inner)
            write_span(y, inputs, span, operation, numbers, ahead)
            continue
        for c in range(first, end):
            run = Run(start, start + inner, streaming)
            write_run(y, inputs, run, operation, numbers_of(numbers, c), ahead)
            start += inner
    fence()


@helper
def three(work: Workspace, constants: Any) -> Numbers:
    """The numbers of normalization of each channel, as `finish_statistics` puts them into the workspace."""
    first = pointer(work, 0)
    return Numbers((first, pointer(first, 1), pointer(first, 2)), work.shape[1], constants)


@helper
def three_of(vectors: Table, constants: Any) -> Numbers:
    """The same from the first rows of vectors = [mean, scale, shift]."""
    n_channels, first = vectors.shape[1], pointer(vectors, 0)
    return Numbers((first, pointer(first, n_channels), pointer(first, 2 * n_channels)), 1, constants)


@helper
def four(work: Workspace) -> Numbers:
    """The numbers of the gradient of each channel, as `_finish_sums` puts them into the workspace."""
    first = pointer(work, 0)
    return Numbers((first, pointer(first, 1), pointer(first, 2), pointer(first, 3)), work.shape[1], ())


@kernel("PIP")
def moments(statistics: Table, x: Memory, work: Workspace) -> None:
    """statistics[0], [1] = mean and biased variance of each channel. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (grid, task // blocks, task % blocks), 0)
    for c in range(x.shape[1]):
        statistics[0, c], statistics[1, c] = merged_moments(work, pointer(x, 0), grid, c)


@helper
def spans_of(x: Memory, large: Flag) -> Any:
    """(whether an array is written in spans, elements of a chunk); large: whether it is streamed."""
    _, n_channels, inner = x.shape
    spans = large and not is_long(inner) and n_channels * inner >= SHORT_SPAN
    return spans, max(1, CHUNK // inner) * inner if spans else CHUNK


@kernel("OIpP")
def normalize(y: Memory, x: Memory, vectors: Table, work: Workspace) -> None:
    """y = (x - mean) * scale + shift per channel; vectors = [mean, scale, shift]. Parallel over chunks."""
    large = should_stream(y, x, READ_ONCE)
    spans, size = spans_of(x, large)
    for chunk in prange((x.size + size - 1) // size):
        numbers = three_of(vectors, ())
        start, stop = chunk * size, min(chunk * size + size, x.size)
        piece = start, stop, large, spans, None
        write_chunk(pointer(y, start), (pointer(x, start),), x.shape, piece, normalized, numbers)
        fence()


@helper
def channels_at_once(x: Memory, size: Index, in_place: Flag) -> Any:
    """(neighboring channels per task, whether their planes are written in spans), while their slab is in the cache.

    size = bytes of an element of all arrays read.
    """
    outer, n_channels, inner = x.shape
    slab = size * outer * inner
    n = SLAB // slab
    spans = exceeds_last_level_cache(x.size * (size + item_size(x))) and not in_place and not is_long(inner)
    if spans:
        n = max(n, min(SPAN // inner, SPAN_SLAB // slab))
    n = max(1, min(n, n_channels // 16))
    return n, spans and n * inner >= SHORT_SPAN


@helper
def prefetched(x: Memory, size: Index, n: Index) -> Any:
    """Elements to the next n channels, which are prefetched: (of x with the sums, of x with the results, of dy then).

    Of short planes, x comes while there is nothing to write. That of long ones would be gone before it is needed. Sums
    of halves take as long as those of floats, and leave no more time.
    """
    outer, _, inner = x.shape
    if not exceeds_last_level_cache(x.size * (size + item_size(x))):
        return 0, 0, 0
    near = max(size, 4) * outer * inner <= NEAR
    return (n * inner, 0, n * inner) if near else (0, n * inner, n * inner)


@helper
def finish_statistics(statistics: Table, c: Index, moments: Any, affine: Any, eps: Real, work: Workspace) -> None:
    """statistics[:, c] = mean, variance and 1 / sqrt(variance + eps), and a channel's numbers.

    moments = (mean, variance), affine = (gamma, beta).
    """
    gamma, beta = affine
    statistics[0, c], statistics[1, c] = moments
    statistics[2, c] = 1.0 / np.sqrt(statistics[1, c] + eps)
    scale, shift = np.float64(gamma[c]) * statistics[2, c], np.float64(beta[c])
    work[c, 0], work[c, 1], work[c, 2] = statistics[0, c], scale, shift


@kernel("OIPwwPf")
def batch_norm(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, work: Workspace, eps: Real
) -> None:
    """Statistics and y of each channel, while they are in the cache. Parallel over groups of channels."""
    n_channels = x.shape[1]
    grid = grid_of(x.shape)
    large = should_stream(y, x, READ_AGAIN)
    size = item_size(x)
    at_once, spans = channels_at_once(x, size, address(y) == address(x))
    for task in prange((n_channels + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, n_channels)
        ahead = prefetched(x, size, end - first)
        for c in range(first, end):
            for b in range(n_blocks(grid)):
                block_moments(work, pointer(x, 0), (grid, c, b), ahead[0])
            finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), (gamma, beta), eps, work)
        inputs = (pointer(x, 0),)
        how = spans, large, (inputs, (ahead[1],))
        write_channels(pointer(y, 0), inputs, x.shape, (first, end), how, normalized, three(work, ()))


@kernel("OIPwwPf")
def batch_norm_in_blocks(
    y: Memory, x: Memory, statistics: Table, gamma: Memory, beta: Memory, work: Workspace, eps: Real
) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    large = should_stream(y, x, READ_AGAIN)
    for task in prange(x.shape[1] * blocks):
        block_moments(work, pointer(x, 0), (grid, task // blocks, task % blocks), 0)
    for c in range(x.shape[1]):
        finish_statistics(statistics, c, merged_moments(work, pointer(x, 0), grid, c), (gamma, beta), eps, work)
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        start, stop = _chunk(x.shape, chunk)
        piece = start, stop, large, False, None
        write_chunk(pointer(y, start), (pointer(x, start),), x.shape, piece, normalized, three(work, ()))
        fence()


@kernel("PIIpP")
def gradients(sums: Table, dy: Memory, x: Memory, statistics: Table, work: Workspace) -> None:
    """sums = [sum(dy * x_hat), sum(dy)] of each channel. Parallel over channels and blocks."""
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    for task in prange(x.shape[1] * blocks):
        c = task // blocks
        block_gradients(work, (pointer(dy, 0), pointer(x, 0)), (grid, c, task % blocks), statistics[0, c], 0)
    for c in range(x.shape[1]):
        _finish_sums(sums, c, merged_gradients(work, grid, c), statistics[2, c])


@helper
def _finish_sums(sums: Any, c: Index, merged: Any, inv_std: Real) -> None:
    """sums[:, c] = sum(dy * x_hat) and sum(dy); merged = (sum(dy), sum(dy * (x - mean)))."""
    sums[0, c], sums[1, c] = merged[1] * inv_std, merged[0]


@helper
def finish_gradients(sums: Any, c: Index, merged: Any, vectors: Any, n: Real, work: Workspace) -> None:
    """The same, and a channel's numbers (mean, mean_dy, slope, scale); vectors = (statistics, gamma), n values."""
    statistics, gamma = vectors
    inv_std = statistics[2, c]
    _finish_sums(sums, c, merged, inv_std)
    work[c, 0], work[c, 1] = statistics[0, c], sums[1, c] / n
    work[c, 2], work[c, 3] = slope(sums[0, c], inv_std, n), np.float64(gamma[c]) * inv_std


@kernel("OIIPpwP")
def backward(dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, work: Workspace) -> None:
    """sums of `gradients`, and dx of each channel, while they are in the cache. Parallel over groups of channels."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    in_place = address(dx) == address(x) or address(dx) == address(dy)
    large = should_stream(dx, x, READ_AGAIN) and not in_place
    size = item_size(dy) + item_size(x)
    at_once, spans = channels_at_once(x, size, in_place)
    for task in prange((n_channels + at_once - 1) // at_once):
        first, end = task * at_once, min(task * at_once + at_once, n_channels)
        ahead = prefetched(x, size, end - first)
        inputs = pointer(dy, 0), pointer(x, 0)
        for c in range(first, end):
            for b in range(n_blocks(grid)):
                block_gradients(work, inputs, (grid, c, b), statistics[0, c], ahead[0])
            merged = merged_gradients(work, grid, c)
            finish_gradients(sums, c, merged, (statistics, gamma), np.float64(outer * inner), work)
        how = spans, large, (inputs, (ahead[2], ahead[1]))
        write_channels(pointer(dx, 0), inputs, x.shape, (first, end), how, gradient, four(work))


@kernel("OIIPpwP")
def backward_in_blocks(
    dx: Memory, dy: Memory, x: Memory, sums: Table, statistics: Table, gamma: Memory, work: Workspace
) -> None:
    """The same for few or large channels. Parallel over channels and blocks, then over chunks."""
    outer, n_channels, inner = x.shape
    grid = grid_of(x.shape)
    blocks = n_blocks(grid)
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for task in prange(n_channels * blocks):
        c = task // blocks
        block_gradients(work, (pointer(dy, 0), pointer(x, 0)), (grid, c, task % blocks), statistics[0, c], 0)
    for c in range(n_channels):
        merged = merged_gradients(work, grid, c)
        finish_gradients(sums, c, merged, (statistics, gamma), np.float64(outer * inner), work)
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        start, stop = _chunk(x.shape, chunk)
        inputs = pointer(dy, start), pointer(x, start)
        write_chunk(pointer(dx, start), inputs, x.shape, (start, stop, large, False, None), gradient, four(work))
        fence()
