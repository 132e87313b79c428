"""The operators with their gradients, of any order and in every mode of PyTorch's autograd.

In the usual case a gradient is recorded by a `Function` around an operator: the form that costs least per call, and
that compilers take. Transforms of functions (`torch.func`, forward-mode gradients, batched gradients) would not see
through it; there, the same is computed by PyTorch's own operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch.autograd import Function, forward_ad

from normdrop.functional import _masking
from normdrop.torch import _operators

Tensor: TypeAlias = torch.Tensor


def is_transformed(x: Tensor) -> bool:
    """Whether a transform of functions or a forward-mode gradient is in force, or `x` is a batch of gradients."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(x)


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether a gradient with respect to one of them is recorded."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def dropout(x: Tensor, key: Tensor, p: float, shared_axes: tuple[int, ...]) -> Tensor:
    """Mask and scale."""
    if is_transformed(x):
        shape = [1 if axis in shared_axes else n for axis, n in enumerate(x.shape)]
        kept = torch.ops.normdrop.keep_mask(key, shape, p)
        _, scale = _masking.law_of.__wrapped__(p, "inverted")  # compilers warn of caches
        return torch.where(kept, x * scale, 0.0)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Dropout.apply(x, key, p, shared_axes)
    return _operators.dropout(x, key, p, shared_axes)


def dropout_(x: Tensor, key: Tensor, p: float, shared_axes: tuple[int, ...]) -> Tensor:
    """Mask and scale in place, with PyTorch's checks of what may be changed in place."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    recorded = torch.is_grad_enabled() and x.requires_grad
    if not dense or _operators.is_watched() or is_transformed(x) or (recorded and (x.is_leaf or x._is_view())):
        return x.copy_(dropout(x, key, p, shared_axes))
    return _DropoutInPlace.apply(x, key, p, shared_axes)


class _Dropout(Function):
    """The backward pass is the same pass over dy, and has the same gradient in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, p: float, shared_axes: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(key)
        ctx.law = p, shared_axes
        return _operators.dropout(x, key, p, shared_axes)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dropout(dy, *ctx.saved_tensors, *ctx.law), None, None, None


class _DropoutInPlace(_Dropout):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, p: float, shared_axes: tuple[int, ...]) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(key)
        ctx.law = p, shared_axes
        _operators.dropout_(x, key, p, shared_axes)
        return x


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Normalize by the statistics of the batch; return them, too."""
    if is_recorded(x, weight, bias):
        return _BatchNorm.apply(x, weight, bias, eps)
    return _operators.batch_norm(x, weight, bias, eps)


def batch_norm_inference(  # as PyTorch has them
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize by given statistics, which get no gradient, as in PyTorch."""
    if is_recorded(x, weight, bias):
        return _Inference.apply(x, mean, var, weight, bias, eps)
    return _operators.batch_norm_inference(x, mean, var, weight, bias, eps)[0]


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        y, statistics = _operators.batch_norm(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, statistics)
        ctx.eps = eps
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return y, statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        x, weight, statistics = ctx.saved_tensors
        return *wanted(ctx.needs_input_grad[:3], _gradients(dy, x, weight, statistics, ctx.eps)), None


class _Inference(Function):
    @staticmethod
    def forward(  # as PyTorch has them
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        y, statistics = _operators.batch_norm_inference(x, mean, var, weight, bias, eps, keep=True)
        of_parameters = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        ctx.save_for_backward(x if of_parameters else None, weight, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        dx, dgamma, dbeta = _gradients(dy, x, weight, statistics, None)
        needs = ctx.needs_input_grad
        dx, dgamma, dbeta = wanted((needs[0], needs[3], needs[4]), (dx, dgamma, dbeta))
        return dx, None, None, dgamma, dbeta, None


def wanted(needs: Sequence[bool], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients that are needed, and None for the others."""
    return [gradient if is_needed else None for is_needed, gradient in zip(needs, gradients, strict=True)]


def _gradients(
    dy: Tensor, x: Tensor | None, weight: Tensor | None, statistics: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dgamma and dbeta; by given statistics where there is no `eps`."""
    if is_transformed(dy):
        return formula(dy, x, weight, statistics, eps)
    if is_recorded(dy, x, weight) and not torch.compiler.is_compiling():
        return _Gradients.apply(dy, x, weight, statistics, eps)
    return _backward(dy, x, weight, statistics, eps)


def _backward(
    dy: Tensor, x: Tensor | None, weight: Tensor | None, statistics: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    if eps is None:
        return _operators.batch_norm_inference_backward(dy, x, weight, statistics)
    return _operators.batch_norm_backward(dy, x, weight, statistics, eps)


class _Gradients(Function):
    """The gradients as kernels compute them; their own gradients are those of the formula."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor | None, weight: Tensor | None, statistics: Tensor, eps: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(dy, x, weight, statistics)
        ctx.rest = eps
        return _backward(dy, x, weight, statistics, eps)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return gradients_of(formula, ctx, outer)


def gradients_of(formula: Callable[..., tuple[Tensor, ...]], ctx: Any, outer: Sequence[Tensor]) -> tuple[Any, ...]:
    """Return the gradients of a formula of the saved tensors and `ctx.rest`."""
    with torch.enable_grad():  # views, because dy may depend on x: its path does not belong to the gradient of x
        inputs = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        outputs = formula(*inputs, ctx.rest)
    of = [t for t, is_needed in zip(inputs, ctx.needs_input_grad, strict=False) if is_needed]
    pairs = [(y, dy) for y, dy in zip(outputs, outer, strict=True) if y.requires_grad]
    ys, dys = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(ys, of, dys, create_graph=torch.is_grad_enabled(), allow_unused=True))
    return tuple(next(found) if is_needed else None for is_needed in ctx.needs_input_grad)


def formula(
    dy: Tensor, x: Tensor | None, weight: Tensor | None, statistics: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dgamma and dbeta by PyTorch's operators, in float64, as a function that has gradients."""
    axes, dtype = [axis for axis in range(dy.dim()) if axis != 1], dy.dtype
    if x is None:
        scale = statistics[2] if weight is None else statistics[2] * weight.double()
        return (dy.double() * _spread(scale, dy)).to(dtype), dy.new_empty(0), dy.new_empty(0)
    x_hat, inv_std = _x_hat(x, statistics, eps)
    wide_dy, scale = dy.double(), inv_std if weight is None else inv_std * weight.double()
    dgamma, dbeta = (wide_dy * x_hat).sum(axes), wide_dy.sum(axes)
    if eps is not None:
        wide_dy = wide_dy - (_spread(dbeta, dy) + x_hat * _spread(dgamma, dy)) * (dbeta.numel() / dy.numel())
    dx = (wide_dy * _spread(scale, dy)).to(dtype)
    parameters = weight.dtype if weight is not None else dtype
    return dx, dgamma.to(parameters), dbeta.to(parameters)


def normalized(x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Tensor, eps: float | None) -> Tensor:
    """Return the output of batch normalization by the same formula."""
    y, _ = _x_hat(x, statistics, eps)
    y = y if weight is None else y * _spread(weight.double(), x)
    return (y if bias is None else y + _spread(bias.double(), x)).to(x.dtype)


def _x_hat(x: Tensor, statistics: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """Return (x - mean) * inv_std, and inv_std."""
    axes, wide = [axis for axis in range(x.dim()) if axis != 1], x.double()
    mean, inv_std = statistics[0], statistics[2]
    if eps is not None:
        mean = wide.mean(axes)
        inv_std = torch.rsqrt((wide - _spread(mean, x)).square().mean(axes) + eps)
    return (wide - _spread(mean, x)) * _spread(inv_std, x), inv_std


def _spread(v: Tensor, x: Tensor) -> Tensor:
    """Return numbers per channel of `x` in a shape that goes with it."""
    return v.reshape(-1, *[1] * (x.dim() - 2))
