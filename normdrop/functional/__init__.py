"""Stateless passes: check, allocate, call the backend, return (y, context); backward takes the context."""

from normdrop.functional.batch_norm import BatchNormContext, batch_norm, batch_norm_backward
from normdrop.functional.dropout import dropout, dropout_backward, dropout_inference
from normdrop.functional.inference import InferenceContext, batch_norm_inference, batch_norm_inference_backward
from normdrop.functional.invariance import scale_invariance
from normdrop.functional.masking import DropoutContext
from normdrop.functional.running import update_running

__all__ = [
    "BatchNormContext",
    "DropoutContext",
    "InferenceContext",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "dropout",
    "dropout_backward",
    "dropout_inference",
    "scale_invariance",
    "update_running",
]
