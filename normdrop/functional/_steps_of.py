"""From the arguments of fused passes to the steps that launchers take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy.typing as npt

from normdrop import _checks
from normdrop._activations import ACTIVATIONS
from normdrop._passes import Reading
from normdrop._steps import Steps
from normdrop.functional._masking import ALL_DROPPED, DropoutContext, fold, law_of, mask_of, shared_axes_of

Array: TypeAlias = npt.NDArray[Any]
Activation: TypeAlias = "str | tuple[str, float]"


def activation_of(activation: object) -> tuple[str, float]:
    """Return name and parameter of an activation, after checks."""
    name, given = activation, None
    if isinstance(activation, tuple) and len(activation) == 2:
        name, given = activation
    name = _checks.choice(name, "activation", tuple(ACTIVATIONS))
    default = ACTIVATIONS[name].parameter
    if given is None:
        return name, 0.0 if default is None else default
    if default is None and given == 0:  # as contexts have it
        return name, 0.0
    if default is None:
        raise ValueError(f"activation {name!r} has no parameter; got {activation!r}. Pass activation={name!r}.")
    what, remedy = f"{ACTIVATIONS[name].parameter_name} of {name}", f"finite, such as {default}"
    value = _checks.real(given, what, remedy)
    if not math.isfinite(value):
        raise ValueError(f"{what} must be {remedy}; got {given!r}")
    return name, value


def residual_of(residual: object, x: Array) -> Array | None:
    """Return the residual, after checking that it fits x."""
    if residual is None:
        return None
    r = _checks.array(residual, "residual", x.dtype)
    _checks.same_shape(r, x.shape, "residual", "x")
    if r.dtype != x.dtype:
        raise TypeError(f"residual must have the dtype of x, {x.dtype}; got {r.dtype}. Pass residual.astype(x.dtype).")
    _checks.same_place(r, "residual", x, "x")
    return r


def undrawn(x: Array, p: object, shared_axes: int | Iterable[int]) -> DropoutContext:
    """Return the context of a pass that has drawn nothing yet, after checks."""
    threshold, scale = law_of(_checks.probability(p), "inverted")
    return DropoutContext(x.shape, x.dtype, threshold if x.size else 0, scale, shared_axes_of(shared_axes, x.ndim))


def steps_of(activation: tuple[str, float], context: DropoutContext, x: Array, walk: Reading) -> Steps:
    """Return what launchers take: masks that do not follow memory are drawn first, and folded as x is."""
    if not isinstance(context, DropoutContext):
        raise TypeError(f"context.dropout must be a DropoutContext; got {_checks.kind(context)}")
    if context.shape != x.shape:
        raise ValueError(f"context.dropout.shape must be that of the forward pass's x, {x.shape}; got {context.shape}")
    steps = Steps(*activation, scale=context.scale)
    if context.threshold == 0:
        return steps
    if context.follows_x and walk.layout.is_c_order and context.threshold < ALL_DROPPED:
        return steps._replace(threshold=context.threshold, key=context.key, call=context.call)
    (_, n_shared, length), mask = fold(mask_of(context, x), x.shape, walk.layout)
    return steps._replace(mask=mask, fold=(n_shared, length))
