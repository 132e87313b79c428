"""Where arrays meet a launcher: the only device decision, and the only check that a launcher's arguments fit together.

The launchers have the names and signatures of `normdrop._reference`, which documents them. A backend believes what it
is given: an array that is shorter than another says would be read or written beyond its end. So each launcher's
contract is checked here, whatever the passes above know, for an array may have been changed since the forward pass and
a context may come from anywhere.
"""

from normdrop._backend.affine_masks import affine_dropout, affine_dropout_transposed, apply_affine_mask
from normdrop._backend.concrete import concrete_dropout, concrete_dropout_backward
from normdrop._backend.connections import (
    drop_connect,
    drop_connect_bias_gradient,
    drop_connect_input_gradient,
    drop_connect_weight_gradient,
)
from normdrop._backend.contracts import select
from normdrop._backend.drop_block import drop_blocks, keep_blocks
from normdrop._backend.fused import (
    act_dropout,
    act_dropout_backward,
    act_gradient,
    batch_norm_act,
    batch_norm_act_backward,
    normalize_act,
)
from normdrop._backend.gaussian import gaussian_dropout, gaussian_noise
from normdrop._backend.masked import (
    masked_batch_norm,
    masked_batch_norm_backward,
    masked_moments,
    masked_normalize,
    masked_parameter_gradients,
)
from normdrop._backend.masks import (
    apply_mask,
    dropout,
    dropout_transposed,
    enumerate_masks,
    keep_mask,
    keep_samples,
)
from normdrop._backend.normalization import (
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
from normdrop._backend.varied import apply_factors, dropout_varied, keep_varied

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
    "select",
    "update_running",
]
