"""Numbers that only decide how fast: with others, every result has the same bits.

Most model a cache of a usual processor, and each comment says which: a first-level cache of 32 to 48 KiB and a
second-level one of 1 MiB for each core, a last-level one of 32 MiB, lines of 64 bytes. They were measured on two cores
of AMD's Zen 4 and Zen 5, with AVX-512 and in part with AVX2 and SSE2; the entries under Performance of the changelog
have the times. To measure anew, change a number and compare what `python -m normdrop bench` says, or, over commits,
`nox -s bench-compare` (`benchmarks/`), on an idle machine. Numbers that decide bits are in `normdrop._cpu.blocks`.
"""

from __future__ import annotations

from normdrop._cpu.lanes.simd import LANES

# Threads: elements below which starting them costs more than it saves.
PARALLEL_SIZE = 1 << 16

# Tasks of loops that run on threads.
CHUNK = 1 << 14  # elements of an element-wise loop, about
PAIRS = 64  # of groups of 128 elements, in dropout
POSITIONS, COLUMNS = 32 * LANES, 64 * LANES  # of dropout of exchanged axes: their bits stay in the first-level cache

BLOCKS_PIECE = 1 << 15  # elements of a mask that drops blocks: three buffers of bits stay in the first-level cache
MASK_PIECE = 1 << 12  # of a fused pass, whose mask stays in the first-level cache
MASK_BUFFER = MASK_PIECE + (1 << 9)  # bytes: masks are drawn for 256 elements at a time, at both ends
DRAWN = 1 << 11  # elements whose random numbers are drawn at once, and stay in the first-level cache; pairs of groups

# Channels by planes.
CHANNEL_SLAB = 1 << 22  # bytes of a channel's or a task's values that are still in a cache when they are read again
NEAR = 1 << 18  # bytes of channels that stay in the second-level cache, with as many that are prefetched
SLAB = 1 << 17  # bytes of neighboring channels that a task reads at once; as many are prefetched and written
SPAN = 1 << 10  # elements of a span: short planes from memory come faster in longer pieces
SPAN_SLAB = 1 << 19  # bytes of neighboring channels at which spans end; a half of a second-level cache
SHORT_SPAN = 1 << 8  # elements of a span not worth streaming

# Rows.
TILE = 512  # columns whose sums stay in the first-level cache
# Rows read side by side, so that the sums of a column are loaded and stored once for all of them. Not more: rows that
# are 4096 bytes apart share a set of the first-level cache, and eight rows of two arrays do not fit one.
ROWS_AT_ONCE = 4
STRIP = 512  # columns whose vectors stay in the first-level cache; what is streamed is written in the order of memory
# Numbers in all vectors above which rows go side by side: a part of the first-level cache; most of it for rows that are
# streamed, which is best done in the order of memory.
SIDE_BY_SIDE, SIDE_BY_SIDE_STREAMED = 3 << 9, 3 << 10

# Streaming. Bytes of a result above which it is streamed, where x is read once: with x, as large, a usual last-level
# cache. And where x is read again and should still be there; also for rows and short planes, not written in order.
READ_ONCE, READ_AGAIN = 1 << 24, 3 << 22
LONG = 32 * LANES  # elements of a run, of which the first and the last line are negligible

# Prefetching.
FAR = 9 << 21  # bytes of all inputs and the result: somewhat more than half of a usual last-level cache
AHEAD = 1 << 13  # bytes; half or four times as many make little difference
SKIPPED = 1 << 24  # bytes of x; above, short planes are prefetched even if they are dropped: gaps slow the others, too
