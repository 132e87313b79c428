"""Dropout of an array whose axes lie in memory in another order than its mask counts them."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cuda.dropping import chosen, numbers_of
from normdrop._cuda.launch import THREADS, cuda, kernel, types
from normdrop._cuda.mask_law import GROUP, RUN, kept_bits
from normdrop._cuda.memory import load, store
from normdrop._cuda.tiles import least

SIDE = 32  # q of a tile: neighbors in memory
DEPTH = 256  # p of a tile: neighbors in the mask
_GROUPS = DEPTH // GROUP + 1  # groups that they touch
_BYTES = SIDE * _GROUPS * RUN


@kernel("xxnnuuuf")
def dropout_transposed(y: Any, x: Any, n_p: Any, n_q: Any, key: Any, call: Any, threshold: Any, scale: Any) -> None:
    """y[a, p, q] = scale * x[a, p, q] where element (a, q, p) is kept, else +0. A block draws the bits of a tile."""
    bits = cuda.shared.array(_BYTES, types.uint8)
    numbers = numbers_of(x, scale)
    p_tiles, q_tiles = (n_p + DEPTH - 1) // DEPTH, (n_q + SIDE - 1) // SIDE
    n_outer = x.size // (n_p * n_q)
    for tile in range(cuda.blockIdx.x, n_outer * p_tiles * q_tiles, cuda.gridDim.x):
        a = tile // (p_tiles * q_tiles)
        p0, q0 = tile // q_tiles % p_tiles * DEPTH, tile % q_tiles * SIDE
        side, depth = least(SIDE, n_q - q0), least(DEPTH, n_p - p0)
        for place in range(cuda.threadIdx.x, side * _GROUPS * RUN, THREADS):
            first = (a * n_q + q0 + place // (_GROUPS * RUN)) * n_p + p0
            b = first // GROUP * RUN + place % (_GROUPS * RUN)
            if b // RUN * GROUP < first + depth:
                bits[place] = kept_bits(np.uint64(b), key, call, threshold)
        cuda.syncthreads()
        for place in range(cuda.threadIdx.x, side * depth, THREADS):
            q, p = place % side, place // side
            first = (a * n_q + q0 + q) * n_p + p0
            e = first % GROUP + p  # from the start of the first group
            byte = bits[(q * _GROUPS + e // GROUP) * RUN + e % RUN]
            i = (a * n_p + p0 + p) * n_q + q0 + q
            store(y, i, chosen(load(x, i), (byte >> (e % GROUP // RUN)) & 1, numbers))
        cuda.syncthreads()
