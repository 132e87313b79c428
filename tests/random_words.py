"""Write the random bits of the mask law to standard output without end, for a battery of statistical tests.

``python tests/random_words.py mask | dieharder -a -g 200`` (Debian's package dieharder), or
``... | RNG_test stdin32`` (PractRand). The streams, each as raw 32-bit words:

mask
    The masks of one key at p = 1/2, call after call, one bit per element in C order, as the kernel draws them.
elements
    All words of Philox of one key and call, in the order of the elements: both halves of every comparison.
calls
    Of each call only the first 128 bits of the mask at p = 1/2: what an element sees from step to step.
keys
    The first 128 bits of the first masks of the keys 0, 1, 2, ...: layers whose keys differ as little as keys can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numba
import numpy as np
import numpy.typing as npt

import normdrop
from normdrop import _philox

Words = npt.NDArray[np.uint32]
Counters = npt.NDArray[np.uint64]

KEY = (0x9E6C63D0, 0x1B56C4E9)
HALF = 1 << 31  # the threshold of p = 1/2
SIZE = 1 << 17  # words at a time

philox4x32 = numba.njit(_philox.philox4x32)


def _packed(kept: npt.NDArray[np.bool_]) -> Words:
    return np.packbits(kept.reshape(-1), bitorder="little").view(np.uint32)


def _philox_words(block: Counters, call: Counters, key: Sequence[Counters]) -> Words:
    """The four words of each block."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    words = _philox.philox4x32(block & low, block >> shift, call & low, call >> shift, *key)
    return np.stack(words, axis=1).astype(np.uint32)


def mask(size: int = SIZE) -> Iterator[Words]:
    """Yield the masks of one key at p = 1/2."""
    kept = np.empty(32 * size, np.bool_)
    backend = normdrop._backend.select(kept)
    for call in count():
        backend.keep_mask(kept, KEY, call, HALF)
        yield _packed(kept)


def elements(size: int = SIZE) -> Iterator[Words]:
    """Yield all words of one key and call."""
    n = size // 4
    key = [np.full(n, word, np.uint64) for word in KEY]
    call = np.full(n, 7, np.uint64)
    for first in count(0, n):
        yield _philox_words(np.arange(first, first + n, dtype=np.uint64), call, key).reshape(-1)


@numba.njit(nogil=True)  # type: ignore[misc]
def _first_groups(call: Counters, key_0: Counters, key_1: Counters) -> Words:
    """The first 128 bits of masks at p = 1/2: the top bits of both halves of the words of 16 blocks."""
    low, shift, top, high, lane = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(31), np.uint64(15), np.uint64(16)
    one, zero = np.uint64(1), np.uint64(0)
    groups = np.zeros((call.size, 4), np.uint32)
    for i in range(call.size):
        for t in range(16):
            block = np.uint64(t)
            words = philox4x32(block, zero, call[i] & low, call[i] >> shift, key_0[i], key_1[i])
            for r in range(4):
                bits = ((words[r] >> high & one) << block) | ((words[r] >> top & one) << (block + lane))
                groups[i, r] |= np.uint32(bits)
    return groups


def calls(size: int = SIZE) -> Iterator[Words]:
    """Yield the first 128 bits of each call's mask."""
    n = size // 4
    key = [np.full(n, word, np.uint64) for word in KEY]
    for first in count(0, n):
        yield _first_groups(np.arange(first, first + n, dtype=np.uint64), *key).reshape(-1)


def keys(size: int = SIZE) -> Iterator[Words]:
    """Yield the first 128 bits of the first mask of each key."""
    n = size // 4
    for first in count(0, n):
        number = np.arange(first, first + n, dtype=np.uint64)
        words = number & np.uint64(0xFFFFFFFF), number >> np.uint64(32)
        yield _first_groups(np.zeros(n, np.uint64), *words).reshape(-1)


STREAMS: dict[str, Callable[..., Iterator[Words]]] = {
    "mask": mask,
    "elements": elements,
    "calls": calls,
    "keys": keys,
}


def main() -> None:
    """Write until nobody reads any more."""
    (name,) = sys.argv[1:] or ["mask"]
    try:
        for words in STREAMS[name]():
            sys.stdout.buffer.write(words.tobytes())
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()
