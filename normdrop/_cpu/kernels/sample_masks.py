"""Masks of samples that are drawn under keys of their own, made of the stream's key and each sample's id."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from normdrop import _philox
from normdrop._cpu.kernels.mask_law import PAIR, draw, kept
from normdrop._cpu.kinds import Index, Memory
from normdrop._cpu.lanes.bits import store_bits
from normdrop._cpu.lanes.memory import pointer
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.toolchain.launch import helper, kernel
from normdrop._cpu.tuning import PAIRS

_C0, _C1 = (np.uint64(word) for word in _philox.SAMPLE_COUNTER)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)

_philox4x32 = helper(_philox.philox4x32)


@helper
def _sample_key(sample: Any, key0: Any, key1: Any) -> Any:
    """Return the two words of a sample's key."""
    s = np.uint64(sample)
    first, second, _, _ = _philox4x32(_C0, _C1, s & _LOW, s >> _32, np.uint64(key0), np.uint64(key1))
    return first, second


@helper
def _set_pair(mask: Memory, at: Index, n: Index, draws: Any, threshold: Any) -> None:
    """mask[at : at + n] = which of the first n of 256 elements are kept."""
    to = pointer(mask, 0)
    for k in range(PAIR // (2 * LANES)):
        start = 2 * LANES * k
        if start < n:
            low, high = kept(draws[k], threshold)
            if start + 2 * LANES <= n:
                store_bits(to, at + start, low)
                store_bits(to, at + start + LANES, high)
            else:
                bits = np.uint32(low) | np.uint32(high) << np.uint32(LANES)
                for e in range(n - start):
                    mask[at + start + e] = (bits >> np.uint32(e)) & np.uint32(1) != 0


@kernel("Mqnnnnn")
def keep_samples(mask: Memory, ids: Memory, length: Index, key0: Any, key1: Any, call: Any, threshold: Any) -> None:
    """mask[length * n + j] = whether the mask law keeps element j under the key of ids[n]; flat.

    Parallel over chunks of pairs of groups, of which each sample has its own.
    """
    per_sample = (length + PAIR - 1) // PAIR
    n_pairs = per_sample * ids.size
    for chunk in prange((n_pairs + PAIRS - 1) // PAIRS):
        sample, own0, own1 = -1, np.uint64(0), np.uint64(0)
        for p in range(chunk * PAIRS, min(chunk * PAIRS + PAIRS, n_pairs)):
            if p // per_sample != sample:
                sample = p // per_sample
                own0, own1 = _sample_key(ids[sample], key0, key1)
            pair = p - sample * per_sample
            draws = draw(pair, call, own0, own1, threshold)
            _set_pair(mask, sample * length + pair * PAIR, min(PAIR, length - pair * PAIR), draws, threshold)
