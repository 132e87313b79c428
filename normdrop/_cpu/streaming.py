"""Stores past the caches, for results that are larger than those.

A plain store first reads the cache line that it writes to; a streaming one does not, which saves a third of the memory
traffic of a loop that reads one array and writes another. A result that fits a cache is better left there.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.launch import helper
from normdrop._cpu.simd import STREAM_ALIGNMENT, address, store, stream

_LARGE = 1 << 24  # bytes; with the input, a usual last-level cache


@helper
def streams(y: Any, x: Any, start: Any, stride: Any) -> Any:
    """Whether vectors at y[start + k * stride] may and should be streamed; not in place, where the line is there."""
    if y.size * y.itemsize <= _LARGE or address(y) == address(x):
        return False
    offset = address(y) % STREAM_ALIGNMENT + (start * y.itemsize) % STREAM_ALIGNMENT
    return offset % STREAM_ALIGNMENT == 0 and (stride * y.itemsize) % STREAM_ALIGNMENT == 0


@helper
def put(y: Any, i: Any, value: Any, streaming: Any) -> None:
    """Set y[i : i + 16] = value."""
    if streaming:
        stream(y, i, value)
    else:
        store(y, i, value)
