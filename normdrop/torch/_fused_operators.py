"""The fused passes as operators of PyTorch."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from normdrop import functional
from normdrop.functional import (
    BatchNormActContext,
    BatchNormActInferenceContext,
    BatchNormContext,
    DropoutContext,
    InferenceContext,
    _per_channel,
)
from normdrop.random import MaskStream
from normdrop.torch._arrays import array, tensor, threads, vector
from normdrop.torch._operators import context_of, fake, operator

Tensor: TypeAlias = torch.Tensor

# What is fused besides is a law: name and parameter of the activation, p and the shared axes of dropout, eps. Without
# dropout there is no key.


@operator(
    "batch_norm_act(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? key, "
    "str activation, float parameter, float p, int[] shared_axes, float eps) -> (Tensor, Tensor)"
)
def batch_norm_act(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, key: Tensor | None, *law: Any
) -> tuple[Tensor, Tensor]:
    """Return dropout(activation(batch_norm(x) + residual)), and the statistics of the batch as `batch_norm` does."""
    name, parameter, p, shared_axes, eps = law
    values, rng = array(x), None
    if key is not None:
        drops = context_of(values.shape, values.dtype, key, p, shared_axes)
        rng = MaskStream.from_key(drops.key, drops.call)
    with threads(x):
        y, context = functional.batch_norm_act(
            values, vector(weight), vector(bias), residual=vector(residual), activation=(name, parameter), eps=eps,
            p=0.0 if key is None else p, shared_axes=shared_axes, rng=rng,
        )  # fmt: skip
    return tensor(y), tensor(context.statistics)


@fake("batch_norm_act")
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((3, x.shape[1]), dtype=torch.float64)


@operator(
    "batch_norm_act_backward(Tensor dy, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, "
    "Tensor? key, str activation, float parameter, float p, int[] shared_axes, float eps) -> "
    "(Tensor, Tensor, Tensor, Tensor)"
)
def batch_norm_act_backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    key: Tensor | None,
    *law: Any,
) -> tuple[Tensor, ...]:
    """Return dx, dresidual, dgamma and dbeta; dresidual is empty without a residual."""
    name, parameter, p, shared_axes, eps = law
    values, gamma, beta = array(x), vector(weight), vector(bias)
    drops = DropoutContext(values.shape, values.dtype, 0, 1.0)
    if key is not None:
        drops = context_of(values.shape, values.dtype, key, p, shared_axes)
    norm = BatchNormContext(values, array(statistics), gamma, 1, eps, _per_channel.parameter_dtype(values, gamma, beta))
    context = BatchNormActContext(norm, beta, vector(residual), (name, parameter), drops)
    with threads(x):
        gradients = functional.batch_norm_act_backward(array(dy), context)
    return tuple(dy.new_empty(0) if d is None else tensor(d) for d in gradients)


@fake("batch_norm_act_backward")
def _(
    dy: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    given = weight if weight is not None else bias
    dtype = given.dtype if given is not None else torch.float32 if x.itemsize == 2 else x.dtype
    dgamma, dbeta = (x.new_empty(x.shape[1], dtype=dtype) for _ in range(2))
    return torch.empty_like(x), dy.new_empty(0) if residual is None else torch.empty_like(x), dgamma, dbeta


# By given statistics there are no operators: where one must be seen, PyTorch's own are taken.


def batch_norm_act_inference(
    x: Tensor,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    law: tuple[Any, ...],
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return activation(batch_norm_inference(x) + residual), and the statistics as `batch_norm_inference` does."""
    name, parameter, *_, eps = law
    with threads(x):
        y, context = functional.batch_norm_act_inference(
            array(x), array(statistics[0]), array(statistics[1]), vector(weight), vector(bias), eps=eps, keep_x=keep,
            residual=vector(residual), activation=(name, parameter),
        )  # fmt: skip
    return tensor(y), None if context.norm.statistics is None else tensor(context.norm.statistics)


def batch_norm_act_inference_backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    law: tuple[Any, ...],
) -> tuple[Tensor, ...]:
    """Return dx, dresidual, dgamma and dbeta; dresidual is empty without a residual."""
    values, gamma, beta, given = array(x), vector(weight), vector(bias), array(statistics)
    scale = given[2] if gamma is None else gamma * given[2]
    shift = np.zeros(x.shape[1]) if beta is None else beta.astype(np.float64)
    dtype = _per_channel.parameter_dtype(values, gamma, beta)
    norm = InferenceContext(values.shape, values.dtype, scale, 1, values, given, dtype)
    drops = DropoutContext(values.shape, values.dtype, 0, 1.0)  # that is a pass of its own
    context = BatchNormActInferenceContext(norm, shift, vector(residual), law[:2], drops)
    with threads(dy):
        gradients = functional.batch_norm_act_inference_backward(array(dy), context)
    return tuple(dy.new_empty(0) if d is None else tensor(d) for d in gradients)
