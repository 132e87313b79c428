"""Launchers of DropConnect: kernels where each sample has a mask, NumPy's product where all have one."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._connections import Connections
from normdrop._cpu import launchers
from normdrop._cpu.kernels import connections as kernels
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.toolchain.launch import workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import MASK_PIECE

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]


def _law(connections: Connections, n_in: int) -> Array:
    return np.array([*connections.key, connections.call, connections.threshold, n_in], np.int64)


def _masks(n_workers: int) -> Array:
    memory: Array = scratch((n_workers * kernels.BUFFER // 8,)).view(np.bool_)
    return memory


def _flat(*arrays: Array) -> list[Array]:
    return [stored(values).reshape(-1) for values in arrays]


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def _dropped(values: Array, connections: Connections) -> Array:
    """Values with +0 where the mask that all samples share drops; a copy, unless nothing is dropped."""
    if connections.threshold == 0:
        return values
    kept = np.empty_like(values)
    _drop(kept, values, connections)
    return kept


def _drop(kept: Array, values: Array, connections: Connections) -> None:
    law = connections.key, connections.call, connections.threshold, 1.0
    launchers.dropout(kept.reshape(-1), values.reshape(-1), *law)


def _product(to: Array, a: Array, b: Array, scale: float, bias: Vector | None = None) -> None:
    """Set to = scale * a @ b + bias in the dtype of `to`, or for 16 bits in float32, rounded once."""
    with np.errstate(all="ignore"):
        if to.itemsize == 2:
            product = np.empty(to.shape, np.float32)
            _product(product, a.astype(np.float32), b.astype(np.float32), scale, bias)
            to[...] = product
            return
        np.matmul(a, b, out=to)
        if scale != 1.0:
            to *= to.dtype.type(scale)
        if bias is not None:
            to += bias.astype(to.dtype, copy=False)


def drop_connect(y: Array, x: Array, weight: Array, bias: Vector, connections: Connections) -> None:
    """y = scale * sums over kept connections + bias."""
    if connections.are_shared:
        _product(y, x, _dropped(weight, connections).T, connections.scale, bias)
        return
    n_in = x.shape[1]
    size = y.size * n_in
    run = kernels.forward.variant(x.dtype, size)
    run(*_flat(y, x, weight), bias, _law(connections, n_in), connections.scale, _masks(workers(size)))


def drop_connect_input_gradient(dx: Array, dy: Array, weight: Array, connections: Connections) -> None:
    """dx = scale * sums over the outputs of kept connections."""
    if connections.are_shared:
        _product(dx, dy, _dropped(weight, connections), connections.scale)
        return
    n_in = weight.shape[1]
    size = dy.size * n_in
    n_workers = workers(size)
    run = kernels.input_gradient.variant(dy.dtype, size)
    work = scratch((n_workers, _padded(n_in)))
    run(*_flat(dx, dy, weight), _law(connections, n_in), connections.scale, _masks(n_workers), work)


def drop_connect_weight_gradient(dweight: Array, dy: Array, x: Array, connections: Connections) -> None:
    """dweight = scale * sums over the samples in which a connection is kept."""
    if connections.are_shared:
        _product(dweight, dy.T, x, connections.scale)
        if connections.threshold > 0:
            _drop(dweight, dweight, connections)
        return
    n_in = x.shape[1]
    size = dy.size * n_in
    n_workers = workers(size)
    width = _padded(min(n_in, MASK_PIECE))
    run = kernels.weight_gradient.variant(x.dtype, size)
    work = scratch((n_workers, max(1, MASK_PIECE // width) * width))
    run(*_flat(dweight, dy, x), _law(connections, n_in), connections.scale, _masks(n_workers), work)


def drop_connect_bias_gradient(dbias: Vector, dy: Array) -> None:
    """dbias = sums over samples."""
    with np.errstate(all="ignore"):
        np.sum(dy.astype(np.float64, copy=False), axis=0, out=dbias)
