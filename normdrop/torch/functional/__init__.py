"""Dropout and batch normalization of tensors, as functions with the names and arguments of PyTorch's.

Dense tensors on the CPU of dtype float32, float64, float16 or bfloat16 are computed by normdrop's kernels. All others,
and batch normalization under the transforms of `torch.func`, go to PyTorch's own functions.
"""

from normdrop.torch.functional._batch_norm import batch_norm
from normdrop.torch.functional._batch_norm_act import batch_norm_act
from normdrop.torch.functional._dropout import dropout, dropout1d, dropout2d, dropout3d

__all__ = ["batch_norm", "batch_norm_act", "dropout", "dropout1d", "dropout2d", "dropout3d"]
