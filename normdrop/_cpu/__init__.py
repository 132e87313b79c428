"""The CPU backend: launchers over Numba kernels, with the signatures of `normdrop._reference`."""

from normdrop._cpu.batch_norm import batch_norm, batch_norm_backward, moments, normalize, parameter_gradients
from normdrop._cpu.dropout import apply_mask, dropout, keep_mask

__all__ = [
    "apply_mask",
    "batch_norm",
    "batch_norm_backward",
    "dropout",
    "keep_mask",
    "moments",
    "normalize",
    "parameter_gradients",
]
