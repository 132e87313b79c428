"""Scalar Philox4x32-10 and the keep decision, written once for every target.

32-bit words are held in uint64, where products fit and wrap-around is a mask: the same bits in compiled code, without
the JIT and in CUDA's simulator. Every function also works element by element on uint64 arrays, which is how the
vector code's plain twin uses it. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011), section
3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
WEYL_1 = 0xBB67AE85
ROUNDS = 10
SAMPLE_COUNTER = 0, 2**32 - 1  # first two words of the counters of keys of samples; elements' second stays below 2**28

_M0 = np.uint64(MULTIPLIER_0)
_M1 = np.uint64(MULTIPLIER_1)
_W0 = np.uint64(WEYL_0)
_W1 = np.uint64(WEYL_1)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_16 = np.uint64(16)
_HALF = np.uint64(0xFFFF)


def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Return the four words of Philox4x32-10 for a counter and a key, all 32-bit words in uint64."""
    for _ in range(ROUNDS):
        product_0 = _M0 * c0
        product_1 = _M1 * c2
        c0 = (product_1 >> _32) ^ c1 ^ k0
        c1 = product_1 & _LOW
        c2 = (product_0 >> _32) ^ c3 ^ k1
        c3 = product_0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def keeps(high: Any, low: Any, threshold: Any) -> Any:
    """Whether the 32-bit number of two 16-bit halves is at least `threshold`; `low` only matters on a tie."""
    threshold_high = threshold >> _16
    return (high > threshold_high) | ((high == threshold_high) & (low >= (threshold & _HALF)))
