"""Masks of pieces of memory: drawn by the mask law, or taken from a given mask, into a buffer in a near cache.

Loops whose vectors do not begin where groups of the mask law do read the mask of a piece from there, a byte for each
element, instead of drawing 256 elements at a place.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.kernels.elementwise import prefetch_each
from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kinds import Index, Memory
from normdrop._cpu.lanes.bits import store_bits
from normdrop._cpu.lanes.memory import pointer
from normdrop._cpu.lanes.simd import LANES, apart
from normdrop._cpu.toolchain.launch import helper, outlined
from normdrop._cpu.tuning import MASK_PIECE

BEYOND = 2 * PAIR  # bytes of a buffer, besides one for each element: masks are drawn for whole pairs of groups
GIVEN = -1  # instead of a threshold, where the mask is given


@helper
def in_loop(ahead: Any) -> Any:
    """What a loop prefetches where there is no mask."""
    return ahead


@helper
def while_drawn(ahead: Any) -> Any:
    """What a loop prefetches where it has come while the mask was drawn."""
    return None


@helper
def share(worker: Index, n_workers: Index, n_tasks: Index) -> Any:
    """Tasks of a worker: (first, end)."""
    return worker * n_tasks // n_workers, (worker + 1) * n_tasks // n_workers


@helper
def whole(start: Index, stop: Index) -> Any:
    """End of the first piece of [start, stop) where there is no mask."""
    return stop


@helper
def cut(start: Index, stop: Index) -> Any:
    """End of the first piece of [start, stop); pieces end where groups do."""
    return min(stop, (start // MASK_PIECE + 1) * MASK_PIECE)


@helper
def no_mask(buffer: Memory, start: Index, stop: Index, law: Memory, given: Memory, ahead: Any) -> Any:
    """Fill in nothing, for operations that read no mask."""
    return 0


@outlined
def _draw(buffer: Memory, first: Index, n_pairs: Index, law: Any, ahead: Any) -> None:
    """buffer[k] = whether the mask law keeps element 256 * first + k, of n pairs of groups; law = (key, call, T).

    Drawing takes long and reads nothing: meanwhile comes what is to be read next, ahead = (arrays, how far ahead).
    """
    apart()
    key0, key1, call, threshold = law
    for p in range(n_pairs):
        draws = draw(first + p, call, key0, key1, threshold)
        prefetch_each(ahead, p * PAIR, PAIR)
        at = p * PAIR
        for k in range(PAIR // (2 * LANES)):
            low, high = kept(draws[k], threshold)
            store_bits(buffer, at + 2 * LANES * k, low)
            store_bits(buffer, at + 2 * LANES * k + LANES, high)


@helper
def _take(buffer: Memory, start: Index, stop: Index, given: Memory, fold: Any) -> None:
    """buffer[i - start] = element (a, b) of a given mask (A, B), i being element (a, s, b); fold = (S, B)."""
    n_shared, length = fold
    i = start
    while i < stop:
        row = i // (n_shared * length)
        if length == 1:  # whole planes
            n = min((row + 1) * n_shared, stop) - i
            value = given[row]
            for k in range(n):
                buffer[i - start + k] = value
        else:
            first = i % length
            n = min(length - first, stop - i)
            for k in range(n):
                buffer[i - start + k] = given[row * length + first + k]
        i += n


@helper
def fill(buffer: Memory, start: Index, stop: Index, law: Memory, given: Memory, ahead: Any) -> Any:
    """Fill in the mask of elements [start, stop), and return where in the buffer that of `start` is.

    law = (two words of the key, call, threshold, S, B), the last two as in `_take`; arrays of `ahead`, as in `_draw`,
    begin with element `start`.
    """
    if law[3] == GIVEN:
        _take(buffer, start, stop, given, (law[4], law[5]))
        return 0
    return drawn(buffer, start, stop, (law[0], law[1], law[2], law[3]), ahead)


@helper
def drawn(buffer: Memory, start: Index, stop: Index, law: Any, ahead: Any) -> Any:
    """Fill in the mask of elements [start, stop) by law = (two words of the key, call, threshold), as `fill` does."""
    first = start // PAIR
    _draw(pointer(buffer, 0), first, (stop + PAIR - 1) // PAIR - first, law, ahead)
    return start - first * PAIR
