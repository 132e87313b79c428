"""Tensors as arrays and arrays as tensors, in the same memory; which tensors the kernels take, and on which threads."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from normdrop import _layout, _process

if TYPE_CHECKING:
    from collections.abc import Iterator

Array: TypeAlias = npt.NDArray[Any]

# Without ml_dtypes, bfloat16 is left to PyTorch.
_BFLOAT16: np.dtype[Any] | None = np.dtype(import_module("ml_dtypes").bfloat16) if find_spec("ml_dtypes") else None

_SHORT = frozenset({torch.float16} | ({torch.bfloat16} if _BFLOAT16 else set()))
_DTYPES = _SHORT | {torch.float32, torch.float64}
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


def is_known(x: torch.Tensor) -> bool:
    """Whether this tensor is on the CPU, dense, not of a subclass and of a dtype that the kernels know."""
    if type(x) not in _PLAIN and not torch.compiler.is_compiling():  # a compiler passes what stands for a tensor
        return False
    return x.is_cpu and x.dtype in _DTYPES and x.layout is torch.strided and not x.is_nested


def is_served(x: torch.Tensor) -> bool:
    """Whether the kernels take this tensor: one that is known and not empty."""
    return is_known(x) and x.numel() > 0


def is_served_beside(v: torch.Tensor | None, x: torch.Tensor) -> bool:
    """Whether the kernels take these parameters or running statistics of a served `x`."""
    if v is None:
        return True
    dtype, given = v.dtype, x.dtype
    fits = dtype is given or (dtype is torch.float32 and given in _SHORT)
    return fits and v.shape == x.shape[1:2] and is_known(v)


def array(x: torch.Tensor) -> Array:
    """View a served tensor as an array; a copy, with PyTorch's strides, if its memory has gaps or other signs."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.requires_grad and torch.is_grad_enabled():  # else NumPy may see it as it is
        x = x.detach()
    values = x.view(torch.int16).numpy().view(_BFLOAT16) if x.dtype is torch.bfloat16 else x.numpy()
    return values if values.flags.c_contiguous or _layout.dense(values)[0] is values else array(x.clone())


def vector(v: torch.Tensor | None) -> Array | None:
    """View a tensor that may be missing as an array."""
    return None if v is None else array(v)


def tensor(values: Array) -> torch.Tensor:
    """View an array as a tensor."""
    if values.dtype.kind == "V":  # bfloat16
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


_AS_THEY_ARE = nullcontext()


def threads(x: torch.Tensor) -> AbstractContextManager[None]:
    """Return a context in which kernels over `x` run on no more threads than PyTorch's operators would."""
    n = torch.get_num_threads()
    launch = _process.load("normdrop._cpu.toolchain.launch")
    if x.numel() < launch.PARALLEL_SIZE or n >= launch.config.NUMBA_NUM_THREADS or not launch.parallel_is_safe():
        return _AS_THEY_ARE
    return _on_threads(n)


@contextmanager
def _on_threads(n: int) -> Iterator[None]:
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(n, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)
