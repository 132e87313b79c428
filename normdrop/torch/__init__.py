"""PyTorch's dropout and batch normalization on the CPU, computed by the kernels of normdrop."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "torch":
        raise
    raise ImportError('normdrop.torch needs PyTorch: pip install "normdrop[torch]"') from None

from normdrop.torch import functional
from normdrop.torch._accelerate import Report, accelerate, restore
from normdrop.torch.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, FusedBatchNorm, SyncBatchNorm
from normdrop.torch.distributed import allreduce
from normdrop.torch.dropout import Dropout, Dropout1d, Dropout2d, Dropout3d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FusedBatchNorm",
    "Report",
    "SyncBatchNorm",
    "accelerate",
    "allreduce",
    "functional",
    "restore",
]
