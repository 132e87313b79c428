"""Dropout whose p varies, on a GPU: the numbers of the mask law, each compared with a T of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, cuda, helper, kernel, n_blocks
from normdrop._cuda.launchers import key_word
from normdrop._cuda.mask_law import FLIP, GROUP, RUN, RUNS, numbers, words
from normdrop._cuda.memory import as_value, load, store

_BOOL = np.dtype(np.bool_)
_NO_FLIP = np.uint32(0)
_UNIT = 2.0**-32


@helper
def _drop(y: Any, x: Any, thresholds: Any, i: Any, number: Any, places: Any) -> None:
    """y[i], if there is such an element; places = (channels, elements of a run, whether to scale)."""
    n_channels, inner, inverted = places
    if i < x.size:
        value, t = as_value(x, 0.0), thresholds[i // inner % n_channels]
        if number > t:
            value = load(x, i)
            if inverted != 0:
                value *= as_value(x, 1.0 / (1.0 - t * _UNIT))
        store(y, i, value)


@helper
def _drop_two(y: Any, x: Any, thresholds: Any, i: Any, high: Any, low: Any, places: Any) -> None:
    """As `_drop` on elements i and i + 16."""
    a, b = numbers(high, low)
    _drop(y, x, thresholds, i, a, places)
    _drop(y, x, thresholds, i + RUN, b, places)


@kernel("xxduunnn")
def varied(y: Any, x: Any, thresholds: Any, key: Any, call: Any, n_channels: Any, inner: Any, inverted: Any) -> None:
    """y = x / (1 - T / 2**32) or x where the number is above T, else +0. A thread has one element in each run."""
    places = n_channels, inner, inverted
    for place in range(cuda.grid(1), (x.size + GROUP - 1) // GROUP * RUN, cuda.gridsize(1)):
        i = place // RUN * GROUP + place % RUN
        w0, w1, w2, w3 = words(np.uint64(place), key, call, _NO_FLIP)
        l0, l1, l2, l3 = words(np.uint64(place), key, call, FLIP)
        _drop_two(y, x, thresholds, i, w0, l0, places)
        _drop_two(y, x, thresholds, i + 2 * RUN, w1, l1, places)
        _drop_two(y, x, thresholds, i + 4 * RUN, w2, l2, places)
        _drop_two(y, x, thresholds, i + 6 * RUN, w3, l3, places)


@helper
def _keep_two(mask: Any, thresholds: Any, i: Any, stop: Any, high: Any, low: Any) -> None:
    """mask of elements i and i + 16, as far as they lie before `stop`."""
    a, b = numbers(high, low)
    if i < stop:
        mask[i] = a > thresholds[i]
    if i + RUN < stop:
        mask[i + RUN] = b > thresholds[i + RUN]


@kernel("bdqnu")
def keep(mask: Any, thresholds: Any, keys: Any, length: Any, call: Any) -> None:
    """mask[n, j] = whether the number of element j under key n is above T[n, j]; flat. Threads as above."""
    per_sample = (length + GROUP - 1) // GROUP * RUN
    for place in range(cuda.grid(1), keys.size // 2 * per_sample, cuda.gridsize(1)):
        sample, b = place // per_sample, place % per_sample
        key = np.uint64(keys[2 * sample]) | np.uint64(keys[2 * sample + 1]) << np.uint64(32)
        i, stop = sample * length + b // RUN * GROUP + b % RUN, (sample + 1) * length
        w0, w1, w2, w3 = words(np.uint64(b), key, call, _NO_FLIP)
        l0, l1, l2, l3 = words(np.uint64(b), key, call, FLIP)
        _keep_two(mask, thresholds, i, stop, w0, l0)
        _keep_two(mask, thresholds, i + 2 * RUN, stop, w1, l1)
        _keep_two(mask, thresholds, i + 4 * RUN, stop, w2, l2)
        _keep_two(mask, thresholds, i + 6 * RUN, stop, w3, l3)


@kernel("xxbdnn")
def scale(y: Any, x: Any, mask: Any, factors: Any, n_shared: Any, length: Any) -> None:
    """y[a, s, b] = factors[a, b] * x[a, s, b] where mask[a, b] and the factor is above 0, else +0. Thread: element."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        place = i // (n_shared * length) * length + i % length
        value = as_value(x, 0.0)
        if mask[place] != 0 and factors[place] > 0.0:
            value = load(x, i) * as_value(x, factors[place])
        store(y, i, value)


def dropout_varied(
    y: DeviceArray, x: DeviceArray, thresholds: DeviceArray, key: tuple[int, int], call: int, inverted: bool
) -> None:
    """y = x / (1 - T / 2**32) or x where the mask law keeps with T of the channel, else +0."""
    _, n_channels, inner = x.shape
    blocks = n_blocks(x.size, THREADS * RUNS)
    varied(x.dtype, blocks, y, x, thresholds, key_word(key), call, n_channels, inner, int(inverted))


def keep_varied(mask: DeviceArray, thresholds: DeviceArray, keys: DeviceArray, call: int) -> None:
    """mask[n, j] = whether the mask law keeps element j under key n with T = thresholds[n, j]."""
    n_samples, length = mask.shape
    blocks = n_blocks(n_samples * (length + GROUP - 1), THREADS * RUNS)
    keep(_BOOL, blocks, mask, thresholds, keys, length, call)


def apply_factors(y: DeviceArray, x: DeviceArray, mask: DeviceArray, factors: DeviceArray) -> None:
    """y = factor * x where a given mask keeps and the factor is above 0, else +0."""
    _, n_shared, length = x.shape
    scale(x.dtype, n_blocks(x.size, THREADS), y, x, mask, factors, n_shared, length)
