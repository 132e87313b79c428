"""What a dense layer is given, x of shape (N, in) and a weight of shape (out, in): checks."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from normdrop import _checks, _layout, _overlap

Array: TypeAlias = npt.NDArray[Any]


class Arguments(NamedTuple):
    """Arrays of a forward pass, after checks, in C order."""

    x: Array
    weight: Array
    bias: Array | None
    out: Array | None


def n_rows(x: Array) -> int:
    """Length of the first axis."""
    return int(x.shape[0])


def dense(x: Array) -> Array:
    """Return `x` or a copy, in C order and aligned."""
    x = _layout.c_ordered(x)
    return x if x.flags.aligned else x.copy()


def arguments(x: Any, weight: Any, bias: Any, out: Any, of: str = "") -> Arguments:
    """Check what a forward pass is given; `of` begins the names of what comes from a context."""
    x, weight = _checks.array(x, f"{of}x"), _checks.array(weight, f"{of}weight")
    if x.ndim != 2:
        raise ValueError(f"{of}x must have shape (N, in); got {x.shape}. Use {of}x.reshape(-1, {of}x.shape[-1]).")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"{of}weight must have shape (out, in) with in = {x.shape[1]}, the last axis of x; got {weight.shape}. Use "
            f"{of}weight.T if it is (in, out)."
        )
    _same_kind(weight, f"{of}weight", x)
    if bias is not None:
        bias = _checks.array(bias, "bias")
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must have shape {weight.shape[:1]}, one value per row of weight; got {bias.shape}")
        _same_kind(bias, "bias", x)
    given = Arguments(x, weight, bias, None)
    return Arguments(dense(x), dense(weight), bias, None if out is None else _checked_out(out, given))


def _same_kind(values: Array, name: str, x: Array) -> None:
    """Check that an array has the dtype of `x` and is where that is."""
    if values.dtype != x.dtype:
        raise TypeError(
            f"{name} must have the dtype of x, {x.dtype}; got {values.dtype}. Use {name}.astype({str(x.dtype)!r})."
        )
    _checks.same_place(values, name, x, "x")


def _checked_out(out: Any, given: Arguments) -> Array:
    """Check that `out` can take the result and shares no memory with what is read."""
    x, weight, bias, _ = given
    target = _checks.array(out, "out", x.dtype)
    shape = n_rows(x), n_rows(weight)
    if target.shape != shape:
        raise ValueError(f"out must have shape (N, out) = {shape}; got {target.shape}")
    if target.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}; got {target.dtype}")
    _checks.same_place(target, "out", x, "x")
    if not target.flags.writeable:
        raise ValueError("out is read-only; pass a writable array, or none to have one allocated")
    if _overlap.of_itself(target):
        raise ValueError(f"out has elements that share memory (strides {target.strides}); pass one with its own memory")
    for name, values in (("x", x), ("weight", weight), ("bias", bias)):
        if values is not None and _overlap.is_possible(target, values):
            raise ValueError(f"out shares memory with {name}, which is still read; pass another array")
    return target
