"""Large arrays: stores past the caches, and loads that are asked for ahead.

A plain store first reads the cache line that it writes to; a streaming one does not, which saves a third of the memory
traffic of a loop that reads one array and writes another. A result that fits a cache is better left there. Only whole
lines may be streamed: half a line costs more than a plain store, and so does a plain store into a streamed line.

Loads that come in bursts or with gaps are not foreseen by every processor: loops with such loads ask for what they will
read. In a cache that costs more than it gains.
"""

from __future__ import annotations

from typing import Any

from numba import types

from normdrop._cpu.launch import helper
from normdrop._cpu.memory import CACHE_LINE, address, item_size, prefetch, store, stream
from normdrop._cpu.simd import LANES, compiled_as

# Bytes of a result above which it is streamed, where x is read once: with x, as large, a usual last-level cache. And
# where x is read again and should still be there; also for rows and short planes, which are not written in order.
READ_ONCE, READ_AGAIN = 1 << 24, 3 << 22
_FAR = 9 << 21  # bytes of all inputs and the result: somewhat more than half of a usual last-level cache
_AHEAD = 1 << 13  # bytes; half or four times as many make little difference
_LONG = 32 * LANES  # elements of a run, of which the first and the last line are negligible


@helper
def streams(y: Any, x: Any, limit: Any) -> Any:
    """Whether long runs of the array `y` are to be streamed; not in place, where their lines have just been read."""
    return y.size * item_size(y) > limit and address(y) != address(x)


@helper
def is_far(n: Any) -> Any:
    """Whether inputs that take n bytes with the result come from memory, or from a cache that is not much faster."""
    return n > _FAR


@helper
def comes_late(x: Any) -> Any:
    """Whether to ask for `x` ahead where loads come in bursts or with gaps. Halves come fast enough by themselves."""
    return is_far(2 * x.size * item_size(x)) and item_size(x) > 2


@helper
def ahead(x: Any) -> Any:
    """Elements to those of `x` that are asked for."""
    return _AHEAD // item_size(x)


@helper
def ask(x: Any, i: Any, n: Any) -> None:
    """Prefetch n elements from x[i] on, which may be anywhere."""
    line = CACHE_LINE // item_size(x)
    for k in range((n + line - 1) // line):
        prefetch(x, i + k * line)


@helper
def is_long(n: Any) -> Any:
    """Whether a run of n elements is worth streaming."""
    return n >= _LONG


@helper
def first_whole(y: Any, start: Any, stop: Any, streaming: Any) -> Any:
    """Where in [start, stop] whole cache lines begin, at most 15 further; `start` if a short run is not worth it."""
    if not streaming and stop - start < 4 * _LONG:
        return start
    unit = min(CACHE_LINE // item_size(y), LANES)
    return start + (unit - (address(y) // item_size(y) + start) % unit) % unit


@helper
def put(y: Any, i: Any, value: Any, streaming: Any) -> None:
    """Set y[i : i + 16] = value."""
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
