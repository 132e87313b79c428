"""DropConnect on a GPU: a mask for each sample is drawn where it is used, and sums are float64.

Where all samples have one mask, weights are dropped first, and the same kernels run with everything kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._connections import Connections
from normdrop._cuda import launchers
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, cuda, helper, kernel, n_blocks
from normdrop._cuda.launchers import key_word
from normdrop._cuda.mask_law import GROUP, RUN, RUNS, kept_bits
from normdrop._cuda.memory import as_stored, load, store
from normdrop._cuda.scratch import scratch

_FLOAT64 = np.dtype(np.float64)
_ALL = np.int32((1 << RUNS) - 1)
_NOTHING = np.uint64(0)
_ROWS = 1 << 18  # of the mask at once, which take 32 MiB of workspace


@helper
def _bits(b: Any, key: Any, call: Any, threshold: Any) -> Any:
    """As `kept_bits`; nothing is drawn where nothing is dropped."""
    if threshold == _NOTHING:
        return _ALL
    return kept_bits(b, key, call, threshold)


@helper
def _is_kept(i: Any, key: Any, call: Any, threshold: Any) -> Any:
    """Whether element i is kept."""
    bits = _bits(np.uint64(i // GROUP * RUN + i % RUN), key, call, threshold)
    return (bits >> np.int32(i % GROUP // RUN)) & np.int32(1) != 0


@kernel("dxxuuunnnn")
def connection_sums(
    sums: Any, x: Any, weight: Any, key: Any, call: Any, threshold: Any, first: Any, n_rows: Any, n_out: Any, n_in: Any
) -> None:
    """sums[16 * r + t] = sum of weight * x over every 16th element of row first + r of the mask, where kept."""
    for share in range(cuda.grid(1), n_rows * RUN, cuda.gridsize(1)):
        row, lane = first + share // RUN, share % RUN
        start = row * n_in
        stop = start + n_in
        of_weight, of_x = row % n_out * n_in - start, row // n_out * n_in - start
        total = 0.0
        for group in range(start // GROUP, (stop + GROUP - 1) // GROUP):
            bits = _bits(np.uint64(group * RUN + lane), key, call, threshold)
            for k in range(RUNS):
                i = group * GROUP + k * RUN + lane
                if start <= i < stop and (bits >> np.int32(k)) & np.int32(1) != 0:
                    total += np.float64(load(weight, i + of_weight)) * np.float64(load(x, i + of_x))
        sums[share] = total


@kernel("xddfnnn")
def connection_outputs(y: Any, sums: Any, bias: Any, scale: Any, first: Any, n_rows: Any, n_out: Any) -> None:
    """y = scale * the sum of 16 sums in order + bias. A thread has a row of the mask."""
    for r in range(cuda.grid(1), n_rows, cuda.gridsize(1)):
        total = 0.0
        for lane in range(RUN):
            total += sums[r * RUN + lane]
        store(y, first + r, as_stored(y, total * scale + bias[(first + r) % n_out]))


@kernel("xxxuuufnn")
def connection_inputs(
    dx: Any, dy: Any, weight: Any, key: Any, call: Any, threshold: Any, scale: Any, n_out: Any, n_in: Any
) -> None:
    """dx = scale * sum of weight * dy over the outputs that are kept, in order. A thread has an element of dx."""
    for place in range(cuda.grid(1), dx.size, cuda.gridsize(1)):
        sample, i = place // n_in, place % n_in
        total = 0.0
        for o in range(n_out):
            row = sample * n_out + o
            if _is_kept(row * n_in + i, key, call, threshold):
                total += np.float64(load(weight, o * n_in + i)) * np.float64(load(dy, row))
        store(dx, place, as_stored(dx, total * scale))


@kernel("xxxuuufnn")
def connection_weights(
    dweight: Any, dy: Any, x: Any, key: Any, call: Any, threshold: Any, scale: Any, n_out: Any, n_in: Any
) -> None:
    """dweight = scale * sum of dy * x over the samples that keep it, in order. A thread has an element of dweight."""
    for place in range(cuda.grid(1), dweight.size, cuda.gridsize(1)):
        o, i = place // n_in, place % n_in
        total = 0.0
        for sample in range(x.size // n_in):
            row = sample * n_out + o
            if _is_kept(row * n_in + i, key, call, threshold):
                total += np.float64(load(dy, row)) * np.float64(load(x, sample * n_in + i))
        store(dweight, place, as_stored(dweight, total * scale))


@kernel("dxn")
def connection_biases(dbias: Any, dy: Any, n_out: Any) -> None:
    """dbias = sum of dy over samples, in order. A thread has an output."""
    for o in range(cuda.grid(1), n_out, cuda.gridsize(1)):
        total = 0.0
        for i in range(o, dy.size, n_out):
            total += np.float64(load(dy, i))
        dbias[o] = total


def _law(connections: Connections) -> tuple[int, int, int]:
    """Key, call and T of masks of samples; T is 0 where weights have been dropped or nothing is."""
    return key_word(connections.key), connections.call, 0 if connections.are_shared else connections.threshold


def _drop(kept: DeviceArray, values: DeviceArray, connections: Connections) -> None:
    law = connections.key, connections.call, connections.threshold, 1.0
    launchers.dropout(kept.reshape(-1), values.reshape(-1), *law)


def _dropped(weight: DeviceArray, connections: Connections) -> DeviceArray:
    """The weights with +0 where the mask that all samples share drops."""
    if connections.threshold == 0 or not connections.are_shared:
        return weight
    kept = weight.empty(weight.shape, weight.dtype)
    _drop(kept, weight, connections)
    return kept


def drop_connect(
    y: DeviceArray, x: DeviceArray, weight: DeviceArray, bias: DeviceArray, connections: Connections
) -> None:
    """y = scale * sums over kept connections + bias: two kernels for each so many rows of the mask."""
    (_, n_in), n_out, law = x.shape, bias.size, _law(connections)
    kept = _dropped(weight, connections)
    for first in range(0, y.size, _ROWS):
        n_rows = min(_ROWS, y.size - first)
        sums = scratch(x, n_rows * RUN)
        blocks = n_blocks(n_rows * RUN, THREADS)
        connection_sums(x.dtype, blocks, sums, x, kept, *law, first, n_rows, n_out, n_in)
        blocks = n_blocks(n_rows, THREADS)
        connection_outputs(x.dtype, blocks, y, sums, bias, connections.scale, first, n_rows, n_out)


def drop_connect_input_gradient(
    dx: DeviceArray, dy: DeviceArray, weight: DeviceArray, connections: Connections
) -> None:
    """dx = scale * sums over the outputs of kept connections."""
    law = *_law(connections), connections.scale, *weight.shape
    connection_inputs(dx.dtype, n_blocks(dx.size, THREADS), dx, dy, _dropped(weight, connections), *law)


def drop_connect_weight_gradient(
    dweight: DeviceArray, dy: DeviceArray, x: DeviceArray, connections: Connections
) -> None:
    """dweight = scale * sums over the samples in which a connection is kept."""
    law = *_law(connections), connections.scale, *dweight.shape
    connection_weights(x.dtype, n_blocks(dweight.size, THREADS), dweight, dy, x, *law)
    if connections.are_shared and connections.threshold > 0:
        _drop(dweight, dweight, connections)


def drop_connect_bias_gradient(dbias: DeviceArray, dy: DeviceArray) -> None:
    """dbias = sums over samples."""
    connection_biases(dy.dtype, n_blocks(dbias.size, THREADS), dbias, dy, dbias.size)
