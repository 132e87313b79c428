"""The backend in plain NumPy: specification and oracle of the compiled ones.

Every backend has these launchers, with these signatures. They fill the arrays they are given and return nothing.
`x`, `y`, `dx`, `dy` are C-contiguous; flat for dropout, (outer, C, inner) for batch norm, (A, S, B) for `apply_mask`.
They are float16, bfloat16, float32 or float64; the first two are computed in float32 and rounded. Outputs come first
and may be the input itself.

Numbers per channel are float64, in rows of shape (C,): `statistics` = [mean, variance, 1 / sqrt(variance + eps)],
`sums` = [dgamma, dbeta]; `normalize` reads the first three rows of its `vectors`. `gamma` and `beta` have shape (C,)
and one dtype, float32 or float64; float64 if `x` has that. Given and running statistics, `mean` and `var`, are float64.

Fused passes take `Steps`, residuals of the shape and dtype of x, or None, and affine = (gamma, beta); each step is
rounded as if it were a pass of its own.
"""

from normdrop._reference.affine_masks import affine_dropout, affine_dropout_transposed, apply_affine_mask
from normdrop._reference.concrete import (
    concrete_dropout,
    concrete_dropout_backward,
)
from normdrop._reference.connections import (
    drop_connect,
    drop_connect_bias_gradient,
    drop_connect_input_gradient,
    drop_connect_weight_gradient,
)
from normdrop._reference.drop_block import drop_blocks, keep_blocks
from normdrop._reference.fused import (
    act_dropout,
    act_dropout_backward,
    act_gradient,
    batch_norm_act,
    batch_norm_act_backward,
    normalize_act,
)
from normdrop._reference.gaussian import gaussian_dropout, gaussian_noise
from normdrop._reference.masked import (
    masked_batch_norm,
    masked_batch_norm_backward,
    masked_moments,
    masked_normalize,
    masked_parameter_gradients,
)
from normdrop._reference.masks import (
    apply_mask,
    dropout,
    dropout_transposed,
    enumerate_masks,
    keep_mask,
    keep_samples,
    numbers,
    philox,
)
from normdrop._reference.normalization import (
    batch_norm,
    batch_norm_backward,
    exact_sums,
    inference_vectors,
    input_gradient,
    moments,
    normalize,
    parameter_gradients,
    update_running,
)
from normdrop._reference.varied import apply_factors, dropout_varied, keep_varied

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
    "numbers",
    "parameter_gradients",
    "philox",
    "update_running",
]
