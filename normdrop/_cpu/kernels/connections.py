"""DropConnect with a mask for each sample: masks of a piece are drawn into a near cache, then summed by.

Rows of masks are those of an (N * O, I) matrix, and a piece has several whole ones, or a part of one. Every sum is in
float64, in which products of float32 are exact, and its order depends on nothing but its length.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from normdrop._cpu.kernels.mask_pieces import drawn, share
from normdrop._cpu.kinds import Index, Memory, Real, Workspace
from normdrop._cpu.lanes.bits import keep, load_bits
from normdrop._cpu.lanes.memory import CACHE_LINE, element, load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, sum_lanes, widen
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import MASK_BUFFER, MASK_PIECE

BUFFER = MASK_BUFFER + CACHE_LINE  # bytes of a worker's masks: the last bits of a row are loaded with what follows


@helper
def _rows_at_once(n_in: Index) -> Any:
    """Rows of a piece, each of whole vectors."""
    return max(1, MASK_PIECE // ((n_in + LANES - 1) // LANES * LANES))


@helper
def _zero(sums: Memory, n: Index) -> None:
    for i in range(0, n, LANES):
        store(sums, i, splat(0.0))


@helper
def _row_sum(total: Any, a: Memory, b: Memory, mask: Memory, n: Index) -> Any:
    """Return the 16 sums total + a * b over kept elements."""
    for i in range(0, n - LANES + 1, LANES):
        total = total + keep(load_bits(mask, i), widen(load(a, i)) * widen(load(b, i)))
    i = n - n % LANES
    if i < n:
        total = total + keep(load_bits(mask, i), widen(load_part(a, i, i, n)) * widen(load_part(b, i, i, n)))
    return total


@helper
def _add_row(sums: Memory, a: Memory, factor: Real, mask: Memory, n: Index) -> None:
    """sums += a * factor where kept; sums has whole vectors."""
    factors = splat(factor)
    for i in range(0, n - LANES + 1, LANES):
        store(sums, i, load(sums, i) + keep(load_bits(mask, i), widen(load(a, i)) * factors))
    i = n - n % LANES
    if i < n:
        store(sums, i, load(sums, i) + keep(load_bits(mask, i), widen(load_part(a, i, i, n)) * factors))


@helper
def _write(to: Memory, sums: Memory, scale: Real, n: Index) -> None:
    """Set to = scale * sums, rounded."""
    for i in range(0, n - LANES + 1, LANES):
        store(to, i, load(sums, i) * scale)
    i = n - n % LANES
    if i < n:
        store_part(to, i, load(sums, i) * scale, i, n)


@kernel("oiidqfM")
def forward(
    y: Memory, x: Memory, weight: Memory, bias: Memory, law: Memory, scale: Real, masks: Memory
) -> None:  # fmt: skip
    """y (N, O) = scale * sum of weight (O, I) * x (N, I) over kept + bias; law = (key, call, T, I). Over workers."""
    n_rows, n_out, n_in, n_workers = y.size, bias.size, law[4], masks.size // BUFFER
    at_once = _rows_at_once(n_in)
    for worker in prange(n_workers):
        words = law[0], law[1], law[2], law[3]
        mask, to, inputs, weights = pointer(masks, worker * BUFFER), pointer(y, 0), pointer(x, 0), pointer(weight, 0)
        task, end = share(worker, n_workers, (n_rows + at_once - 1) // at_once)
        for first in range(task * at_once, min(end * at_once, n_rows), at_once):
            stop = min(first + at_once, n_rows) * n_in
            origin = 0  # element whose mask would be the buffer's first
            for row in range(first, min(first + at_once, n_rows)):
                sample = row // n_out
                o = row - sample * n_out
                total = splat(0.0)
                for i in range(0, n_in, MASK_PIECE):
                    at = row * n_in + i
                    if row == first:  # a row of several pieces is alone
                        origin = at - drawn(mask, at, min(at + MASK_PIECE, stop), words, None)
                    a, b = pointer(weights, o * n_in + i), pointer(inputs, sample * n_in + i)
                    total = _row_sum(total, a, b, pointer(mask, at - origin), min(MASK_PIECE, n_in - i))
                store_part(to, row, splat(sum_lanes(total) * scale + bias[o]), row, row + 1)


@kernel("oiiqfMP")
def input_gradient(
    dx: Memory, dy: Memory, weight: Memory, law: Memory, scale: Real, masks: Memory, work: Workspace
) -> None:  # fmt: skip
    """dx (N, I) = scale * sum of weight (O, I) * dy (N, O) over kept, o in order. Parallel over workers with samples.

    Workers have a row of `work` for the sums of a sample.
    """
    n_in, n_workers, width = law[4], work.shape[0], work.shape[1]
    n_samples = dx.size // n_in
    n_out = dy.size // n_samples
    at_once = _rows_at_once(n_in)
    for worker in prange(n_workers):
        words = law[0], law[1], law[2], law[3]
        mask, sums, weights = pointer(masks, worker * BUFFER), pointer(work, worker * width), pointer(weight, 0)
        sample, end = share(worker, n_workers, n_samples)
        for n in range(sample, end):
            _zero(sums, width)
            for first in range(0, n_out, at_once):
                stop = (n * n_out + min(first + at_once, n_out)) * n_in
                origin = 0
                for o in range(first, min(first + at_once, n_out)):
                    factor = element(dy, n * n_out + o)
                    for i in range(0, n_in, MASK_PIECE):
                        at = (n * n_out + o) * n_in + i
                        if o == first:
                            origin = at - drawn(mask, at, min(at + MASK_PIECE, stop), words, None)
                        near = pointer(weights, o * n_in + i), factor, pointer(mask, at - origin)
                        _add_row(pointer(sums, i), *near, min(MASK_PIECE, n_in - i))
            _write(pointer(dx, n * n_in), sums, scale, n_in)


@kernel("oiiqfMP")
def weight_gradient(
    dweight: Memory, dy: Memory, x: Memory, law: Memory, scale: Real, masks: Memory, work: Workspace
) -> None:  # fmt: skip
    """dweight (O, I) = scale * sum of dy (N, O) * x (N, I) over kept, n in order. Parallel over workers with pieces.

    Workers have a row of `work` for the sums of a piece.
    """
    n_in, n_workers = law[4], work.shape[0]
    n_out, n_samples = dweight.size // n_in, x.size // n_in
    at_once, n_parts = _rows_at_once(n_in), (n_in + MASK_PIECE - 1) // MASK_PIECE
    width = work.shape[1] // at_once
    for worker in prange(n_workers):
        words = law[0], law[1], law[2], law[3]
        mask, sums, inputs = pointer(masks, worker * BUFFER), pointer(work, worker * work.shape[1]), pointer(x, 0)
        task, end = share(worker, n_workers, (n_out + at_once - 1) // at_once * n_parts)
        for piece in range(task, end):
            first, i = piece // n_parts * at_once, piece % n_parts * MASK_PIECE
            stop, length = min(first + at_once, n_out), min(MASK_PIECE, n_in - i)
            _zero(sums, (stop - first) * width)
            for n in range(n_samples):
                at = (n * n_out + first) * n_in + i
                start = drawn(mask, at, at + (stop - first - 1) * n_in + length, words, None)
                for o in range(first, stop):
                    bits, to = pointer(mask, start + (o - first) * n_in), pointer(sums, (o - first) * width)
                    _add_row(to, pointer(inputs, n * n_in + i), element(dy, n * n_out + o), bits, length)
            for o in range(first, stop):
                _write(pointer(dweight, o * n_in + i), pointer(sums, (o - first) * width), scale, length)
