"""The CPU backend: launchers over Numba kernels, with the signatures of `normdrop._reference`."""

from normdrop._cpu.affine_masks import affine_dropout, affine_dropout_transposed, apply_affine_mask
from normdrop._cpu.concrete import concrete_dropout, concrete_dropout_backward
from normdrop._cpu.connections import (
    drop_connect,
    drop_connect_bias_gradient,
    drop_connect_input_gradient,
    drop_connect_weight_gradient,
)
from normdrop._cpu.drop_block import drop_blocks, keep_blocks
from normdrop._cpu.fused import (
    act_dropout,
    act_dropout_backward,
    act_gradient,
    batch_norm_act,
    batch_norm_act_backward,
    normalize_act,
)
from normdrop._cpu.gaussian import gaussian_dropout, gaussian_noise
from normdrop._cpu.launchers import (
    apply_mask,
    batch_norm,
    batch_norm_backward,
    dropout,
    dropout_transposed,
    enumerate_masks,
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
from normdrop._cpu.masked import (
    masked_batch_norm,
    masked_batch_norm_backward,
    masked_moments,
    masked_normalize,
    masked_parameter_gradients,
)
from normdrop._cpu.varied import apply_factors, dropout_varied, keep_varied

__all__ = [
    "act_dropout",
    "act_dropout_backward",
    "act_gradient",
    "affine_dropout",
    "affine_dropout_transposed",
    "apply_affine_mask",
    "apply_factors",
    "apply_mask",
    "batch_norm",
    "batch_norm_act",
    "batch_norm_act_backward",
    "batch_norm_backward",
    "concrete_dropout",
    "concrete_dropout_backward",
    "drop_blocks",
    "drop_connect",
    "drop_connect_bias_gradient",
    "drop_connect_input_gradient",
    "drop_connect_weight_gradient",
    "dropout",
    "dropout_transposed",
    "dropout_varied",
    "enumerate_masks",
    "exact_sums",
    "gaussian_dropout",
    "gaussian_noise",
    "inference_vectors",
    "input_gradient",
    "keep_blocks",
    "keep_mask",
    "keep_samples",
    "keep_varied",
    "masked_batch_norm",
    "masked_batch_norm_backward",
    "masked_moments",
    "masked_normalize",
    "masked_parameter_gradients",
    "moments",
    "normalize",
    "normalize_act",
    "parameter_gradients",
    "update_running",
]
