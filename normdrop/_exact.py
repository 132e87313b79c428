"""Sums without rounding: integers on a grid that is fixed before any data is seen, so that no order matters.

A sum is an integer times 2**-unit, in limbs of 32 bits, the lowest first: limb k counts 2**(32 k - unit). They lie in
int64, so that many additions fit before carries must go on. Limbs are canonical once those below the last are from 0 to
2**32 - 1; equal sums then have equal limbs. For float16, bfloat16 and float32, whose squares float64 holds, the narrow
grid is enough; the wide one reaches from the square of the smallest float64 to that of the largest.

A block of exact sums is int64 of shape (C, W): n, the limbs of sum(x), those of sum(x * x), and how many values were
NaN, +inf and -inf. The sum of two blocks is the block of both parts, but for carries.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Block: TypeAlias = npt.NDArray[np.int64]
Vector: TypeAlias = npt.NDArray[np.float64]


class Grid(NamedTuple):
    """How sums are laid out; the unit of sum(x * x) is twice that of sum(x)."""

    unit: int
    n_limbs: int
    """Limbs of sum(x)."""
    n_square_limbs: int

    @property
    def n_columns(self) -> int:
        """Limbs of both sums, and the three counts of what is not finite."""
        return self.n_limbs + self.n_square_limbs + 3


# From 2**-unit, below the last digit of any value, to the sum of 2**63 largest ones.
NARROW = Grid(224, 13, 24)  # float32 held as float64: down to 2**-201
WIDE = Grid(1088, 68, 134)

_BITS = 32


def grid_of(dtype: np.dtype[Any]) -> Grid:
    """Return the grid for values of a dtype."""
    return WIDE if dtype == np.float64 else NARROW


def grid_of_block(block: Block) -> Grid | None:
    """Return the grid of a block, or None for another array."""
    grids = {1 + grid.n_columns: grid for grid in (NARROW, WIDE)}
    return grids.get(block.shape[1]) if block.ndim == 2 else None


def limbs(value: int, n: int) -> list[int]:
    """Return an integer in n limbs, canonical."""
    low = [(value >> (_BITS * k)) & 0xFFFFFFFF for k in range(n - 1)]
    return [*low, value >> (_BITS * (n - 1))]


def empty(n_channels: int) -> Block:
    """Return the block of no values."""
    return np.zeros((n_channels, 1 + NARROW.n_columns), np.int64)


def checked(block: Block) -> Block:
    """Return an int64 array with carries done, after checking that it is a block."""
    if grid_of_block(block) is None or len(block) == 0:
        raise ValueError(
            f"array must have shape (C, {1 + NARROW.n_columns}) or (C, {1 + WIDE.n_columns}) as to_array() returns it; "
            f"got {block.shape}"
        )
    if (block[:, [0, -3, -2, -1]] < 0).any():
        raise ValueError("array[:, 0] must be numbers of values, zero or more; pass what to_array() returned")
    return carried(block)


def merge(a: Block, b: Block) -> Block:
    """Return the block of both parts."""
    a, b = _alike(a, b)
    return carried(a + b)


def equal(a: Block, b: Block) -> bool:
    """Whether two blocks are the same."""
    return np.array_equal(*_alike(a, b))


def _alike(a: Block, b: Block) -> tuple[Block, Block]:
    """Return both on one grid."""
    if a.shape[1] == b.shape[1]:
        return a, b
    return (_widened(a), b) if a.shape[1] < b.shape[1] else (a, _widened(b))


def carried(block: Block) -> Block:
    """Return the block with canonical limbs."""
    block = block.copy()
    for sums in _sums(block):
        for k in range(sums.shape[1] - 1):
            sums[:, k + 1] += sums[:, k] >> _BITS
            sums[:, k] &= 0xFFFFFFFF
    return block


def _sums(block: Block) -> tuple[Block, Block]:
    """View the limbs of both sums."""
    grid = grid_of_block(block)
    assert grid is not None
    squares = 1 + grid.n_limbs
    return block[:, 1:squares], block[:, squares:-3]


def _widened(block: Block) -> Block:
    wide = np.zeros((len(block), 1 + WIDE.n_columns), np.int64)
    wide[:, 0], wide[:, -3:] = block[:, 0], block[:, -3:]
    for power, (target, sums) in enumerate(zip(_sums(wide), _sums(block), strict=True), 1):
        first = power * (WIDE.unit - NARROW.unit) // _BITS
        target[:, first : first + sums.shape[1]] = sums
    return carried(wide)


def _integers(sums: Block) -> list[int]:
    low = np.ascontiguousarray(sums[:, :-1].astype("<u4"))
    top = _BITS * low.shape[1]
    lasts = [int(last) << top for last in sums[:, -1]]
    return [int.from_bytes(row.tobytes(), "little") + last for row, last in zip(low, lasts, strict=True)]


def n(block: Block) -> Vector:
    """Return the number of values of each channel."""
    return block[:, 0].astype(np.float64)


def mean(block: Block) -> Vector:
    """Return the mean of each channel, rounded once."""
    (s, _), grid = _sums(block), grid_of_block(block)
    assert grid is not None
    result = np.full(len(block), np.nan)
    for c, total in enumerate(_integers(s)):
        n, (n_nan, n_high, n_low) = int(block[c, 0]), block[c, -3:]
        if n_nan == 0 and (n_high == 0 or n_low == 0) and n > 0:
            result[c] = math.inf if n_high else -math.inf if n_low else total / (n << grid.unit)
    return result


def var(block: Block, ddof: float) -> Vector:
    """Return the variance of each channel, (n sum(x * x) - sum(x)**2) / (n (n - ddof)), rounded once."""
    (s, t), grid = _sums(block), grid_of_block(block)
    assert grid is not None
    result = np.full(len(block), np.nan)
    numerator, denominator = ddof.as_integer_ratio()
    for c, (total, squares) in enumerate(zip(_integers(s), _integers(t), strict=True)):
        n = int(block[c, 0])
        left = n * denominator - numerator  # n - ddof, times the denominator of ddof
        if n > 0 and left > 0 and not block[c, -3:].any():
            result[c] = _ratio((n * squares - total**2) * denominator, n * left << (2 * grid.unit))
    return result


def _ratio(a: int, b: int) -> float:
    """Return a / b, rounded once, as Python divides integers."""
    try:
        return a / b
    except OverflowError:
        return math.inf
