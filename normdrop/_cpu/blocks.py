"""Numbers that decide bits of the statistics: blocks into which a channel's values are divided, to be merged in order.

To change one is to change results in their last digits: it is announced under Numerics in the changelog, and golden
files are made anew. That a sum has 16 lanes (`normdrop._cpu.lanes.simd.LANES`) decides bits, too.
`docs/statistics-law.md` names them all. Numbers that only decide how fast the same bits come are in
`normdrop._cpu.tuning`.
"""

from __future__ import annotations

# By planes: values per block. The error of a block's variance grows with it (shifting by one of n values cancels at
# most n + 1 times the variance), the cost of merging blocks shrinks.
PLANE_BLOCK = 1 << 14

# By rows.
ROW_BLOCK = 1 << 16  # elements per block of rows
MAX_ROWS = 1 << 13  # per block; bounds the error of a block's variance
MIN_ROWS = 1 << 7  # per block; to finish a block and to merge it take as long as ten of its rows or more
MIN_WIDTH = 64  # rows narrower than this are joined
