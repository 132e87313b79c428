"""The CPU backend: launchers over Numba kernels, with the signatures of `normdrop._reference`."""

from normdrop._cpu.fused import (
    act_dropout,
    act_dropout_backward,
    act_gradient,
    batch_norm_act,
    batch_norm_act_backward,
    normalize_act,
)
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
    keep_samples,
    moments,
    normalize,
    parameter_gradients,
    update_running,
)

__all__ = [
    "act_dropout",
    "act_dropout_backward",
    "act_gradient",
    "apply_mask",
    "batch_norm",
    "batch_norm_act",
    "batch_norm_act_backward",
    "batch_norm_backward",
    "dropout",
    "dropout_transposed",
    "exact_sums",
    "inference_vectors",
    "input_gradient",
    "keep_mask",
    "keep_samples",
    "moments",
    "normalize",
    "normalize_act",
    "parameter_gradients",
    "update_running",
]
