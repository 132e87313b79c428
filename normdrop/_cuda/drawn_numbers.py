"""The loop of passes by random numbers on a GPU: y = operation(x, number), whatever the operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cuda.launch import THREADS, Kernel, cuda, helper, kernel, n_blocks
from normdrop._cuda.mask_law import FLIP, GROUP, RUN, RUNS, numbers, words
from normdrop._cuda.memory import as_stored, load, store

NO_FLIP = np.uint32(0)


def writer(name: str, operation: Any) -> Kernel:
    """Return the kernel of an operation, a helper of an element of x as float64, its number and three constants."""

    @helper
    def write_two(y: Any, x: Any, i: Any, high: Any, low: Any, c0: Any, c1: Any, c2: Any) -> None:
        """y of elements i and i + 16, as far as there are any."""
        a, b = numbers(high, low)
        if i < x.size:
            store(y, i, as_stored(y, operation(np.float64(load(x, i)), a, c0, c1, c2)))
        if i + RUN < x.size:
            store(y, i + RUN, as_stored(y, operation(np.float64(load(x, i + RUN)), b, c0, c1, c2)))

    def write(y: Any, x: Any, key: Any, call: Any, c0: Any, c1: Any, c2: Any) -> None:
        """y = operation(x, number, constants). A thread has one element in each run of a group."""
        for place in range(cuda.grid(1), (x.size + GROUP - 1) // GROUP * RUN, cuda.gridsize(1)):
            i = place // RUN * GROUP + place % RUN
            w0, w1, w2, w3 = words(np.uint64(place), key, call, NO_FLIP)
            l0, l1, l2, l3 = words(np.uint64(place), key, call, FLIP)
            write_two(y, x, i, w0, l0, c0, c1, c2)
            write_two(y, x, i + 2 * RUN, w1, l1, c0, c1, c2)
            write_two(y, x, i + 4 * RUN, w2, l2, c0, c1, c2)
            write_two(y, x, i + 6 * RUN, w3, l3, c0, c1, c2)

    write.__name__ = name
    return kernel("xxuufff")(write)


def n_write_blocks(size: int) -> int:
    """Return how many blocks a kernel of `writer` runs in."""
    return n_blocks(size, THREADS * RUNS)
