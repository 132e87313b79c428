"""Which kernels the operations of the library need, for compiling them ahead; and where compiled ones are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from normdrop import _steps
from normdrop._cpu import fused
from normdrop._cpu.kernels import (
    columns,
    concrete,
    drawn_masks,
    given_masks,
    input_gradients,
    masked_planes,
    masked_rows,
    per_channel,
    planes,
    rows,
    sample_masks,
    transposed,
)
from normdrop._cpu.launchers import exact_sums_of
from normdrop._cpu.toolchain import launch
from normdrop._cpu.toolchain.launch import Kernel, parallel_is_safe

_FLOAT64, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)


def _of_input_dtype(operation: str) -> list[Kernel]:
    if operation == "dropout":
        return [drawn_masks.dropout, given_masks.mask_planes, transposed.dropout_transposed]
    if operation in ("channel_dropout", "sample_dropout"):
        return [given_masks.mask_planes, given_masks.mask_elements]
    if operation == "concrete_dropout":
        return [concrete.concrete_dropout, concrete.concrete_dropout_backward]
    orders: list[Any] = [planes, rows]
    if operation == "masked_batch_norm":
        orders = [masked_planes, masked_rows]
        names = "gradients", "input_gradient", "moments", "normalize"
        kernels = [getattr(order, name) for order in orders for name in names]
        others = [getattr(order, name) for order in (planes, rows) for name in ("gradients", "normalize")]
        return [masked_planes.batch_norm, masked_planes.backward, *kernels, *others]
    if operation == "act_dropout":
        return []
    if operation == "statistics":  # the exact ones have a kernel for each dtype
        return [order.moments for order in (*orders, masked_planes, masked_rows)]
    if operation == "shared_batch_norm":
        kernels = [getattr(order, name) for order in orders for name in ("moments", "gradients", "normalize")]
        return [*kernels, input_gradients.row_gradient, input_gradients.plane_gradient]
    if operation == "batch_norm_act":  # what runs beside the fused kernels
        kernels = [
            getattr(order, name) for order in orders for name in ("moments", "backward", "gradients", "normalize")
        ]
        return [*kernels, planes.backward_in_blocks, columns.backward]
    kernels = [getattr(order, name) for order in orders for name in ("batch_norm", "backward", "normalize")]
    return [*kernels, planes.batch_norm_in_blocks, planes.backward_in_blocks, columns.batch_norm, columns.backward]


def _of_activations(operation: str, activations: Iterable[str]) -> list[Kernel]:
    return (
        [kernel for name in activations for kernel in fused.kernels(operation, name)]
        if operation in _steps.OPERATIONS
        else []
    )


def compilations(
    operations: Iterable[str], dtypes: Iterable[np.dtype[Any]], activations: Iterable[str], *, parallel: bool
) -> Iterator[Callable[[], object]]:
    """Yield a call for each variant of a kernel that the operations need; inputs of `dtypes`, each variant once."""
    dtypes, activations = tuple(dtypes), tuple(activations)
    wanted: dict[tuple[Kernel, np.dtype[Any], np.dtype[Any] | None, bool], None] = {}
    both = (False, True) if parallel and parallel_is_safe() else (False,)
    for operation in operations:
        for kernel in [*_of_input_dtype(operation), *_of_activations(operation, activations)]:
            for dtype in dtypes:
                parameters = _parameters(dtype) if "w" in kernel.arguments else None
                wanted.update({(kernel, dtype, parameters, threads): None for threads in both})
        if operation in ("channel_dropout", *_steps.OPERATIONS):
            wanted.update({(drawn_masks.keep_mask, _BOOL, None, threads): None for threads in both})
        if operation == "sample_dropout":
            wanted.update({(sample_masks.keep_samples, _BOOL, None, threads): None for threads in both})
        if operation == "statistics":
            wanted.update({(exact_sums_of(dtype), dtype, None, threads): None for dtype in dtypes for threads in both})
        if operation in ("batch_norm", "batch_norm_act", "masked_batch_norm", "shared_batch_norm"):
            wanted[per_channel.update_running, _FLOAT64, None, False] = None
            for parameters in map(_parameters, dtypes):
                wanted[per_channel.inference_vectors, _FLOAT64, parameters, False] = None
    for kernel, dtype, parameters, threads in wanted:
        yield partial(kernel.compile, dtype, parameters, parallel=threads)


def _parameters(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of parameters that usually goes with inputs of this one."""
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)


def cache_folder() -> str | None:
    """Return the folder of compiled kernels, or None if there is no place for one."""
    return launch.cache_folder(drawn_masks.dropout)
