"""Fast dropout: the mean and variance of a network's values over all dropout masks, in one pass.

Every function takes `Moments`, a mean and a variance, and returns those of its result and a context; its backward
function takes the gradients with respect to both and the context. Values are taken for independent and normally
distributed. Arithmetic is float64, and results are rounded once, to the dtype of the input; only the integrals behind
softmax are in that dtype.
"""

from normdrop.fast._activation import ActivationContext, activation, activation_backward
from normdrop.fast._batch_norm import (
    BatchNormGradients,
    BatchNormInferenceContext,
    batch_norm_inference,
    batch_norm_inference_backward,
)
from normdrop.fast._linear import LinearContext, LinearGradients, linear, linear_backward
from normdrop.fast._moments import Gradients, Moments
from normdrop.fast._softmax import SoftmaxContext, cross_entropy, softmax, softmax_backward

__all__ = [
    "ActivationContext",
    "BatchNormGradients",
    "BatchNormInferenceContext",
    "Gradients",
    "LinearContext",
    "LinearGradients",
    "Moments",
    "SoftmaxContext",
    "activation",
    "activation_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "cross_entropy",
    "linear",
    "linear_backward",
    "softmax",
    "softmax_backward",
]

# Pickles name them by this package.
for _tuple in (
    ActivationContext,
    BatchNormGradients,
    BatchNormInferenceContext,
    Gradients,
    LinearContext,
    LinearGradients,
    Moments,
    SoftmaxContext,
):
    _tuple.__module__ = __name__
