"""Masks that drop blocks: seeds are drawn by the mask law, then widened to blocks along one axis after another.

A piece of the mask lies in a near cache, a bit for each element, set where a seed's block covers it. Along an axis
whose neighbors are `stride` apart, an element is covered from there on if it is or the one `stride` before it is:
because the last block - 1 places of each axis have no seeds, what lies before the first place of an axis is never
covered, and all axes can be walked in flat memory, 64 elements at a step.

A plan says how a mask is divided: (its shape, blocks, planes a of a task, bands of axis 1 into which each is divided,
workers, words of each of a worker's three buffers, whether seeds are few, words of what a task keeps).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kinds import Index, Memory, Shape
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
def word_from(bits: Memory, at: Index) -> Any:
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
                    word = word_from(seeds, at + k)
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


@helper
def _piece(plan: Memory, task: Index) -> Any:
    """Where a task begins, (plane, row), and where it ends."""
    n1, planes, n_bands = plan[1], plan[8], plan[9]
    first, band = task // n_bands * planes, task % n_bands
    return first, band * n1 // n_bands, min(first + planes, plan[0]), (band + 1) * n1 // n_bands


@helper
def elements_of(plan: Memory, task: Index) -> Any:
    """First element of a task, and how many it has."""
    first, start, end, stop = _piece(plan, task)
    row = plan[2] * plan[3] * plan[4]
    return (first * plan[1] + start) * row, ((end - first - 1) * plan[1] + stop - start) * row


@helper
def _cover(own: Memory, plan: Memory, task: Index, law: Any) -> Any:
    """Bits that say which elements of a task are covered, in a worker's memory, and the place of the first.

    All seeds are drawn whose blocks reach into the task; law = (two words of the key, call, threshold).
    """
    n_each = plan[11]
    covered, other, seeds = own[:n_each], own[n_each : 2 * n_each], own[2 * n_each :]
    n1, n2, n3, inner, b1, b2, b3 = plan[1], plan[2], plan[3], plan[4], plan[5], plan[6], plan[7]
    m1, row, seed_row = n1 - b1 + 1, n2 * n3 * inner, (n2 - b2 + 1) * (n3 - b3 + 1) * inner
    first, start, end, stop = _piece(plan, task)
    seen, last = max(0, start - b1 + 1), min(stop, m1)
    at = (first * m1 + seen) * seed_row
    pair = at // PAIR
    n_pairs = (((end - 1) * m1 + last) * seed_row + PAIR - 1) // PAIR - pair
    _draw_seeds(seeds, pair, n_pairs, law)
    n_words = ((end - first) * (stop - seen) * row + WORD - 1) // WORD
    _clear(covered, n_words + 1)
    sides, seed_sides = (stop - seen, n2, n3 * inner), (last - seen, n2 - b2 + 1, (n3 - b3 + 1) * inner)
    if plan[12] != 0:
        _place_each(covered, seeds, at - pair * PAIR, end - first, sides, seed_sides)
    else:
        _place_rows(covered, seeds, at - pair * PAIR, end - first, sides, seed_sides)
    covered, other = _widen(covered, other, n_words, inner, b3)
    covered, other = _widen(covered, other, n_words, n3 * inner, b2)
    covered, other = _widen(covered, other, n_words, row, b1)
    return covered, (start - seen) * row


@outlined
def _keep(mask: Memory, begin: Index, n: Index, covered: Memory, at: Index) -> Any:
    """mask[begin + i] = whether bit at + i is not set, for n elements; return for how many it is."""
    apart()
    n_kept = 0
    whole = n - n % WORD
    for i in range(0, whole, WORD):
        word = word_from(covered, at + i) ^ _ALL
        n_kept += count_bits(word)
        for k in range(0, WORD, LANES):
            store_bits(mask, begin + i + k, np.uint16(word >> np.uint64(k) & np.uint64(2**LANES - 1)))
    if whole < n:
        word = (word_from(covered, at + whole) ^ _ALL) & (_ALL >> np.uint64(whole + WORD - n))
        n_kept += count_bits(word)
        for k in range(n - whole):
            mask[begin + whole + k] = word >> np.uint64(k) & _ONE != 0
    return n_kept


@outlined
def _keep_bits(bits: Memory, first: Index, n: Index, covered: Memory, at: Index) -> Any:
    """The n bits from word `first` on = whether bit at + i is not set; return for how many it is."""
    apart()
    n_kept = 0
    n_words = (n + WORD - 1) // WORD
    for w in range(n_words):
        word = word_from(covered, at + w * WORD) ^ _ALL
        if w == n_words - 1:
            word &= _ALL >> np.uint64(n_words * WORD - n)
        bits[first + w] = word
        n_kept += count_bits(word)
    return n_kept


@kernel("MLqnnnnb")
def keep_blocks(
    mask: Memory, counts: Any, plan: Memory, key0: Any, key1: Any, call: Any, threshold: Any, work: Memory
) -> None:
    """mask[a, i, j, k, b] = whether no seed's block covers it, flat; counts[task, 0] = how many a task keeps.

    Parallel over workers with tasks; work: three buffers for each worker.
    """
    n_workers, n_own = plan[10], 3 * plan[11]
    for worker in prange(n_workers):
        own = work[worker * n_own : (worker + 1) * n_own]
        first_task, end_task = share(worker, n_workers, counts.shape[0])
        for task in range(first_task, end_task):
            covered, at = _cover(own, plan, task, (key0, key1, call, threshold))
            begin, n = elements_of(plan, task)
            counts[task, 0] = _keep(mask, begin, n, covered, at)


@kernel("bLqnnnnb")
def keep_block_bits(
    bits: Memory, counts: Any, plan: Memory, key0: Any, key1: Any, call: Any, threshold: Any, work: Memory
) -> None:
    """As `keep_blocks`, with a bit for each element: those of a task begin with a word."""
    n_workers, n_own = plan[10], 3 * plan[11]
    for worker in prange(n_workers):
        own = work[worker * n_own : (worker + 1) * n_own]
        first_task, end_task = share(worker, n_workers, counts.shape[0])
        for task in range(first_task, end_task):
            covered, at = _cover(own, plan, task, (key0, key1, call, threshold))
            _, n = elements_of(plan, task)
            counts[task, 0] = _keep_bits(bits, task * plan[13], n, covered, at)
