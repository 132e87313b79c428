"""Masks that drop blocks: seeds are drawn by the mask law, then widened to blocks along one axis after another.

A piece of the mask lies in a near cache, a byte for each element, 1 where a seed's block covers it. Along an axis whose
neighbors are `stride` apart, an element is covered from there on if it is or the one `stride` before it is: because the
last block - 1 places of each axis have no seeds, what lies before the first place of an axis is never covered, and all
axes can be walked in flat memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kinds import Index, Memory, Shape
from normdrop._cpu.lanes.bits import load_bits, store_bits
from normdrop._cpu.lanes.memory import pointer
from normdrop._cpu.lanes.simd import LANES, apart
from normdrop._cpu.toolchain.launch import helper, kernel, outlined

_ALL = np.uint16(2**LANES - 1)
BEYOND = 2 * PAIR + LANES  # bytes of a buffer besides its elements': seeds are drawn for whole pairs of groups


@outlined
def _draw_seeds(to: Memory, first: Index, n_pairs: Index, law: Any) -> None:
    """to[k] = whether element 256 * first + k is a seed, of n pairs of groups; law = (key, call, threshold)."""
    apart()
    key0, key1, call, threshold = law
    for p in range(n_pairs):
        draws = draw(first + p, call, key0, key1, threshold)
        at = p * PAIR
        for k in range(PAIR // (2 * LANES)):
            low, high = kept(draws[k], threshold)
            store_bits(to, at + 2 * LANES * k, low ^ _ALL)
            store_bits(to, at + 2 * LANES * k + LANES, high ^ _ALL)


@helper
def _place_row(to: Memory, at: Index, length: Index, seeds: Memory, first: Index, n: Index) -> None:
    """Put n seeds at the beginning of a row and zeros behind; up to 15 zeros too many, before the next row comes."""
    for k in range(0, length, LANES):
        bits = _ALL
        if k + LANES > n:
            bits = np.uint16((1 << max(n - k, 0)) - 1)
        store_bits(to, at + k, load_bits(seeds, first + k) & bits)


@outlined
def _place(to: Memory, seeds: Memory, at: Index, n_planes: Index, sides: Shape, seed_sides: Shape) -> None:
    """Put the seeds, from seeds[at] on, where they are in planes with other sides, and zeros elsewhere."""
    apart()
    n1, n2, n3 = sides
    m1, m2, m3 = seed_sides
    row = 0
    for _ in range(n_planes):
        for i in range(n1):
            for j in range(n2):
                n = m3 if i < m1 and j < m2 else 0
                _place_row(to, row, n3, seeds, at, n)
                at += n
                row += n3


@outlined
def _spread(to: Memory, source: Memory, shift: Index, n: Index) -> None:
    """to[i] = whether source covers place i or the one a shift before it."""
    apart()
    shift = min(shift, n)
    for i in range(shift):
        to[i] = source[i]
    for i in range(np.uint64(shift), np.uint64(n)):
        to[i] = source[i] | source[i - np.uint64(shift)]


@outlined
def _finish(mask: Memory, begin: Index, n: Index, covered: Memory, at: Index) -> Any:
    """mask[begin + i] = whether covered[at + i] is 0, for n elements; return for how many it is."""
    apart()
    n_kept = 0
    for i in range(np.uint64(n)):
        is_kept = covered[np.uint64(at) + i] == 0
        mask[np.uint64(begin) + i] = is_kept
        n_kept += is_kept
    return n_kept


@helper
def _widen(covered: Memory, other: Memory, n: Index, stride: Index, block: Index) -> Any:
    """Cover the block of each covered place along an axis; return the buffer that it is in then, and the other."""
    width = 1
    while width < block:
        more = min(width, block - width)
        _spread(other, covered, more * stride, n)
        covered, other = other, covered
        width += more
    return covered, other


@kernel("MLqnnnnu")
def keep_blocks(
    mask: Memory, counts: Any, plan: Memory, key0: Any, key1: Any, call: Any, threshold: Any, work: Memory
) -> None:
    """mask[a, i, j, k, b] = whether no seed's block covers it, flat; counts[task, 0] = how many a task keeps.

    plan = (shape of the mask, blocks, planes a of a task, bands of axis 1 into which each is divided, workers, bytes of
    each of a worker's two buffers in `work`). Parallel over workers with tasks, each of which draws all seeds whose
    blocks reach into it.
    """
    n_workers, n_bytes = plan[10], plan[11]
    for worker in prange(n_workers):
        outer, n1, n2, n3, inner = plan[0], plan[1], plan[2], plan[3], plan[4]
        b1, b2, b3, planes, n_bands = plan[5], plan[6], plan[7], plan[8], plan[9]
        m1, row, seed_row = n1 - b1 + 1, n2 * n3 * inner, (n2 - b2 + 1) * (n3 - b3 + 1) * inner
        own = work[2 * worker * n_bytes : 2 * (worker + 1) * n_bytes]
        first_task, end_task = share(worker, n_workers, counts.shape[0])
        for task in range(first_task, end_task):
            covered, other = own[:n_bytes], own[n_bytes:]
            first = task // n_bands * planes
            n_planes = min(planes, outer - first)
            start, stop = task % n_bands * n1 // n_bands, (task % n_bands + 1) * n1 // n_bands
            seen, last = max(0, start - b1 + 1), min(stop, m1)
            at = (first * m1 + seen) * seed_row
            end = ((first + n_planes - 1) * m1 + last) * seed_row
            pair = at // PAIR
            _draw_seeds(pointer(other, 0), pair, (end + PAIR - 1) // PAIR - pair, (key0, key1, call, threshold))
            sides, seed_sides = (stop - seen, n2, n3 * inner), (last - seen, n2 - b2 + 1, (n3 - b3 + 1) * inner)
            _place(covered, other, at - pair * PAIR, n_planes, sides, seed_sides)
            n = n_planes * (stop - seen) * row
            covered, other = _widen(covered, other, n, inner, b3)
            covered, other = _widen(covered, other, n, n3 * inner, b2)
            covered, other = _widen(covered, other, n, row, b1)
            begin = (first * n1 + start) * row
            n_own = ((n_planes - 1) * n1 + stop - start) * row
            counts[task, 0] = _finish(mask, begin, n_own, covered, (start - seen) * row)
