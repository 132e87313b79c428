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

import numpy as np
import numpy.typing as npt

import normdrop
from normdrop import _philox

Words = npt.NDArray[np.uint32]
Counters = npt.NDArray[np.uint64]

KEY = (0x9E6C63D0, 0x1B56C4E9)
HALF = 1 << 31  # the threshold of p = 1/2
SIZE = 1 << 17  # words at a time


def _packed(kept: npt.NDArray[np.bool_]) -> Words:
    return np.packbits(kept.reshape(-1), bitorder="little").view(np.uint32)


def _philox_words(block: Counters, call: Counters, key: Sequence[Counters]) -> Words:
    """The four words of each block."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    words = _philox.philox4x32(block & low, block >> shift, call & low, call >> shift, *key)
    return np.stack(words, axis=1).astype(np.uint32)


def mask() -> Iterator[Words]:
    """Yield the masks of one key at p = 1/2."""
    kept = np.empty(32 * SIZE, np.bool_)
    backend = normdrop._backend.select(kept)
    for call in count():
        backend.keep_mask(kept, KEY, call, HALF)
        yield _packed(kept)


def elements() -> Iterator[Words]:
    """Yield all words of one key and call."""
    key = [np.full(SIZE // 4, word, np.uint64) for word in KEY]
    call = np.full(SIZE // 4, 7, np.uint64)
    for first in count(0, SIZE // 4):
        yield _philox_words(np.arange(first, first + SIZE // 4, dtype=np.uint64), call, key).reshape(-1)


def _first_group(call: Counters, key: Sequence[Counters]) -> Words:
    """The first 128 bits of masks at p = 1/2: the top bits of both halves of the words of 16 blocks."""
    block = np.tile(np.arange(16, dtype=np.uint64), call.size)
    words = _philox_words(block, np.repeat(call, 16), [np.repeat(word, 16) for word in key])
    words = words.reshape(-1, 16, 4).transpose(0, 2, 1)
    return _packed(np.stack([words & np.uint32(1 << 15), words & np.uint32(1 << 31)], axis=2) != 0)


def calls() -> Iterator[Words]:
    """Yield the first 128 bits of each call's mask."""
    n = SIZE // 16
    key = [np.full(n, word, np.uint64) for word in KEY]
    for first in count(0, n):
        yield _first_group(np.arange(first, first + n, dtype=np.uint64), key)


def keys() -> Iterator[Words]:
    """Yield the first 128 bits of the first mask of each key."""
    n = SIZE // 16
    for first in count(0, n):
        number = np.arange(first, first + n, dtype=np.uint64)
        yield _first_group(np.zeros(n, np.uint64), [number & np.uint64(0xFFFFFFFF), number >> np.uint64(32)])


STREAMS: dict[str, Callable[[], Iterator[Words]]] = {
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
