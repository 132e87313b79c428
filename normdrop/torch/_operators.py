"""The passes as operators of PyTorch, and the choice between an operator and a direct call.

An operator is what `torch.compile`, `torch.export` and dispatch modes see; a direct call saves the dispatch. Gradients
are not theirs but those of `normdrop.torch._gradients`, so an operator is called only where none are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from normdrop import functional
from normdrop.functional import BatchNormContext, DropoutContext, InferenceContext, _masking, _running
from normdrop.torch._arrays import array, tensor, threads, vector

Tensor: TypeAlias = torch.Tensor

_LIBRARY = torch.library.Library("normdrop", "DEF")
_HIGHEST = 2**63 - 1
_WORD = 2**32 - 1


def is_watched() -> bool:
    """Whether a compiler, a tracer or a dispatch mode must see operators."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch.jit.is_tracing()


def operator(schema: str, *, tags: Sequence[Any] = ()) -> Callable[..., Any]:
    """Register a function on tensors as an operator; what is returned calls one or the other."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema, tags=tags)
        _LIBRARY.impl(name, function, "CPU")
        registered = getattr(torch.ops.normdrop, name).default

        def call(*arguments: Any) -> Any:
            return registered(*arguments) if is_watched() else function(*arguments)

        return call

    return register


def fake(name: str) -> Callable[..., Any]:
    """Register what an operator returns as far as shapes, strides and dtypes go."""
    return torch.library.register_fake(f"normdrop::{name}", lib=_LIBRARY)


def key_of(words: tuple[int, int], call: int) -> Tensor:
    """Return key and call of a stream as the tensor that the operators take."""
    return torch.from_numpy(np.array([words[0] | words[1] << 32, call], np.uint64).view(np.int64))


def random_key(generator: torch.Generator | None = None) -> Tensor:
    """Draw a key and a call from a generator of PyTorch."""
    return torch.randint(_HIGHEST, (2,), generator=generator, dtype=torch.int64, device="cpu")


@operator("draw_key(Tensor x) -> Tensor", tags=[torch.Tag.nondeterministic_seeded])
def draw_key(x: Tensor) -> Tensor:
    """Draw from the default generator.

    Compilers would replace a random operator of PyTorch by one with other numbers. Where they compute forward again,
    they restore the generator of the device of the arguments: only that is asked of `x`.
    """
    return random_key()


@fake("draw_key")
def _(x: Tensor) -> Tensor:
    return torch.empty(2, dtype=torch.int64, device="cpu")


def context_of(shape: Any, dtype: Any, key: Tensor, p: float, shared_axes: Sequence[int]) -> DropoutContext:
    """Return the context of a pass of dropout by a key."""
    words, call = key.tolist()
    law = _masking.law_of(p, "inverted")
    return DropoutContext(shape, dtype, *law, tuple(shared_axes), (words & _WORD, words >> 32 & _WORD), call)


@operator("dropout(Tensor x, Tensor key, float p, int[] shared_axes) -> Tensor")
def dropout(x: Tensor, key: Tensor, p: float, shared_axes: Sequence[int]) -> Tensor:
    """Mask and scale: the pass forward, and the one backward."""
    values = array(x)
    with threads(x):
        return tensor(_masking.apply(values, context_of(values.shape, values.dtype, key, p, shared_axes), None))


@fake("dropout")
def _(x: Tensor, key: Tensor, p: float, shared_axes: Sequence[int]) -> Tensor:
    return torch.empty_like(x)


def dropout_(x: Tensor, key: Tensor, p: float, shared_axes: Sequence[int]) -> None:
    """Mask and scale a dense tensor where it is."""
    values = array(x)
    with threads(x):
        _masking.apply(values, context_of(values.shape, values.dtype, key, p, shared_axes), values)


@operator("keep_mask(Tensor key, SymInt[] shape, float p) -> Tensor")
def keep_mask(key: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Return the mask alone, True = kept."""
    context = context_of(tuple(shape), np.dtype(np.float32), key, p, ())
    return torch.from_numpy(_masking.mask_of(context, np.empty(0, np.float32)))


@fake("keep_mask")
def _(key: Tensor, shape: Sequence[int], p: float) -> Tensor:
    return key.new_empty(shape, dtype=torch.bool)


@torch.library.register_vmap("normdrop::keep_mask", lib=_LIBRARY)
def _(info: Any, in_dims: tuple[Any, ...], key: Tensor, shape: Sequence[int], p: float) -> tuple[Tensor, int]:
    """Each example has a key of its own."""
    return torch.stack([keep_mask(one, shape, p) for one in key.unbind(in_dims[0])]), 0


@operator("batch_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)")
def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return y, and mean, variance and 1 / sqrt(variance + eps) of the batch in float64, shape (3, C)."""
    with threads(x):
        y, context = functional.batch_norm(array(x), vector(weight), vector(bias), eps=eps)
    return tensor(y), tensor(context.statistics)


@fake("batch_norm")
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((3, x.shape[1]), dtype=torch.float64)


@operator("update_running(Tensor(a!) mean, Tensor(b!) var, Tensor statistics, float momentum, SymInt n) -> ()")
def update_running(mean: Tensor, var: Tensor, statistics: Tensor, momentum: float, n: int) -> None:
    """Move running statistics towards those of a batch of `n` values per channel, whose weight is `momentum`."""
    wide = array(mean).astype(np.float64), array(var).astype(np.float64)
    _running.fold(*wide, array(statistics), _running.How(1.0 - momentum, n, True, "propagate"))
    mean.copy_(torch.from_numpy(wide[0]))
    var.copy_(torch.from_numpy(wide[1]))


@fake("update_running")
def _(mean: Tensor, var: Tensor, statistics: Tensor, momentum: float, n: int) -> None:
    pass


@operator(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor? weight, Tensor statistics, float eps) -> (Tensor, Tensor, Tensor)"
)
def batch_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dgamma and dbeta."""
    gamma = vector(weight)
    context = BatchNormContext(array(x), array(statistics), gamma, 1, eps, None if gamma is None else gamma.dtype)
    with threads(x):
        dx, dgamma, dbeta = functional.batch_norm_backward(array(dy), context)
    return tensor(dx), tensor(dgamma), tensor(dbeta)


@fake("batch_norm_backward")
def _(dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = weight.dtype if weight is not None else torch.float32 if x.itemsize == 2 else x.dtype
    return torch.empty_like(x), x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


# By given statistics there are no operators: where one must be seen, PyTorch's own is taken.


def batch_norm_inference(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return y, and mean, variance and 1 / sqrt(variance + eps) if they are to be kept."""
    with threads(x):
        y, context = functional.batch_norm_inference(
            array(x), array(mean), array(var), vector(weight), vector(bias), eps=eps, keep_x=keep
        )
    return tensor(y), None if context.statistics is None else tensor(context.statistics)


def batch_norm_inference_backward(
    dy: Tensor, x: Tensor | None, weight: Tensor | None, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dgamma and dbeta; the latter are empty without `x`."""
    gradient, gamma, given = array(dy), vector(weight), array(statistics)
    scale = given[2] if gamma is None else gamma * given[2]
    dtype = None if gamma is None else gamma.dtype
    context = InferenceContext(gradient.shape, gradient.dtype, scale, 1, vector(x), given, dtype)
    with threads(dy):
        dx, dgamma, dbeta = functional.batch_norm_inference_backward(gradient, context)
    return tensor(dx), *(dy.new_empty(0) if d is None else tensor(d) for d in (dgamma, dbeta))
