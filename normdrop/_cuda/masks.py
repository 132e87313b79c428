"""Dropout kernels: with the mask drawn on the way, with a mask given, and the mask alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cuda.dropping import chosen, numbers_of
from normdrop._cuda.launch import THREADS, cuda, helper, kernel
from normdrop._cuda.mask_law import GROUP, RUN, RUNS, kept_bits, sample_key
from normdrop._cuda.memory import as_value, load, load_quad, store, store_quad
from normdrop._cuda.tiles import RUN_PER_THREAD, least

_BOOL = np.dtype(np.bool_)


@helper
def _masked(values: Any, bits: Any, numbers: Any) -> Any:
    """Return scale * value where the bit is set, else +0, of four."""
    return (
        chosen(values[0], bits[0] & 1, numbers),
        chosen(values[1], bits[1] & 1, numbers),
        chosen(values[2], bits[2] & 1, numbers),
        chosen(values[3], bits[3] & 1, numbers),
    )


@helper
def _later(bits: Any, k: Any) -> Any:
    """Bits of run k and after it."""
    return bits[0] >> k, bits[1] >> k, bits[2] >> k, bits[3] >> k


@kernel("xxuuufn")
def dropout(y: Any, x: Any, key: Any, call: Any, threshold: Any, scale: Any, aligned: Any) -> None:
    """y[i] = scale * x[i] where the mask law keeps i, else +0. A thread has four neighbors in each run of a group."""
    n = x.size
    zero, numbers = as_value(x, 0.0), numbers_of(x, scale)
    quads = RUN // 4
    for quad in range(cuda.grid(1), (n + GROUP - 1) // GROUP * quads, cuda.gridsize(1)):
        group, t = quad // quads, quad % quads * 4
        b = np.uint64(group) * np.uint64(RUN) + np.uint64(t)
        i = group * GROUP + t
        if aligned != 0 and i + GROUP <= n + t:
            # Everything is loaded before anything is stored, which y = x would otherwise forbid.
            x0, x1 = load_quad(x, i, n, zero, 1), load_quad(x, i + RUN, n, zero, 1)
            x2, x3 = load_quad(x, i + 2 * RUN, n, zero, 1), load_quad(x, i + 3 * RUN, n, zero, 1)
            x4, x5 = load_quad(x, i + 4 * RUN, n, zero, 1), load_quad(x, i + 5 * RUN, n, zero, 1)
            x6, x7 = load_quad(x, i + 6 * RUN, n, zero, 1), load_quad(x, i + 7 * RUN, n, zero, 1)
            bits = (
                kept_bits(b, key, call, threshold),
                kept_bits(b + np.uint64(1), key, call, threshold),
                kept_bits(b + np.uint64(2), key, call, threshold),
                kept_bits(b + np.uint64(3), key, call, threshold),
            )
            store_quad(y, i, n, _masked(x0, bits, numbers), 1)
            store_quad(y, i + RUN, n, _masked(x1, _later(bits, 1), numbers), 1)
            store_quad(y, i + 2 * RUN, n, _masked(x2, _later(bits, 2), numbers), 1)
            store_quad(y, i + 3 * RUN, n, _masked(x3, _later(bits, 3), numbers), 1)
            store_quad(y, i + 4 * RUN, n, _masked(x4, _later(bits, 4), numbers), 1)
            store_quad(y, i + 5 * RUN, n, _masked(x5, _later(bits, 5), numbers), 1)
            store_quad(y, i + 6 * RUN, n, _masked(x6, _later(bits, 6), numbers), 1)
            store_quad(y, i + 7 * RUN, n, _masked(x7, _later(bits, 7), numbers), 1)
        else:
            for j in range(4):
                if i + j < n:
                    bit = kept_bits(b + np.uint64(j), key, call, threshold)
                    for at in range(i + j, least(n, i + j + GROUP), RUN):
                        store(y, at, chosen(load(x, at), bit & 1, numbers))
                        bit >>= 1


@kernel("buuun")
def keep_mask(mask: Any, key: Any, call: Any, threshold: Any, first: Any) -> None:
    """mask[j] = whether the mask law keeps element first + j. A thread has one element in each run of a group."""
    start = first // GROUP
    stop = (first + mask.size + GROUP - 1) // GROUP
    for place in range(start * RUN + cuda.grid(1), stop * RUN, cuda.gridsize(1)):
        bits = kept_bits(np.uint64(place), key, call, threshold)
        i = place // RUN * GROUP + place % RUN - first
        for k in range(RUNS):
            if 0 <= i + k * RUN < mask.size:
                mask[i + k * RUN] = (bits >> k) & 1


@kernel("bqnuuu")
def keep_samples(mask: Any, ids: Any, length: Any, key: Any, call: Any, threshold: Any) -> None:
    """mask[length * n + j] = whether the mask law keeps element j under the key of ids[n]; threads as above."""
    per_sample = (length + GROUP - 1) // GROUP * RUN
    for task in range(cuda.grid(1), ids.size * per_sample, cuda.gridsize(1)):
        sample, place = task // per_sample, task % per_sample
        bits = kept_bits(np.uint64(place), sample_key(ids[sample], key), call, threshold)
        i = place // RUN * GROUP + place % RUN
        for k in range(RUNS):
            if i + k * RUN < length:
                mask[sample * length + i + k * RUN] = (bits >> k) & 1


@kernel("xxbnnfn")
def mask_planes(y: Any, x: Any, mask: Any, inner: Any, shift: Any, scale: Any, aligned: Any) -> None:
    """y = scale * x in planes of `inner` elements whose mask element is set, else +0; tiles as in `tiles`."""
    zero, numbers = as_value(x, 0.0), numbers_of(x, scale)
    every = 1, 1, 1, 1
    dropped = _masked((zero, zero, zero, zero), (0, 0, 0, 0), numbers)
    width = 1 << shift
    run = width * RUN_PER_THREAD
    n_runs = (inner + run - 1) // run
    planes = THREADS >> shift
    for tile in range(cuda.blockIdx.x, (mask.size + planes - 1) // planes * n_runs, cuda.gridDim.x):
        plane = tile // n_runs * planes + (cuda.threadIdx.x >> shift)
        start = tile % n_runs * run
        if plane < mask.size:
            stop = plane * inner + least(start + run, inner)
            kept = mask[plane] != 0
            for i in range(plane * inner + start + (cuda.threadIdx.x & (width - 1)) * 4, stop, 4 * width):
                if kept:
                    v = load_quad(x, i, stop, zero, aligned)
                    store_quad(y, i, stop, _masked(v, every, numbers), aligned)
                else:
                    store_quad(y, i, stop, dropped, aligned)


@helper
def _mask_quad(mask: Any, at: Any, stop: Any) -> Any:
    """Bits of up to four mask elements before `stop`."""
    second, third, fourth = 0, 0, 0
    if at + 1 < stop:
        second = int(mask[at + 1])
    if at + 2 < stop:
        third = int(mask[at + 2])
    if at + 3 < stop:
        fourth = int(mask[at + 3])
    return int(mask[at]), second, third, fourth


@kernel("xxbnnnfn")
def mask_elements(y: Any, x: Any, mask: Any, n_shared: Any, inner: Any, shift: Any, scale: Any, aligned: Any) -> None:
    """y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0; planes (a, s) of inner elements b; tiles as above."""
    zero, numbers = as_value(x, 0.0), numbers_of(x, scale)
    width = 1 << shift
    run = width * RUN_PER_THREAD
    n_runs = (inner + run - 1) // run
    planes = THREADS >> shift
    n_planes = x.size // inner
    for tile in range(cuda.blockIdx.x, (n_planes + planes - 1) // planes * n_runs, cuda.gridDim.x):
        plane = tile // n_runs * planes + (cuda.threadIdx.x >> shift)
        start = tile % n_runs * run
        if plane < n_planes:
            stop = plane * inner + least(start + run, inner)
            offset = (plane - plane // n_shared) * inner  # of x's index before the mask's
            for i in range(plane * inner + start + (cuda.threadIdx.x & (width - 1)) * 4, stop, 4 * width):
                bits = _mask_quad(mask, i - offset, stop - offset)
                v = load_quad(x, i, stop, zero, aligned)
                store_quad(y, i, stop, _masked(v, bits, numbers), aligned)
