"""The CPU backend: launchers over Numba kernels, with the signatures of `normdrop._reference`."""

from normdrop._cpu.launchers import (
    apply_mask,
    batch_norm,
    batch_norm_backward,
    dropout,
    dropout_transposed,
    exact_sums,
    inference_vectors,
    input_gradient,
    keep_mask,
    moments,
    normalize,
    parameter_gradients,
    update_running,
)

__all__ = [
    "apply_mask",
    "batch_norm",
    "batch_norm_backward",
    "dropout",
    "dropout_transposed",
    "exact_sums",
    "inference_vectors",
    "input_gradient",
    "keep_mask",
    "moments",
    "normalize",
    "parameter_gradients",
    "update_running",
]
