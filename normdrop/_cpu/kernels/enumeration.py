"""All masks of a few units, in the order of the numbers whose bits they are, with their probabilities."""

from __future__ import annotations

from numba import prange

from normdrop._cpu.kinds import Index, Memory
from normdrop._cpu.toolchain.launch import kernel


@kernel("Modn")
def enumerate_masks(masks: Memory, weights: Memory, p: Memory, first: Index) -> None:
    """masks[r, j] = bit j of first + r, flat; weights[r] = its probability, p[j] being that of dropping unit j."""
    n = p.size
    for r in prange(weights.size):
        weight = 1.0
        for j in range(n):
            keeps = ((first + r) >> j) & 1 != 0
            masks[r * n + j] = keeps
            weight *= 1.0 - p[j] if keeps else p[j]
        weights[r] = weight
