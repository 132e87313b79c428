"""Memory of large outputs, used again when the last view of an output is gone.

Memory fresh from the system is mapped page by page when it is first written, which can cost more than the kernel that
writes it. A block of the pool is owned by an object behind the array that was made from it, so that it comes back only
when no array looks at it any more. Nothing here locks: a block may come back in the middle of any operation, because
the garbage collector runs there, and deques are safe without.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop import _checks

Array = npt.NDArray[Any]

_SMALLEST = 1 << 20  # bytes; smaller blocks come from the heap, whose pages are mapped already
_ALIGNMENT = 64  # bytes, a cache line
_MOST_BLOCKS = 16


class PoolInfo(NamedTuple):
    """What the pool holds and has done in this process."""

    limit: int
    """Bytes that may lie idle."""
    idle: int
    """Bytes that lie idle."""
    recycled: int
    """Outputs that were given memory of the pool."""
    fresh: int
    """Outputs of the same kind that were given fresh memory."""


class _Block:
    """Memory for one output."""

    def __init__(self, n_bytes: int) -> None:
        memory = np.empty(n_bytes + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        self.memory = memory[start : start + n_bytes]


class _Lease:
    """The owner behind an output; its end gives the block back."""

    def __init__(self, block: _Block) -> None:
        self.block = block
        self.__array_interface__ = block.memory.__array_interface__

    def __del__(self) -> None:
        if _pool is not None:  # as it may be while the interpreter ends
            _pool.give_back(self.block)


class _Pool:
    def __init__(self) -> None:
        self.limit = 1 << 28
        self.idle: deque[_Block] = deque()
        self.recycled = 0
        self.fresh = 0

    def take(self, n_bytes: int) -> _Block:
        for block in tuple(self.idle):
            if block.memory.nbytes == n_bytes:
                try:
                    self.idle.remove(block)
                except ValueError:  # another thread was faster
                    continue
                self.recycled += 1
                return block
        self.fresh += 1
        return _Block(n_bytes)

    def give_back(self, block: _Block) -> None:
        if block.memory.nbytes <= self.limit:
            self.idle.append(block)
            self.shrink()

    def idle_bytes(self) -> int:
        return sum(block.memory.nbytes for block in tuple(self.idle))

    def shrink(self) -> None:
        """Let go of the blocks that have been idle longest, as far as they are too many."""
        while self.idle and (len(self.idle) > _MOST_BLOCKS or self.idle_bytes() > self.limit):
            try:
                self.idle.popleft()
            except IndexError:  # another thread was faster
                return


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new C-ordered array, from the pool if it is large."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < _SMALLEST or not _pool.limit:
        return np.empty(shape, dtype)
    return np.asarray(_Lease(_pool.take(n_bytes))).view(dtype).reshape(shape)


def set_pool_limit(n_bytes: int) -> int:
    """Bound the memory that is kept for the next large outputs; 0 keeps none.

    An output of 1 MiB or more that was not given with ``out=`` gets its memory from a pool, to which the memory returns
    when the last array that looks at it is gone. What lies idle is at most this much; the longest idle goes first.

    Parameters
    ----------
    n_bytes : int
        Bytes that may lie idle; 256 MiB at the start.

    Returns
    -------
    int
        The bound before.

    Raises
    ------
    TypeError, ValueError
        `n_bytes` is not an int, or negative.

    See Also
    --------
    pool_info : what the pool holds.

    Examples
    --------
    >>> import normdrop
    >>> before = normdrop.set_pool_limit(0)  # off
    >>> normdrop.set_pool_limit(before)
    0
    """
    before = _pool.limit
    _pool.limit = _checks.integer(n_bytes, "n_bytes", 0)
    _pool.shrink()
    return before


def pool_info() -> PoolInfo:
    """Return what the pool of large outputs holds and has done in this process.

    Returns
    -------
    PoolInfo
        ``limit`` and ``idle`` in bytes; ``recycled`` and ``fresh``, numbers of outputs.

    See Also
    --------
    set_pool_limit : bound what it holds.

    Examples
    --------
    >>> import normdrop
    >>> info = normdrop.pool_info()
    >>> info.idle <= info.limit
    True
    """
    return PoolInfo(_pool.limit, _pool.idle_bytes(), _pool.recycled, _pool.fresh)
