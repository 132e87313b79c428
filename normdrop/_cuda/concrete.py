"""Concrete dropout on a GPU: the numbers of the mask law, and formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop import _concrete
from normdrop._concrete import CHUNK, LANES, Relaxation
from normdrop._cuda.activations import PRIMITIVES
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.drawn_numbers import NO_FLIP, n_write_blocks, writer
from normdrop._cuda.launch import THREADS, cuda, helper, kernel, n_blocks
from normdrop._cuda.launchers import key_word
from normdrop._cuda.mask_law import FLIP, GROUP, RUN, numbers, words
from normdrop._cuda.memory import as_stored, load, store
from normdrop._cuda.scratch import scratch
from normdrop._cuda.tiles import least

_FLOAT64 = np.dtype(np.float64)

_value, _gradients = _concrete.bound(PRIMITIVES, helper)


concrete_forward = writer("concrete_forward", _value)


@helper
def _differentiate_two(
    total: Any, dx: Any, dy: Any, x: Any, i: Any, high: Any, low: Any, offset: Any, sharpness: Any, scale: Any, p: Any
) -> Any:
    """dx of elements i and i + 16, as far as there are any; return the total with what they add to dlogit."""
    a, b = numbers(high, low)
    if i < x.size:
        dy_, x_ = np.float64(load(dy, i)), np.float64(load(x, i))
        dx_, part = _gradients(dy_, x_, a, offset, sharpness, scale, p)
        store(dx, i, as_stored(dx, dx_))
        total += part
    if i + RUN < x.size:
        dy_, x_ = np.float64(load(dy, i + RUN)), np.float64(load(x, i + RUN))
        dx_, part = _gradients(dy_, x_, b, offset, sharpness, scale, p)
        store(dx, i + RUN, as_stored(dx, dx_))
        total += part
    return total


@kernel("xxxduuffff")
def concrete_backward(
    dx: Any, dy: Any, x: Any, sums: Any, key: Any, call: Any, offset: Any, sharpness: Any, scale: Any, p: Any
) -> None:
    """Set dx, and sums[16 * c + t] = what every 16th element of chunk c from t on adds to dlogit: a thread's share."""
    for share in range(cuda.grid(1), (x.size + CHUNK - 1) // CHUNK * LANES, cuda.gridsize(1)):
        total = 0.0
        start = share // LANES * CHUNK
        for first in range(start, least(start + CHUNK, x.size), GROUP):
            i = first + share % LANES
            b = np.uint64(first // GROUP * RUN + share % LANES)
            w0, w1, w2, w3 = words(b, key, call, NO_FLIP)
            l0, l1, l2, l3 = words(b, key, call, FLIP)
            total = _differentiate_two(total, dx, dy, x, i, w0, l0, offset, sharpness, scale, p)
            total = _differentiate_two(total, dx, dy, x, i + 2 * RUN, w1, l1, offset, sharpness, scale, p)
            total = _differentiate_two(total, dx, dy, x, i + 4 * RUN, w2, l2, offset, sharpness, scale, p)
            total = _differentiate_two(total, dx, dy, x, i + 6 * RUN, w3, l3, offset, sharpness, scale, p)
        sums[share] = total


@helper
def _two(sums: Any, i: Any) -> Any:
    return sums[i] + sums[i + 8]


@helper
def _four(sums: Any, i: Any) -> Any:
    return _two(sums, i) + _two(sums, i + 4)


@kernel("ddn")
def add_chunks(dlogit: Any, sums: Any, n_chunks: Any) -> None:
    """Set dlogit[0] = the sum over chunks in order, each the sum of its 16, halves added. One thread."""
    if cuda.grid(1) == 0:
        total = (_four(sums, 0) + _four(sums, 2)) + (_four(sums, 1) + _four(sums, 3))
        for i in range(LANES, n_chunks * LANES, LANES):
            total += (_four(sums, i) + _four(sums, i + 2)) + (_four(sums, i + 1) + _four(sums, i + 3))
        dlogit[0] = total


def concrete_dropout(y: DeviceArray, x: DeviceArray, relaxation: Relaxation) -> None:
    """y = x * (1 - z) / (1 - p), flat; +0 where 1 - z is 0."""
    law = key_word(relaxation.key), relaxation.call, *relaxation.constants()[:3]
    concrete_forward(x.dtype, n_write_blocks(x.size), y, x, *law)


def concrete_dropout_backward(
    dx: DeviceArray, dlogit: DeviceArray, dy: DeviceArray, x: DeviceArray, relaxation: Relaxation
) -> None:
    """Fill dx, flat, and dlogit[0], the gradient of the logit: two kernels."""
    n_chunks = n_blocks(x.size, CHUNK)
    sums = scratch(x, n_chunks * LANES)
    law = key_word(relaxation.key), relaxation.call, *relaxation.constants()
    concrete_backward(x.dtype, n_blocks(n_chunks * LANES, THREADS), dx, dy, x, sums, *law)
    add_chunks(_FLOAT64, 1, dlogit, sums, n_chunks)
