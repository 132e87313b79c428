"""Which kernels the operations of the library need, for compiling them ahead; and where compiled ones are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from normdrop import _steps
from normdrop._cpu import fused
from normdrop._cpu.kernels import (
    affine_masks,
    block_bits,
    columns,
    concrete,
    connections,
    drawn_masks,
    drop_block,
    gaussian,
    given_masks,
    input_gradients,
    masked_planes,
    masked_rows,
    per_channel,
    planes,
    rows,
    sample_masks,
    transposed,
    varied,
)
from normdrop._cpu.launchers import exact_sums_of
from normdrop._cpu.toolchain import launch
from normdrop._cpu.toolchain.launch import Kernel, parallel_is_safe

_FLOAT64, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)


def _named(modules: Iterable[Any], *names: str) -> list[Kernel]:
    return [getattr(module, name) for module in modules for name in names]


_ORDERS, _MASKED = (planes, rows), (masked_planes, masked_rows)
_OF_INPUT_DTYPE: dict[str, list[Kernel]] = {
    "dropout": [drawn_masks.dropout, given_masks.mask_planes, transposed.dropout_transposed],
    "alpha_dropout": [
        *_named([affine_masks], "affine_dropout", "affine_dropout_transposed", "mask_planes", "mask_elements"),
        drawn_masks.dropout,
        given_masks.mask_planes,
        given_masks.mask_elements,
        transposed.dropout_transposed,
    ],
    "channel_dropout": [given_masks.mask_planes, given_masks.mask_elements],
    "sample_dropout": [given_masks.mask_planes, given_masks.mask_elements],
    "concrete_dropout": [concrete.concrete_dropout, concrete.concrete_dropout_backward],
    "drop_connect": [
        *_named([connections], "forward", "input_gradient", "weight_gradient"),
        drawn_masks.dropout,
    ],
    "gaussian_dropout": [gaussian.gaussian_dropout, given_masks.mask_planes],
    "gaussian_noise": [gaussian.gaussian_noise, given_masks.mask_planes],
    "drop_block": [block_bits.mask_pieces, given_masks.mask_planes, given_masks.mask_elements],
    "batch_norm": [
        *_named(_ORDERS, "batch_norm", "backward", "gradients", "normalize"),
        *_named([planes], "batch_norm_in_blocks", "backward_in_blocks"),
        *_named([columns], "batch_norm", "backward"),
    ],
    "masked_batch_norm": [
        *_named(_MASKED, "gradients", "input_gradient", "moments", "normalize"),
        *_named([masked_planes], "batch_norm", "backward"),
        *_named(_ORDERS, "gradients", "normalize"),
    ],
    "varied_dropout": [
        *_named([varied], "dropout_varied", "apply_factors"),
        given_masks.mask_planes,
        given_masks.mask_elements,
    ],
    "statistics": _named((*_ORDERS, *_MASKED), "moments"),  # the exact ones have a kernel for each dtype
    "shared_batch_norm": [
        *_named(_ORDERS, "moments", "gradients", "normalize"),
        *_named([input_gradients], "row_gradient", "plane_gradient"),
    ],
    "batch_norm_act": [  # what runs beside the fused kernels
        *_named(_ORDERS, "moments", "backward", "gradients", "normalize"),
        planes.backward_in_blocks,
        columns.backward,
    ],
    "act_dropout": [],
}


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
        for kernel in [*_OF_INPUT_DTYPE[operation], *_of_activations(operation, activations)]:
            for dtype in dtypes:
                parameters = _parameters(dtype) if "w" in kernel.arguments else None
                wanted.update({(kernel, dtype, parameters, threads): None for threads in both})
        if operation in ("channel_dropout", *_steps.OPERATIONS):
            wanted.update({(drawn_masks.keep_mask, _BOOL, None, threads): None for threads in both})
        if operation == "drop_block":
            for kernel in (drop_block.keep_blocks, drop_block.keep_block_bits):
                wanted.update({(kernel, _BOOL, None, threads): None for threads in both})
        if operation == "sample_dropout":
            wanted.update({(sample_masks.keep_samples, _BOOL, None, threads): None for threads in both})
        if operation == "varied_dropout":
            wanted.update({(varied.keep_varied, _BOOL, None, threads): None for threads in both})
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
