"""Masks that drop blocks: seeds are drawn by the mask law, then widened to blocks along one axis after another.

A piece of the mask lies in a near cache, a bit for each element, set where a seed's block covers it. Along an axis whose
neighbors are `stride` apart, an element is covered from there on if it is or the one `stride` before it is: because the
last block - 1 places of each axis have no seeds, what lies before the first place of an axis is never covered, and all
axes can be walked in flat memory, 64 elements at a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kinds import Flag, Index, Memory, Shape
from normdrop._cpu.lanes.bits import count_bits, first_bit, store_bits
from normdrop._cpu.lanes.simd import LANES, apart
from normdrop._cpu.toolchain.launch import helper, kernel, outlined

WORD = 64
BEYOND = 2 * PAIR // WORD + 2  # words of a buffer besides its elements': seeds are drawn for whole pairs of groups
_WORDS = PAIR // WORD
_ONE, _LAST = np.uint64(1), np.uint64(WORD - 1)  # a shift by 64 - r has two steps, for r may be 0
_ALL = np.uint64(2**WORD - 1)


@outlined
def _draw_seeds(to: Memory, first: Index, n_pairs: Index, law: Any) -> None:
    """Bit k of `to` = whether element 256 * first + k is a seed, of n pairs of groups; law = (key, call, threshold)."""
    apart()
    key0, key1, call, threshold = law
    for p in range(n_pairs):
        draws = draw(first + p, call, key0, key1, threshold)
        for k in range(_WORDS):
            a, b = kept(draws[2 * k], threshold)
            c, d = kept(draws[2 * k + 1], threshold)
            low = np.uint64(a) | np.uint64(b) << np.uint64(LANES)
            high = np.uint64(c) | np.uint64(d) << np.uint64(LANES)
            to[p * _WORDS + k] = _ALL ^ (low | high << np.uint64(2 * LANES))


@helper
def _word(bits: Memory, at: Index) -> Any:
    """64 bits, from bit `at` on."""
    w, r = np.uint64(at) // np.uint64(WORD), np.uint64(at) % np.uint64(WORD)
    return bits[w] >> r | bits[w + _ONE] << _ONE << (_LAST - r)


@helper
def _set(bits: Memory, at: Index, word: Any) -> None:
    """Set the bits of a word, from bit `at` on."""
    w, r = np.uint64(at) // np.uint64(WORD), np.uint64(at) % np.uint64(WORD)
    bits[w] |= word << r
    bits[w + _ONE] |= word >> _ONE >> (_LAST - r)


@outlined
def _place_rows(to: Memory, seeds: Memory, at: Index, n_planes: Index, sides: Shape, seed_sides: Shape) -> None:
    """Put the seeds, from bit `at` on, where they are in planes with other sides: row by row."""
    apart()
    n1, n2, n3 = sides
    m1, m2, m3 = seed_sides
    for a in range(n_planes):
        for i in range(m1):
            row = (a * n1 + i) * n2 * n3
            for _ in range(m2):
                for k in range(0, m3, WORD):
                    word = _word(seeds, at + k)
                    if k + WORD > m3:
                        word &= _ALL >> np.uint64(k + WORD - m3)
                    _set(to, row + k, word)
                at += m3
                row += n3


@outlined
def _place_each(to: Memory, seeds: Memory, at: Index, n_planes: Index, sides: Shape, seed_sides: Shape) -> None:
    """Put the seeds, from bit `at` on, where they are in planes with other sides: one by one, where they are few."""
    apart()
    n1, n2, n3 = sides
    m1, m2, m3 = np.uint64(seed_sides[0]), np.uint64(seed_sides[1]), np.uint64(seed_sides[2])
    end = at + n_planes * seed_sides[0] * seed_sides[1] * seed_sides[2]
    gap1, gap2, gap3 = (n1 - seed_sides[0]) * n2 * n3, (n2 - seed_sides[1]) * n3, n3 - seed_sides[2]
    for w in range(at // WORD, (end + WORD - 1) // WORD):
        word = seeds[w]
        while word != 0:
            place = w * WORD + first_bit(word)
            word &= word - _ONE
            if at <= place < end:
                row = np.uint64(place - at) // m3
                plane = row // m2
                place += np.int64(row) * gap3 + np.int64(plane) * gap2 - at
                if gap1 != 0:
                    place += np.int64(plane // m1) * gap1
                to[place // WORD] |= _ONE << np.uint64(place % WORD)


@outlined
def _clear(bits: Memory, n_words: Index) -> None:
    apart()
    for w in range(n_words):
        bits[w] = 0


@outlined
def _spread(to: Memory, source: Memory, shift: Index, n_words: Index) -> None:
    """Bit i of `to` = whether source covers place i or the one a shift before it."""
    apart()
    n = min(shift // WORD, n_words)
    left = np.uint64(shift % WORD)
    right = _LAST - left
    for w in range(n):
        to[w] = source[w]
    if n < n_words:
        to[n] = source[n] | source[0] << left
    for w in range(np.uint64(min(n + 1, n_words)), np.uint64(n_words)):
        before = w - np.uint64(n)
        to[w] = source[w] | source[before] << left | source[before - _ONE] >> _ONE >> right


@outlined
def _finish(mask: Memory, begin: Index, n: Index, covered: Memory, at: Index) -> Any:
    """mask[begin + i] = whether bit at + i is not set, for n elements; return for how many it is."""
    apart()
    n_kept = 0
    whole = n - n % WORD
    for i in range(0, whole, WORD):
        word = _word(covered, at + i) ^ _ALL
        n_kept += count_bits(word)
        for k in range(0, WORD, LANES):
            store_bits(mask, begin + i + k, np.uint16(word >> np.uint64(k) & np.uint64(2**LANES - 1)))
    if whole < n:
        word = (_word(covered, at + whole) ^ _ALL) & (_ALL >> np.uint64(whole + WORD - n))
        n_kept += count_bits(word)
        for k in range(n - whole):
            mask[begin + whole + k] = word >> np.uint64(k) & _ONE != 0
    return n_kept


@helper
def _widen(covered: Memory, other: Memory, n_words: Index, stride: Index, block: Index) -> Any:
    """Cover the block of each covered place along an axis; return the buffer that it is in then, and the other."""
    width = 1
    while width < block:
        more = min(width, block - width)
        _spread(other, covered, more * stride, n_words)
        covered, other = other, covered
        width += more
    return covered, other


@kernel("MLqnnnnb")
def keep_blocks(
    mask: Memory, counts: Any, plan: Memory, key0: Any, key1: Any, call: Any, threshold: Any, work: Memory
) -> None:
    """mask[a, i, j, k, b] = whether no seed's block covers it, flat; counts[task, 0] = how many a task keeps.

    plan = (shape of the mask, blocks, planes a of a task, bands of axis 1 into which each is divided, workers, words of
    each of a worker's three buffers in `work`, whether seeds are few). Parallel over workers with tasks, each of which
    draws all seeds whose blocks reach into it.
    """
    n_workers, n_each = plan[10], plan[11]
    for worker in prange(n_workers):
        outer, n1, n2, n3, inner = plan[0], plan[1], plan[2], plan[3], plan[4]
        b1, b2, b3, planes, n_bands = plan[5], plan[6], plan[7], plan[8], plan[9]
        m1, row, seed_row = n1 - b1 + 1, n2 * n3 * inner, (n2 - b2 + 1) * (n3 - b3 + 1) * inner
        own = work[3 * worker * n_each : 3 * (worker + 1) * n_each]
        seeds = own[2 * n_each :]
        first_task, end_task = share(worker, n_workers, counts.shape[0])
        for task in range(first_task, end_task):
            covered, other = own[:n_each], own[n_each : 2 * n_each]
            first = task // n_bands * planes
            n_planes = min(planes, outer - first)
            start, stop = task % n_bands * n1 // n_bands, (task % n_bands + 1) * n1 // n_bands
            seen, last = max(0, start - b1 + 1), min(stop, m1)
            at = (first * m1 + seen) * seed_row
            end = ((first + n_planes - 1) * m1 + last) * seed_row
            pair = at // PAIR
            _draw_seeds(seeds, pair, (end + PAIR - 1) // PAIR - pair, (key0, key1, call, threshold))
            n_words = (n_planes * (stop - seen) * row + WORD - 1) // WORD
            _clear(covered, n_words + 1)
            sides, seed_sides = (stop - seen, n2, n3 * inner), (last - seen, n2 - b2 + 1, (n3 - b3 + 1) * inner)
            place = at - pair * PAIR
            if plan[12] != 0:
                _place_each(covered, seeds, place, n_planes, sides, seed_sides)
            else:
                _place_rows(covered, seeds, place, n_planes, sides, seed_sides)
            covered, other = _widen(covered, other, n_words, inner, b3)
            covered, other = _widen(covered, other, n_words, n3 * inner, b2)
            covered, other = _widen(covered, other, n_words, row, b1)
            begin = (first * n1 + start) * row
            n_own = ((n_planes - 1) * n1 + stop - start) * row
            counts[task, 0] = _finish(mask, begin, n_own, covered, (start - seen) * row)
