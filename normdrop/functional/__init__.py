"""Stateless passes: check, allocate, call the backend, return (y, context); backward takes the context."""

import sys

from normdrop.functional._act_dropout import ActDropoutContext, act_dropout, act_dropout_backward
from normdrop.functional._alpha_dropout import alpha_dropout, alpha_dropout_backward
from normdrop.functional._batch_norm import BatchNormContext, batch_norm, batch_norm_backward
from normdrop.functional._batch_norm_act import BatchNormActContext, batch_norm_act, batch_norm_act_backward
from normdrop.functional._batch_norm_act_inference import (
    BatchNormActInferenceContext,
    batch_norm_act_inference,
    batch_norm_act_inference_backward,
)
from normdrop.functional._batch_norm_inference import (
    InferenceContext,
    batch_norm_inference,
    batch_norm_inference_backward,
)
from normdrop.functional._batch_renorm import BatchRenormContext, batch_renorm, batch_renorm_backward
from normdrop.functional._concrete_dropout import (
    ConcreteDropoutContext,
    concrete_dropout,
    concrete_dropout_backward,
)
from normdrop.functional._conditional import (
    ConditionalBatchNormContext,
    conditional_batch_norm,
    conditional_batch_norm_backward,
)
from normdrop.functional._drop_block import drop_block, drop_block_backward
from normdrop.functional._drop_block_mask import DropBlockContext
from normdrop.functional._drop_block_rate import DropBlockRate, drop_block_rate
from normdrop.functional._drop_connect import DropConnectContext, drop_connect, drop_connect_backward
from normdrop.functional._drop_connect_inference import drop_connect_inference
from normdrop.functional._dropout import dropout, dropout_backward, dropout_inference
from normdrop.functional._gaussian import (
    GaussianDropoutContext,
    GaussianNoiseContext,
    gaussian_dropout,
    gaussian_dropout_backward,
    gaussian_noise,
    gaussian_noise_backward,
)
from normdrop.functional._ghost import GhostBatchNormContext, ghost_batch_norm, ghost_batch_norm_backward
from normdrop.functional._invariance import scale_invariance
from normdrop.functional._masking import DropoutContext
from normdrop.functional._running import update_running

__all__ = [
    "ActDropoutContext",
    "BatchNormActContext",
    "BatchNormActInferenceContext",
    "BatchNormContext",
    "BatchRenormContext",
    "ConcreteDropoutContext",
    "ConditionalBatchNormContext",
    "DropBlockContext",
    "DropBlockRate",
    "DropConnectContext",
    "DropoutContext",
    "GaussianDropoutContext",
    "GaussianNoiseContext",
    "GhostBatchNormContext",
    "InferenceContext",
    "act_dropout",
    "act_dropout_backward",
    "alpha_dropout",
    "alpha_dropout_backward",
    "batch_norm",
    "batch_norm_act",
    "batch_norm_act_backward",
    "batch_norm_act_inference",
    "batch_norm_act_inference_backward",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_renorm",
    "batch_renorm_backward",
    "concrete_dropout",
    "concrete_dropout_backward",
    "conditional_batch_norm",
    "conditional_batch_norm_backward",
    "drop_block",
    "drop_block_backward",
    "drop_block_rate",
    "drop_connect",
    "drop_connect_backward",
    "drop_connect_inference",
    "dropout",
    "dropout_backward",
    "dropout_inference",
    "gaussian_dropout",
    "gaussian_dropout_backward",
    "gaussian_noise",
    "gaussian_noise_backward",
    "ghost_batch_norm",
    "ghost_batch_norm_backward",
    "scale_invariance",
    "update_running",
]

# Pickles name contexts by this package; older ones by files that now have other names.
for _context in (
    ActDropoutContext,
    BatchNormActContext,
    BatchNormActInferenceContext,
    BatchNormContext,
    BatchRenormContext,
    ConcreteDropoutContext,
    ConditionalBatchNormContext,
    DropConnectContext,
    DropBlockContext,
    DropBlockRate,
    DropoutContext,
    GaussianDropoutContext,
    GaussianNoiseContext,
    GhostBatchNormContext,
    InferenceContext,
):
    _context.__module__ = __name__
sys.modules.update({f"{__name__}.{name}": sys.modules[__name__] for name in ("batch_norm", "inference", "masking")})
