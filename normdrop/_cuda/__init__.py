"""The CUDA backend: launchers over Numba kernels, with the signatures of `normdrop._reference`."""

from normdrop._cuda.batch_norm import (
    batch_norm,
    batch_norm_backward,
    inference_vectors,
    moments,
    normalize,
    parameter_gradients,
    update_running,
)
from normdrop._cuda.dropout import apply_mask, dropout, keep_mask
from normdrop._cuda.transposed import dropout_transposed

__all__ = [
    "apply_mask",
    "batch_norm",
    "batch_norm_backward",
    "dropout",
    "dropout_transposed",
    "inference_vectors",
    "keep_mask",
    "moments",
    "normalize",
    "parameter_gradients",
    "update_running",
]
