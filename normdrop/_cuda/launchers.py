"""The launchers: which kernel serves which arrays on a GPU, and on how many blocks."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from normdrop import _reference
from normdrop._cuda import masks, merging, normalization, transposed
from normdrop._cuda import moments as sums_of
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, n_blocks
from normdrop._cuda.mask_law import RUNS
from normdrop._cuda.scratch import scratch
from normdrop._cuda.tiles import ROWS_PER_THREAD, RUN_PER_THREAD, column_shift, is_aligned, plane_shift, tiles

_FLOAT64, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)
_SHORTEST_PLANE = 16  # values; shorter planes are read by rows


class _Plan(NamedTuple):
    """How an array (outer, C, inner) is read; decided once per shape."""

    by_rows: bool
    parts: sums_of.Parts
    shift: int
    """Threads side by side in the second half of a pass, as a power of two."""
    blocks: int
    """Blocks of the second half."""

    @property
    def places(self) -> tuple[int, int, int]:
        """Where the parts of a channel lie."""
        return self.parts.n_parts, self.parts.run, self.parts.stride


@lru_cache(maxsize=1024)
def _plan(shape: tuple[int, int, int]) -> _Plan:
    outer, n_channels, inner = shape
    if inner < _SHORTEST_PLANE and outer * n_channels > 1:
        columns = n_channels * inner
        shift = column_shift(columns)
        blocks = n_blocks(outer, (THREADS >> shift) * ROWS_PER_THREAD) * n_blocks(columns, 4 << shift)
        return _Plan(True, sums_of.row_parts(*shape), shift, blocks)
    shift = plane_shift(inner)
    blocks = n_blocks(outer * n_channels, THREADS >> shift) * n_blocks(inner, RUN_PER_THREAD << shift)
    return _Plan(False, sums_of.plane_parts(*shape), shift, blocks)


def _aligned(by_rows: bool, *arrays: DeviceArray) -> bool:
    _, n_channels, inner = arrays[0].shape
    return is_aligned(n_channels * inner if by_rows else inner, *arrays)


def merged_moments(
    statistics: DeviceArray, x: DeviceArray, vectors: DeviceArray, affine: DeviceArray, eps: float
) -> None:
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    parts, aligned = plan.parts, _aligned(plan.by_rows, x)
    work = scratch(x, 4 * parts.n_parts * n_channels)
    if plan.by_rows:
        columns = n_channels * inner
        sums_of.row_moments(x.dtype, parts.blocks, work, x, columns, outer, parts.n_rows, parts.shift, aligned)
    else:
        tiling = n_channels, inner, parts.n_rows, parts.length, parts.n_parts, parts.shift
        sums_of.plane_moments(x.dtype, parts.blocks, work, x, *tiling, aligned)
    merging.merge_moments(
        _FLOAT64, n_channels, statistics, vectors, affine, work, n_channels, *plan.places, outer * inner, eps
    )


def _merged_gradients(
    sums: DeviceArray,
    dy: DeviceArray,
    x: DeviceArray,
    statistics: DeviceArray,
    vectors: DeviceArray,
    gamma: DeviceArray,
    n: int,
) -> None:
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    parts, aligned = plan.parts, _aligned(plan.by_rows, x, dy)
    work = scratch(x, 2 * parts.n_parts * n_channels)
    if plan.by_rows:
        shape = n_channels * inner, inner, outer
        sums_of.row_gradients(
            x.dtype, parts.blocks, work, dy, x, statistics, *shape, parts.n_rows, parts.shift, aligned
        )
    else:
        tiling = n_channels, inner, parts.n_rows, parts.length, parts.n_parts, parts.shift
        sums_of.plane_gradients(x.dtype, parts.blocks, work, dy, x, statistics, *tiling, aligned)
    merging.merge_gradients(_FLOAT64, n_channels, sums, vectors, statistics, gamma, work, n_channels, *plan.places, n)


def moments(statistics: DeviceArray, x: DeviceArray) -> None:
    """Fill mean and biased variance of each channel."""
    merged_moments(statistics, x, statistics, statistics, 0.0)


def exact_sums(sums: DeviceArray, x: DeviceArray) -> None:
    """Fill exact sums of each channel: on the host, by the reference, for there is no kernel yet."""
    filled = np.empty(sums.shape, np.int64)
    _reference.exact_sums(filled, x.to_host())
    sums.assign(filled)


def normalize(y: DeviceArray, x: DeviceArray, vectors: DeviceArray) -> None:
    """y = (x - mean) * scale + shift per channel."""
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    aligned = _aligned(plan.by_rows, x, y)
    if plan.by_rows:
        normalization.row_normalize(
            x.dtype, plan.blocks, y, x, vectors, n_channels * inner, inner, outer, plan.shift, aligned
        )
    else:
        normalization.plane_normalize(x.dtype, plan.blocks, y, x, vectors, n_channels, inner, plan.shift, aligned)


def as_rows(like: DeviceArray, *given: DeviceArray) -> DeviceArray:
    """Vectors per channel as rows of one array of float64."""
    rows = like.empty((len(given), given[0].size), _FLOAT64)
    for k, vector in enumerate(given):
        rows[k] = vector
    return rows


def batch_norm(
    y: DeviceArray, x: DeviceArray, statistics: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float
) -> None:
    """Fill the statistics, and y = gamma * (x - mean) / sqrt(var + eps) + beta: three kernels."""
    vectors = scratch(x, 3 * x.shape[1], 1)
    merged_moments(statistics, x, vectors, as_rows(x, gamma, beta), eps)
    normalize(y, x, vectors)


def inference_vectors(
    vectors: DeviceArray, mean: DeviceArray, var: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float
) -> None:
    """Fill in what `normalize` needs, and 1 / sqrt(var + eps)."""
    n_channels = mean.size
    given = as_rows(vectors, mean, var, gamma, beta)
    merging.fill_vectors(_FLOAT64, n_blocks(n_channels, THREADS), vectors, given, n_channels, eps)


def parameter_gradients(sums: DeviceArray, dy: DeviceArray, x: DeviceArray, statistics: DeviceArray) -> None:
    """sums = [dgamma, dbeta]: sum dy * x_hat and sum dy per channel."""
    _merged_gradients(sums, dy, x, statistics, sums, statistics, 0)


def batch_norm_backward(
    dx: DeviceArray, dy: DeviceArray, x: DeviceArray, sums: DeviceArray, statistics: DeviceArray, gamma: DeviceArray
) -> None:
    """Fill sums = [dgamma, dbeta], and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n): three kernels."""
    outer, n_channels, inner = x.shape
    vectors = scratch(x, 4 * n_channels, 1)
    _merged_gradients(sums, dy, x, statistics, vectors, gamma.astype(_FLOAT64), outer * inner)
    input_gradient(dx, dy, x, vectors)


def input_gradient(dx: DeviceArray, dy: DeviceArray, x: DeviceArray, vectors: DeviceArray) -> None:
    """Fill dx = (dy - mean_dy - (x - mean) * slope) * scale per channel."""
    outer, n_channels, inner = x.shape
    plan = _plan(x.shape)
    aligned = _aligned(plan.by_rows, x, dy, dx)
    if plan.by_rows:
        shape = n_channels * inner, inner, outer
        normalization.row_gradient(x.dtype, plan.blocks, dx, dy, x, vectors, *shape, plan.shift, aligned)
    else:
        normalization.plane_gradient(x.dtype, plan.blocks, dx, dy, x, vectors, n_channels, inner, plan.shift, aligned)


def update_running(
    mean: DeviceArray, var: DeviceArray, statistics: DeviceArray, momentum: float, correction: float
) -> None:
    """running = momentum * running + (1 - momentum) * batch; what has no weight counts not even as a NaN."""
    if momentum < 1.0:
        blocks = n_blocks(mean.size, THREADS)
        merging.update(_FLOAT64, blocks, mean, var, statistics, mean.size, momentum, correction)


def key_word(key: tuple[int, int]) -> int:
    """Both words of a key as one number."""
    return key[0] | key[1] << 32


def dropout(y: DeviceArray, x: DeviceArray, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """y = scale * x where the mask law keeps, else +0."""
    aligned = x.is_aligned and y.is_aligned
    blocks = n_blocks(x.size, THREADS * 4 * RUNS)
    masks.dropout(x.dtype, blocks, y, x, key_word(key), call, threshold, scale, aligned)


def keep_mask(mask: DeviceArray, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """mask[j] = whether the mask law keeps element first + j."""
    masks.keep_mask(_BOOL, n_blocks(mask.size, THREADS * RUNS) + 1, mask, key_word(key), call, threshold, first)


def keep_samples(mask: DeviceArray, ids: DeviceArray, key: tuple[int, int], call: int, threshold: int) -> None:
    """mask[n, j] = whether the mask law keeps element j under the key of sample ids[n]."""
    n_samples, length = mask.shape
    blocks = n_blocks(n_samples * (length + RUNS - 1), THREADS * RUNS) + 1
    masks.keep_samples(_BOOL, blocks, mask, ids, length, key_word(key), call, threshold)


def enumerate_masks(masks: DeviceArray, weights: DeviceArray, p: DeviceArray, first: int) -> None:
    """masks[r, j] = bit j of first + r, weights[r] = its probability: on the host, for what asks for them is there."""
    filled, probabilities = np.empty(masks.shape, np.bool_), np.empty(weights.shape)
    _reference.enumerate_masks(filled, probabilities, p.to_host(), first)
    masks.assign(filled)
    weights.assign(probabilities)


def apply_mask(y: DeviceArray, x: DeviceArray, mask: DeviceArray, scale: float) -> None:
    """y = scale * x where a given mask keeps, else +0: by planes where it is constant along memory."""
    n_outer, n_shared, length = x.shape
    if length == 1 and n_shared > 1:
        shift, blocks, aligned = tiles(n_outer, n_shared, y, x)
        masks.mask_planes(x.dtype, blocks, y, x, mask, n_shared, shift, scale, aligned)
    else:
        if n_shared == 1:
            n_outer, length = 1, x.size
        shift, blocks, aligned = tiles(n_outer * n_shared, length, y, x)
        masks.mask_elements(x.dtype, blocks, y, x, mask, n_shared, length, shift, scale, aligned)


def dropout_transposed(
    y: DeviceArray, x: DeviceArray, key: tuple[int, int], call: int, threshold: int, scale: float
) -> None:
    """The same for elements that the law counts in another order of axes."""
    n_outer, n_p, n_q = x.shape
    blocks = n_outer * n_blocks(n_p, transposed.DEPTH) * n_blocks(n_q, transposed.SIDE)
    transposed.dropout_transposed(x.dtype, blocks, y, x, n_p, n_q, key_word(key), call, threshold, scale)
