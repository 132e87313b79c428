"""What compiled code calls: the library's own kernels, serial, after checks of what types do not tell.

Each function here is one in machine code, too, so that vectors and options of its loops stay out of the caller. Its
name has the version of the laws and a digest of all sources: a caller that Numba has cached brings along what it calls,
and may meet that of a later normdrop in one process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cpu.kernels import drawn_masks
from normdrop._cpu.kinds import Index, Memory, Real
from normdrop._cpu.lanes.bits import keep
from normdrop._cpu.lanes.memory import address, item_size, load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, apart
from normdrop._cpu.toolchain.launch import helper, outlined
from normdrop.numba._law import check_law, scale_of, threshold_of

VERSION = "v1"  # of the mask law and of the statistics law

_dropout = helper(drawn_masks.dropout.function)


@helper
def overlap(a: Memory, b: Memory) -> Any:
    """Whether two arrays share memory."""
    first, other = address(a), address(b)
    return first < other + b.size * item_size(b) and other < first + a.size * item_size(a)


@helper
def overlap_partly(y: Memory, x: Memory) -> Any:
    """Whether two arrays of one size share memory without being the same."""
    return address(y) != address(x) and overlap(y, x)


@helper
def _keep_all_or_none(y: Memory, x: Memory, kept: Any) -> None:
    """y = x where the 16 bits of `kept` are set, else +0."""
    to, source, n = pointer(y, 0), pointer(x, 0), x.size
    whole = n // LANES * LANES
    for i in range(0, whole, LANES):
        store(to, i, keep(kept, load(source, i)))
    if whole < n:
        store_part(to, whole, keep(kept, load_part(source, whole, whole, n)), whole, n)


def _drop(y: Memory, x: Memory, p: Real, key0: Index, key1: Index, call: Index) -> None:
    """y = scale * x where the mask law keeps, else +0; any number of axes."""
    apart()
    threshold = threshold_of(p)
    check_law(key0, key1, call)
    if y.shape != x.shape:
        raise ValueError("the result must have the shape of what is dropped from")
    if overlap_partly(y, x):
        raise ValueError("the result overlaps what is dropped from in memory, without being it")
    if threshold == 0:
        _keep_all_or_none(y, x, np.uint16(0xFFFF))
    elif threshold == 1 << 32:
        _keep_all_or_none(y, x, np.uint16(0))
    else:
        _dropout(y, x, key0, key1, call, threshold, scale_of(threshold))


drop = outlined(_drop, VERSION)
