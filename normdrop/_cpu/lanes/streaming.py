"""Large arrays: non-temporal stores, which go past the caches, and prefetching.

A plain store first reads the cache line that it writes to; a streaming one does not, which saves a third of the memory
traffic of a loop that reads one array and writes another. A result that fits a cache is better left there. Only whole
lines may be streamed: half a line costs more than a plain store, and so does a plain store into a streamed line.

Loads that come in bursts or with gaps are not foreseen by every processor: loops with such loads prefetch what they
will read. In a cache that costs more than it gains.
"""

from __future__ import annotations

from typing import Any

from numba import types

from normdrop._cpu.kinds import Flag, Index, Memory
from normdrop._cpu.lanes.memory import CACHE_LINE, address, item_size, prefetch, store, stream
from normdrop._cpu.lanes.simd import LANES, compiled_as
from normdrop._cpu.toolchain.launch import helper
from normdrop._cpu.tuning import AHEAD, FAR, LONG


@helper
def should_stream(y: Memory, x: Memory, limit: Index) -> Any:
    """Whether long runs of the array `y` are to be streamed; not in place, where their lines have just been read."""
    return y.size * item_size(y) > limit and address(y) != address(x)


@helper
def exceeds_last_level_cache(n: Index) -> Any:
    """Whether inputs that take n bytes with the result come from memory, or from a cache that is not much faster."""
    return n > FAR


@helper
def prefetch_pays(x: Memory) -> Any:
    """Whether to prefetch `x` where loads come in bursts or with gaps. Halves come fast enough by themselves."""
    return exceeds_last_level_cache(2 * x.size * item_size(x)) and item_size(x) > 2


@helper
def prefetch_distance(x: Memory) -> Any:
    """Elements from those that are read to those of `x` that are prefetched."""
    return AHEAD // item_size(x)


@helper
def prefetch_range(x: Memory, i: Index, n: Index) -> None:
    """Prefetch n elements from x[i] on, which may be anywhere."""
    line = CACHE_LINE // item_size(x)
    for k in range((n + line - 1) // line):
        prefetch(x, i + k * line)


@helper
def is_long(n: Index) -> Any:
    """Whether a run of n elements is worth streaming."""
    return n >= LONG


@helper
def first_whole_line(y: Memory, start: Index, stop: Index, streaming: Flag) -> Any:
    """Where in [start, stop] whole cache lines begin, at most 15 further; `start` if a short run is not worth it."""
    if not streaming and stop - start < 4 * LONG:
        return start
    unit = min(CACHE_LINE // item_size(y), LANES)
    return start + (unit - (address(y) // item_size(y) + start) % unit) % unit


@helper
def store_or_stream(y: Memory, i: Index, value: Any, streaming: Flag) -> None:
    """Set y[i : i + 16] = value, with non-temporal stores where `streaming` says so."""
    if streaming:
        stream(y, i, value)
    else:
        store(y, i, value)


def _fence_typing(_typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@compiled_as(_fence_typing)
def fence() -> None:
    """Let other threads see what was streamed."""
