"""Dropout with a mask of bits, in the pieces of a plan of `normdrop._cpu.kernels.drop_block`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kernels.drop_block import WORD, elements_of, word_from
from normdrop._cpu.kernels.dropping import masked, numbers_of
from normdrop._cpu.kinds import Index, Memory, Real
from normdrop._cpu.lanes.memory import load, load_part, pointer, store_part
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import fence, first_whole_line, is_long, should_stream, store_or_stream
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import READ_ONCE


@helper
def _bits(word: Any, k: Index) -> Any:
    """16 bits of a word, from bit k on."""
    return np.uint16(word >> np.uint64(k) & np.uint64(2**LANES - 1))


@helper
def _mask_vector(y: Memory, x: Memory, i: Index, bits: Any, law: Any) -> None:
    """y = scale * x where kept, else +0, on 16 elements from i; law = (`numbers_of` the scale, streamed or not)."""
    numbers, streaming = law
    store_or_stream(y, i, masked(bits, load(x, i), numbers), streaming)


@helper
def _mask_part(y: Memory, x: Memory, run: Any, bits: Any, numbers: Any) -> None:
    """The same on run = (start, stop), at most 16 elements."""
    start, stop = run
    store_part(y, start, masked(bits, load_part(x, start, start, stop), numbers), start, stop)


@kernel("oibqf")
def mask_pieces(y: Memory, x: Memory, kept: Memory, plan: Memory, scale: Real) -> None:
    """y[i] = scale * x[i] where the bit of i is set, else +0; flat arrays. Parallel over the tasks of a plan."""
    n_tasks = (plan[0] + plan[8] - 1) // plan[8] * plan[9]
    for task in prange(n_tasks):
        start, n = elements_of(plan, task)
        stop, ahead = start + n, task * plan[13] * WORD - start  # ahead + i: where the bit of element i is
        numbers = numbers_of(x, scale)
        streaming = should_stream(y, x, READ_ONCE) and is_long(n)
        law = numbers, streaming
        to, source = pointer(y, 0), pointer(x, 0)
        i = first_whole_line(to, start, stop, streaming)
        if i > start:
            _mask_part(to, source, (start, i), _bits(word_from(kept, ahead + start), 0), numbers)
        while i + WORD <= stop:
            word = word_from(kept, ahead + i)
            _mask_vector(to, source, i, _bits(word, 0), law)
            _mask_vector(to, source, i + LANES, _bits(word, LANES), law)
            _mask_vector(to, source, i + 2 * LANES, _bits(word, 2 * LANES), law)
            _mask_vector(to, source, i + 3 * LANES, _bits(word, 3 * LANES), law)
            i += WORD
        while i + LANES <= stop:
            _mask_vector(to, source, i, _bits(word_from(kept, ahead + i), 0), law)
            i += LANES
        if i < stop:
            _mask_part(to, source, (i, stop), _bits(word_from(kept, ahead + i), 0), numbers)
        fence()
