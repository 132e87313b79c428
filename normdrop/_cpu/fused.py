"""Launchers of fused passes: batch norm, a residual sum, an activation and dropout, with the bits of one after another.

By planes, where a channel fits a cache, everything is done while it is there. Elsewhere the sums are taken first.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop._cpu import launchers
from normdrop._cpu.kernels import fused_planes, fused_rows, mask_pieces, planes, rows
from normdrop._cpu.kernels.elementwise_rows import loops_of
from normdrop._cpu.kernels.fused_operations import Fusion, operations
from normdrop._cpu.lanes.half import stored
from normdrop._cpu.toolchain.launch import Kernel, workers
from normdrop._cpu.toolchain.scratch import scratch
from normdrop._cpu.tuning import MASK_BUFFER, SLAB, SPAN_SLAB
from normdrop._steps import Steps

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]
Inputs: TypeAlias = "tuple[Array, Array | None]"  # x and residual

_NO_MASK, _NO_VECTORS = np.zeros(0, np.bool_), np.zeros((3, 1))

_kernels: dict[tuple[Kernel, Fusion, bool], Kernel] = {}


def _fused(kernel: Kernel, fusion: Fusion, backward: bool) -> Kernel:
    """Return a kernel of a fusion: the same function, with what the fusion computes under the names it calls."""
    found = _kernels.get((kernel, fusion, backward))
    if found is not None:
        return found
    function, names = kernel.function, dict(kernel.function.__globals__)
    names["operation"] = operations(fusion)[backward]
    names["rows_loop"], names["run_loop"] = loops_of(names["operation"])
    names["fill"] = mask_pieces.fill if fusion.dropout else mask_pieces.no_mask
    names["loop_ahead"] = mask_pieces.while_drawn if fusion.dropout else mask_pieces.in_loop
    names["end_of_piece"] = mask_pieces.cut if fusion.dropout else mask_pieces.whole
    name = f"{function.__name__}_{fusion.name}_{'backward' if backward else 'forward'}"
    made = FunctionType(function.__code__, names, name)
    made.__module__ = function.__module__
    # Of two threads that come at once, both get the first one's kernel, so that it is compiled once.
    return _kernels.setdefault((kernel, fusion, backward), Kernel(made, kernel.arguments))


def _slabs(n_workers: int, x: Array) -> Array:
    """Memory of each worker for the values of as many channels as `fused_planes.backward` takes at once."""
    size = max(x.shape[0] * x.shape[2], max(SLAB, SPAN_SLAB) // (2 * x.itemsize))
    memory: Array = scratch((n_workers, 1, (size * x.itemsize + 7) // 8)).view(x.dtype)
    return memory


def _law(steps: Steps, n_workers: int) -> tuple[Array, Array]:
    """The numbers of the mask law as kernels take them, and the given mask."""
    threshold = steps.threshold if steps.mask is None else mask_pieces.GIVEN
    law = np.array([*steps.key, steps.call, threshold, *steps.fold, n_workers], np.int64)
    return law, _NO_MASK if steps.mask is None else steps.mask.reshape(-1)


def _buffers(n_bytes: int) -> Array:
    return scratch((n_bytes // 8,)).view(np.bool_)


def _transform(y: Array, dy: Array, x: Array, residual: Array, vectors: Vectors, steps: Steps, kind: Any) -> None:
    """y = the operation of a kind = (fusion, whether backward) on every element, vectors = [mean, scale, shift]."""
    fusion, backward = kind
    n_workers = workers(x.size)
    law, given = _law(steps, n_workers)
    arrays = stored(y), stored(dy), stored(x), stored(residual)
    constants = np.array([steps.parameter, steps.scale])
    if launchers.by_rows(x.shape):
        work = rows.workspace_shape(x.shape)
        size = fused_rows.buffer_size(rows.row_width(x.shape)) if fusion.dropout else 8
        run = _fused(fused_rows.transform, fusion, backward).variant(x.dtype, x.size)
        run(*arrays, vectors, constants, law, given, _buffers(n_workers * size), scratch(work))
    else:
        run = _fused(fused_planes.transform, fusion, backward).variant(x.dtype, x.size)
        run(*arrays, vectors, constants, law, given, _buffers(n_workers * MASK_BUFFER))


def _kind(residual: Array | None, steps: Steps) -> Fusion:
    return Fusion(True, "" if residual is None else "before", steps.activation, steps.drops)


def batch_norm_act(
    y: Array, inputs: Inputs, statistics: Vectors, affine: tuple[Array, Array], eps: float, steps: Steps
) -> None:
    """Fill the statistics, and y = dropout(activation(batch norm of x + residual)); inputs = (x, residual)."""
    (x, residual), (gamma, beta) = inputs, affine
    fusion, r = _kind(residual, steps), x if residual is None else residual
    if not launchers.by_rows(x.shape) and launchers.in_one_go(x.shape, x.itemsize):
        n_workers = workers(x.size)
        law, given = _law(steps, n_workers)
        run = _fused(fused_planes.batch_norm, fusion, False).variant(x.dtype, x.size, gamma.dtype)
        work = scratch(planes.workspace_shape(x.shape))
        constants = np.array([steps.parameter, steps.scale, eps])
        arrays = stored(y), stored(x), stored(r)
        run(*arrays, statistics, gamma, beta, work, constants, law, given, _buffers(n_workers * MASK_BUFFER))
        return
    launchers.moments(statistics, x)
    vectors = np.empty((4, x.shape[1]))
    launchers.inference_vectors(vectors, statistics[0], statistics[1], gamma, beta, eps)
    statistics[2] = vectors[3]
    _transform(y, x, x, r, vectors, steps, (fusion, False))


def normalize_act(y: Array, inputs: Inputs, vectors: Vectors, steps: Steps) -> None:
    """y = dropout(activation((x - mean) * scale + shift + residual)); vectors = [mean, scale, shift]."""
    x, residual = inputs
    _transform(y, x, x, x if residual is None else residual, vectors, steps, (_kind(residual, steps), False))


def act_gradient(du: Array, dy: Array, inputs: Inputs, vectors: Vectors, steps: Steps) -> None:
    """du = gradient of what the activation takes, in `normalize_act`."""
    x, residual = inputs
    _transform(du, dy, x, x if residual is None else residual, vectors, steps, (_kind(residual, steps), True))


def batch_norm_act_backward(
    results: tuple[Array, Array],
    inputs: tuple[Array, Array, Array | None],
    sums: Vectors,
    statistics: Vectors,
    affine: tuple[Array, Array],
    steps: Steps,
) -> None:
    """Fill results = (dx, du) and the sums of `batch_norm_act`; inputs = (dy, x, residual).

    du is the gradient of what the activation takes, and so of the residual. It may be dx, if nobody wants it.
    """
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    fusion, r = _kind(residual, steps), x if residual is None else residual
    vectors = np.stack([statistics[0], gamma.astype(np.float64) * statistics[2], beta])
    if not launchers.by_rows(x.shape) and launchers.in_one_go(x.shape, 2 * x.itemsize):
        n_workers = workers(x.size)
        law, given = _law(steps, n_workers)
        slabs = _slabs(n_workers, x)
        run = _fused(fused_planes.backward, fusion, True).variant(x.dtype, x.size, gamma.dtype)
        work = scratch(planes.workspace_shape(x.shape))
        constants = np.array([steps.parameter, steps.scale])
        arrays = stored(dx), stored(du), stored(slabs), stored(dy), stored(x), stored(r)
        masks = _buffers(n_workers * MASK_BUFFER)
        run(*arrays, sums, statistics, vectors, gamma, work, constants, law, given, masks)
        return
    _transform(du, dy, x, r, vectors, steps, (fusion, True))
    launchers.batch_norm_backward(dx, du, x, sums, statistics, gamma)


def act_dropout(y: Array, inputs: Inputs, steps: Steps) -> None:
    """y = dropout(activation(x)) + residual, flat; inputs = (x, residual)."""
    x, residual = inputs
    fusion = Fusion(False, "" if residual is None else "after", steps.activation, steps.drops)
    flat = x.reshape(1, 1, -1)
    r = flat if residual is None else residual.reshape(1, 1, -1)
    _transform(y.reshape(1, 1, -1), flat, flat, r, _NO_VECTORS, steps, (fusion, False))


def act_dropout_backward(dx: Array, dy: Array, x: Array, steps: Steps) -> None:
    """dx = gradient of `act_dropout`, flat."""
    fusion = Fusion(False, "", steps.activation, steps.drops)
    flat = x.reshape(1, 1, -1)
    _transform(dx.reshape(1, 1, -1), dy.reshape(1, 1, -1), flat, flat, _NO_VECTORS, steps, (fusion, True))


def kernels(operation: str, activation: str) -> list[Kernel]:
    """Return the kernels of "batch_norm_act" or "act_dropout" for one activation, for compiling them ahead."""
    both, planes_and_rows = (False, True), (fused_planes.transform, fused_rows.transform)
    if operation == "act_dropout":
        kinds = [("", False), ("after", False), ("", True)]  # where the residual is added, whether backward
        return [
            _fused(fused_planes.transform, Fusion(False, residual, activation, dropout), backward)
            for dropout in both
            for residual, backward in kinds
        ]
    found = []
    for fusion in (Fusion(True, residual, activation, dropout) for residual in ("", "before") for dropout in both):
        found += [_fused(kernel, fusion, backward) for kernel in planes_and_rows for backward in both]
        found += [_fused(fused_planes.batch_norm, fusion, False), _fused(fused_planes.backward, fusion, True)]
    return found
