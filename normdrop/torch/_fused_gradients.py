"""The fused passes with their gradients, in every mode of PyTorch's autograd; see `_gradients`.

A law is what is fused besides: name and parameter of the activation, p and the shared axes of dropout, eps.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch.autograd import Function

from normdrop.torch import _fused_operators as operators
from normdrop.torch import _gradients
from normdrop.torch._activations import activate

Tensor: TypeAlias = torch.Tensor
Law: TypeAlias = "tuple[str, float, float, tuple[int, ...], float]"


def batch_norm_act(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, key: Tensor | None, law: Law
) -> tuple[Tensor, Tensor]:
    """Compute the pass by the statistics of the batch; return them, too. Without a key, nothing is dropped."""
    if _gradients.is_recorded(x, residual, weight, bias):
        return _BatchNormAct.apply(x, residual, weight, bias, key, law)
    return operators.batch_norm_act(x, residual, weight, bias, key, *law)


def batch_norm_act_inference(
    x: Tensor,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    law: Law,
) -> Tensor:
    """Compute the pass by given statistics, which get no gradient, and drop nothing."""
    if _gradients.is_recorded(x, residual, weight, bias):
        return _Inference.apply(x, residual, weight, bias, statistics, law)
    return operators.batch_norm_act_inference(x, residual, statistics, weight, bias, law)[0]


class _BatchNormAct(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        key: Tensor | None,
        law: Law,
    ) -> tuple[Tensor, Tensor]:
        y, statistics = operators.batch_norm_act(x, residual, weight, bias, key, *law)
        ctx.save_for_backward(x, residual, weight, bias, statistics, key)
        ctx.rest = law, True
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return y, statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 6
        gradients = _gradients_of(dy, *ctx.saved_tensors, ctx.rest)
        return *_gradients.wanted(ctx.needs_input_grad[:4], gradients), None, None


class _Inference(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: tuple[Tensor, Tensor],
        law: Law,
    ) -> Tensor:
        y, kept = operators.batch_norm_act_inference(x, residual, statistics, weight, bias, law, keep=True)
        ctx.save_for_backward(x, residual, weight, bias, kept, None)
        ctx.rest = law, False
        ctx.set_materialize_grads(False)
        return y

    backward = _BatchNormAct.backward


def _gradients_of(dy: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Return dx, dresidual, dgamma and dbeta; the second is empty without a residual."""
    if _gradients.is_transformed(dy):
        return _formula(dy, *rest)
    if _gradients.is_recorded(dy, *rest[:4]) and not torch.compiler.is_compiling():
        return _Gradients.apply(dy, *rest)
    return _backward(dy, *rest)


def _backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    key: Tensor | None,
    rest: tuple[Law, bool],
) -> tuple[Tensor, ...]:
    law, by_batch = rest
    if by_batch:
        return operators.batch_norm_act_backward(dy, x, residual, weight, bias, statistics, key, *law)
    return operators.batch_norm_act_inference_backward(dy, x, residual, weight, bias, statistics, law)


class _Gradients(Function):
    """The gradients as kernels compute them; their own gradients are those of the formula."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, ctx.rest = arguments
        ctx.save_for_backward(*tensors)
        return _backward(*arguments)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients.gradients_of(_formula, ctx, outer)


def _formula(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    key: Tensor | None,
    rest: tuple[Law, bool],
) -> tuple[Tensor, ...]:
    """Return the gradients by PyTorch's operators, as a function that has gradients."""
    (name, parameter, p, shared_axes, given), by_batch = rest
    eps = given if by_batch else None
    u = _gradients.normalized(x, weight, bias, statistics, eps)
    u = u if residual is None else u + residual
    dv = dy if key is None else _gradients.dropout(dy, key, p, shared_axes)
    du = (dv.double() * _derivative(u.double(), name, parameter)).to(dy.dtype)
    dx, dgamma, dbeta = _gradients.formula(du, x, weight, statistics, eps)
    return dx, dy.new_empty(0) if residual is None else du, dgamma, dbeta


def _derivative(u: Tensor, name: str, parameter: float) -> Tensor:
    is_followed = torch.is_grad_enabled() and u.requires_grad
    with torch.enable_grad():
        u = u if is_followed else u.detach().requires_grad_()
        y = activate(u, name, parameter)
        return torch.autograd.grad(y, u, torch.ones_like(y), create_graph=is_followed)[0]
