"""How threads share an array: by planes, runs of neighbors, or by rows of columns.

A plane is `inner` neighboring elements. A block has THREADS >> shift planes, each served by 1 << shift threads with
four neighbors at a time; long planes are cut into runs. A row is all columns of one outer index. A block has 4 <<
shift columns, four to a thread, and THREADS >> shift rows at a time. `shift` follows from the shape, so that the order
in which sums are summed does too.
"""

from __future__ import annotations

from typing import Any

from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, helper, n_blocks

RUN_PER_THREAD = 16  # elements of a run per thread
ROWS_PER_THREAD = 8  # rows of a tile per thread
COLUMN_SHIFT = 5  # at most so many threads side by side on a row: 32


@helper
def least(a: Any, b: Any) -> Any:
    """min(a, b), which the CUDA target of Numba 0.68 cannot compile."""
    return a if a < b else b


def _shift(quads: int, most: int) -> int:
    """Return the smallest shift, up to `most`, such that 1 << shift threads have a quad each."""
    return min(most, max(0, (quads - 1).bit_length()))


def plane_shift(inner: int) -> int:
    """Threads on a plane, as a power of two."""
    return _shift(n_blocks(inner, 4), THREADS.bit_length() - 1)


def column_shift(n_columns: int) -> int:
    """Threads side by side on a row, as a power of two."""
    return _shift(n_blocks(n_columns, 4), min(COLUMN_SHIFT, THREADS.bit_length() - 1))


def is_aligned(length: int, *arrays: DeviceArray) -> bool:
    """Whether every run of `length` elements starts where four can be read at once."""
    return length % 4 == 0 and all(a.is_aligned for a in arrays)


def tiles(n_planes: int, inner: int, *arrays: DeviceArray) -> tuple[int, int, bool]:
    """Return (shift, blocks, whether four neighbors can be read at once) for planes."""
    shift = plane_shift(inner)
    runs = n_blocks(inner, RUN_PER_THREAD << shift)
    aligned = is_aligned(inner if n_planes > 1 else 4, *arrays)
    return shift, n_blocks(n_planes, THREADS >> shift) * runs, aligned
