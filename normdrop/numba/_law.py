"""The mask law, version 1, element by element, as plain code that is also compiled.

With a version 2, these functions would stay as they are, and others would stand beside them: a user's function that
Numba has cached holds them, and gives what it gave.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop import _philox
from normdrop._cpu.kinds import Index, Real
from normdrop.numba._kinds import also_compiled

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_16, _32 = np.uint64(16), np.uint64(32)
_FLIP = np.uint64(1 << 31)
_ONE = 2.0**32

also_compiled(_philox.philox4x32)
also_compiled(_philox.keeps)


@also_compiled
def threshold_of(p: Real) -> Any:
    """T of the mask law: round(p * 2**32), halves to even."""
    if not 0.0 <= p <= 1.0:
        raise ValueError("p must be the probability of dropping an element, from 0 to 1")
    return np.int64(np.rint(p * _ONE))


@also_compiled
def scale_of(threshold: Index) -> Any:
    """The factor of kept elements, 1 / (1 - T / 2**32)."""
    return 1.0 / (1.0 - np.float64(threshold) / _ONE)


@also_compiled
def check_law(key0: Index, key1: Index, call: Index) -> None:
    """Refuse numbers beyond their bits."""
    if (key0 | key1) >> 32 != 0:
        raise ValueError("key must be two words from 0 to 2**32 - 1; pass stream.key")
    if call < 0:
        raise ValueError("call must be a number from 0 to 2**63 - 1; pass stream.take() or stream.reserve(n)")


@also_compiled
def _half(index: Any, key: Any, call: Any, flip: Any) -> Any:
    """16 bits of an element: the upper ones, or with the flipped counter the lower ones; all are uint64."""
    group, e = index // np.uint64(128), index % np.uint64(128)
    block = np.uint64(16) * group + e % _16
    w0, w1, w2, w3 = _philox.philox4x32(block & _LOW, block >> _32, call & _LOW, (call >> _32) ^ flip, key[0], key[1])
    r = e // _32
    low, high = (w1 if r == np.uint64(1) else w0), (w3 if r == np.uint64(3) else w2)
    return ((high if r > np.uint64(1) else low) >> (e & _16)) & _HALF


@also_compiled
def _checked(key0: Index, key1: Index, call: Index, index: Index) -> Any:
    """(index, key, call) as words."""
    check_law(key0, key1, call)
    if index < 0:
        raise ValueError("index must not be negative; it counts the elements in C order, from 0")
    return np.uint64(index), (np.uint64(key0), np.uint64(key1)), np.uint64(call)


@also_compiled
def element_bits(key0: Index, key1: Index, call: Index, index: Index) -> Any:
    """The 32-bit number of an element."""
    place, key, counter = _checked(key0, key1, call, index)
    high, low = _half(place, key, counter, np.uint64(0)), _half(place, key, counter, _FLIP)
    return np.uint32(high << _16 | low)


@also_compiled
def element_kept(key0: Index, key1: Index, call: Index, index: Index, p: Real) -> Any:
    """Whether an element is kept; its lower bits are drawn where the upper ones do not decide."""
    place, key, counter = _checked(key0, key1, call, index)
    threshold = np.uint64(threshold_of(p))
    high, low = _half(place, key, counter, np.uint64(0)), np.uint64(0)
    if high == threshold >> _16:
        low = _half(place, key, counter, _FLIP)
    return _philox.keeps(high, low, threshold)
