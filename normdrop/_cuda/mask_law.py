"""The mask law on a GPU: one Philox call gives a thread the bits of eight elements, 16 apart.

Element 128 * g + 16 * k + t, with t < 16 and k < 8, is decided by half k of the words of counter 16 * g + t. So a
thread that takes four neighboring t decides four neighboring elements in each of the eight runs of a group.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop import _philox
from normdrop._cuda.launch import helper
from normdrop._cuda.memory import product

GROUP = 128
RUNS = 8  # runs of a group
RUN = 16  # elements of a run

keeps = helper(_philox.keeps)

FLIP = np.uint32(0x80000000)
_HALF = np.uint64(0xFFFF)
_16, _32 = np.uint64(16), np.uint64(32)
_M0, _M1 = np.uint32(_philox.MULTIPLIER_0), np.uint32(_philox.MULTIPLIER_1)
_W0, _W1 = np.uint32(_philox.WEYL_0), np.uint32(_philox.WEYL_1)
_C0, _C1 = (np.uint32(word) for word in _philox.SAMPLE_COUNTER)


@helper
def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return what `_philox.philox4x32` returns; words are uint32, of which a GPU makes a product in one instruction."""
    for _ in range(_philox.ROUNDS):
        product_0, product_1 = product(_M0, c0), product(_M1, c2)
        c0, c1 = np.uint32(np.uint32(product_1 >> _32) ^ c1 ^ k0), np.uint32(product_1)
        c2, c3 = np.uint32(np.uint32(product_0 >> _32) ^ c3 ^ k1), np.uint32(product_0)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)


@helper
def words(b: Any, key: Any, call: Any, flip: Any) -> Any:
    """Return the words of counter b; key = first word + 2**32 * second word, `flip` is xor-ed to the fourth word."""
    c0, c1, c2, c3 = np.uint32(b), np.uint32(b >> _32), np.uint32(call), np.uint32(np.uint32(call >> _32) ^ flip)
    return philox4x32(c0, c1, c2, c3, np.uint32(key), np.uint32(key >> _32))


@helper
def _has_tie(word: Any, high: Any) -> Any:
    """Whether a half of the word does not decide."""
    return ((word & _HALF) == high) | ((word >> _16) == high)


@helper
def _word_bits(word: Any, low_word: Any, threshold: Any) -> Any:
    """Bits of the two elements that a word decides."""
    first = keeps(word & _HALF, low_word & _HALF, threshold)
    second = keeps(word >> _16, low_word >> _16, threshold)
    return np.int32(first) | np.int32(second) << np.int32(1)


@helper
def kept_bits(b: Any, key: Any, call: Any, threshold: Any) -> Any:
    """Bit k: whether element 16 * k + b % 16 of group b // 16 is kept; key = first word + 2**32 * second word."""
    k0, k1 = np.uint32(key), np.uint32(key >> _32)
    c0, c1, c2, c3 = np.uint32(b), np.uint32(b >> _32), np.uint32(call), np.uint32(call >> _32)
    w0, w1, w2, w3 = philox4x32(c0, c1, c2, c3, k0, k1)
    l0, l1, l2, l3 = w0, w0, w0, w0
    top = threshold >> _16
    if _has_tie(w0, top) | _has_tie(w1, top) | _has_tie(w2, top) | _has_tie(w3, top):
        l0, l1, l2, l3 = philox4x32(c0, c1, c2, np.uint32(c3 ^ FLIP), k0, k1)
    return (
        _word_bits(w0, l0, threshold)
        | _word_bits(w1, l1, threshold) << np.int32(2)
        | _word_bits(w2, l2, threshold) << np.int32(4)
        | _word_bits(w3, l3, threshold) << np.int32(6)
    )


@helper
def sample_key(sample: Any, key: Any) -> Any:
    """Return the key of a sample under the stream's, both words as one number."""
    s = np.uint64(sample)
    k0, k1 = np.uint32(key), np.uint32(key >> _32)
    first, second, _, _ = philox4x32(_C0, _C1, np.uint32(s), np.uint32(s >> _32), k0, k1)
    return first | second << _32


@helper
def numbers(high: Any, low: Any) -> Any:
    """n + 1/2 of the two elements that a word decides, n the number that the mask law compares with T."""
    first = (high & _HALF) << _16 | (low & _HALF)
    second = (high >> _16) << _16 | low >> _16
    return np.float64(first) + 0.5, np.float64(second) + 0.5
