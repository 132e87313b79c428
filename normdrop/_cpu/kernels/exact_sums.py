"""Sums of values and of their squares without rounding, in limbs as `normdrop._exact` lays them out: one by one.

Integers alone are added, so that blocks, threads and order change nothing. A value is its mantissa, an integer, times a
power of two. Its square is a float64 of the same kind where that holds it, else the three products of the halves of the
mantissa. `normdrop._cpu.kernels.exact_lanes` adds values of float32 and shorter ones in vectors, where it can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop._cpu.kinds import Grid, Index, Memory, Real, Shape, Table
from normdrop._cpu.lanes.memory import element, pointer
from normdrop._cpu.lanes.words import word
from normdrop._cpu.toolchain.launch import helper, kernel

CARRY_AFTER = 1 << 26  # values, of which each adds less than 2**36 to a limb
_LIMB, _HALF = 0xFFFFFFFF, 27


@helper
def _mantissa(bits: Index) -> Any:
    """Value of these bits = m * 2**e with integers: (m, e); it is finite."""
    exponent, m = (bits >> 52) & 0x7FF, bits & ((1 << 52) - 1)
    if exponent > 0:
        m |= 1 << 52
    else:
        exponent = 1
    return (-m if bits < 0 else m), exponent - 1075


@helper
def _deposit(sums: Table, row: Index, first: Index, m: Index, place: Index) -> None:
    """Add m * 2**place, |m| < 2**56, to the limbs of a row from `first` on."""
    k, shift = first + (place >> 5), place & 31
    low, high = (m & _LIMB) << shift, (m >> 32) << shift
    sums[row, k] += low & _LIMB
    sums[row, k + 1] += (low >> 32) + (high & _LIMB)
    sums[row, k + 2] += high >> 32


@helper
def deposit(sums: Table, row: Index, first: Index, value: Real, unit: Index) -> None:
    """Add a finite value to the limbs of a row from `first` on, which count 2**-unit."""
    m, e = _mantissa(word(value))
    if m != 0:
        _deposit(sums, row, first, m, e + unit)


@helper
def add(sums: Table, row: Index, value: Real, grid: Grid) -> None:
    """Add a value to a row of sums; grid = (unit, limbs of sum(x), of sum(x * x), whether it is wide)."""
    unit, n, n_squares, wide = grid
    bits = word(value)
    if (bits >> 52) & 0x7FF == 0x7FF:
        kind = 0 if bits & ((1 << 52) - 1) != 0 else 2 if bits < 0 else 1
        sums[row, n + n_squares + kind] += 1
        return
    if wide:
        m, e = _mantissa(bits)
        _deposit(sums, row, 0, m, e + unit)
        place = 2 * (e + unit)
        m = abs(m)
        a, b = m >> _HALF, m & ((1 << _HALF) - 1)
        _deposit(sums, row, n, b * b, place)
        _deposit(sums, row, n, 2 * a * b, place + _HALF)
        _deposit(sums, row, n, a * a, place + 2 * _HALF)
    else:
        deposit(sums, row, 0, value, unit)
        deposit(sums, row, n, value * value, 2 * unit)


@helper
def carry(sums: Table, row: Index, grid: Grid) -> None:
    """Make the limbs of a row canonical."""
    n, n_squares = grid[1], grid[2]
    for k in range(n + n_squares - 1):
        if k != n - 1:  # the last one of sum(x)
            sums[row, k + 1] += sums[row, k] >> 32
            sums[row, k] &= _LIMB


@helper
def clear(sums: Table, rows: Any) -> None:
    """Set rows = (first, end) to zero."""
    for row in range(rows[0], rows[1]):
        for k in range(sums.shape[1]):
            sums[row, k] = 0


@helper
def part_of(p: Index, n_parts: Index, shape: Shape) -> Any:
    """Part p as (first of outer, end, first of inner, end)."""
    outer, _, inner = shape
    if outer >= n_parts:
        return p * outer // n_parts, (p + 1) * outer // n_parts, np.int64(0), inner
    return np.int64(0), outer, p * inner // n_parts, (p + 1) * inner // n_parts


@helper
def merge(sums: Table, work: Table, grid: Grid) -> None:
    """Add the sums of all parts, whose channels follow each other."""
    n_channels = sums.shape[0]
    clear(sums, (0, n_channels))
    for c in range(n_channels):
        for row in range(c, work.shape[0], n_channels):
            for k in range(sums.shape[1]):
                sums[c, k] += work[row, k]
        carry(sums, c, grid)


@helper
def _part_sums(sums: Table, x: Memory, shape: Shape, part: Any, how: Any) -> None:
    """Fill the rows of a part from `first` on; how = (first, grid, values after which carries go on)."""
    _, n_channels, inner = shape
    o_first, o_end, i_first, i_end = part
    first, grid, carry_after = how
    clear(sums, (first, first + n_channels))
    length = max(1, min(i_end - i_first, carry_after))
    rows = carry_after // length
    for o in range(o_first, o_end, rows):
        for i in range(i_first, i_end, length):
            for place in range(o, min(o + rows, o_end)):
                for c in range(n_channels):
                    start = (place * n_channels + c) * inner
                    for j in range(start + i, start + min(i + length, i_end)):
                        add(sums, first + c, element(x, j), grid)
            for c in range(n_channels):
                carry(sums, first + c, grid)


@kernel("LILnnnn")
def exact_sums(
    sums: Table, x: Memory, work: Table, unit: Index, n: Index, n_squares: Index, carry_after: Index
) -> None:
    """Fill sums of each channel: n limbs of sum(x), those of sum(x * x), NaN, +inf and -inf. Parallel over parts.

    Work has the sums of each part. For float64, on the wide grid.
    """
    n_channels = x.shape[1]
    n_parts = work.shape[0] // n_channels
    grid = unit, n, n_squares, True
    for p in prange(n_parts):
        part = part_of(p, n_parts, x.shape)
        _part_sums(work, pointer(x, 0), x.shape, part, (p * n_channels, grid, carry_after))
    merge(sums, work, grid)
