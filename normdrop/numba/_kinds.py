"""What functions take in compiled code: checks of the types of arguments, while Numba compiles the caller.

Their errors are of the kind that Numba shows with the line of the caller's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import TypingError, types
from numba.extending import overload, register_jitable

from normdrop._cpu.toolchain import launch

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let compiled code call `function`: what is decorated takes types and returns what is compiled in its place.

    That is inlined, and optimized with its caller but by options of its own: no fast math of the caller's applies.
    """
    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = overload(
        function, jit_options=launch.helper_options()
    )
    return decorate


def also_compiled(function: Function) -> Function:
    """Let compiled code call a plain function, inlined and by options of its own, too; Python calls it as it is."""
    register_jitable(**launch.helper_options())(function)
    return function


def array(name: str, kind: Any, least: int = 1, *, written: bool = False) -> None:
    """Check the type of an array of floats with at least so many axes."""
    if not isinstance(kind, types.Array):
        raise TypingError(f"{name} must be an array; got {kind}")
    if kind.dtype not in (types.float32, types.float64):
        raise TypingError(
            f"{name} must be float32 or float64 in compiled code; got {kind.dtype}. Use {name}.astype(np.float32)"
            " before. Numba computes with no other floats; outside of compiled code, normdrop.functional does."
        )
    if kind.ndim < least:
        raise TypingError(f"{name} must have {least} or more axes; got {kind.ndim}. Use {name}.reshape(...).")
    if kind.layout != "C":
        raise TypingError(
            f"{name} must be C-contiguous, and Numba must see it; got an array of layout {kind.layout!r}."
            f" Use np.ascontiguousarray({name}), or x[i] rather than x[:, i]."
        )
    if written and not kind.mutable:
        raise TypingError(f"{name} is written, but read-only; pass a writable array")


def like(name: str, kind: Any, x: Any, *, written: bool = False) -> None:
    """Check the type of an array of the dtype and the number of axes of `x`, whose own was checked."""
    array(name, kind, written=written)
    if kind.dtype != x.dtype or kind.ndim != x.ndim:
        raise TypingError(f"{name} must be as x, {x.dtype} with {x.ndim} axes; got {kind.dtype} with {kind.ndim}")


def vector(name: str, kind: Any, *, written: bool = False) -> None:
    """Check the type of numbers per channel."""
    array(name, kind, written=written)
    if kind.ndim != 1:
        raise TypingError(f"{name} must have one axis, a value per channel; got {kind.ndim}")


def optional_vector(name: str, kind: Any) -> None:
    """Check the type of numbers per channel, or of None."""
    if not is_none(kind):
        vector(name, kind)


def is_none(kind: Any) -> bool:
    """Whether this is the type of None, passed or left out."""
    return kind is None or isinstance(kind, types.NoneType) or getattr(kind, "value", 0) is None


def table(name: str, kind: Any, *, written: bool = False) -> None:
    """Check the type of statistics."""
    array(name, kind, written=written)
    if kind.ndim != 2 or kind.dtype != types.float64:
        raise TypingError(
            f"{name} must be float64 with two axes, of shape (3, C); got {kind.dtype} with {kind.ndim}."
            " Use np.empty((3, C))."
        )


def number(name: str, kind: Any) -> None:
    """Check the type of a real number."""
    if not isinstance(_plain(kind), (types.Float, types.Integer, int, float)) or isinstance(kind, bool):
        raise TypingError(f"{name} must be a real number; got {kind}")


def integer(name: str, kind: Any) -> None:
    """Check the type of an int."""
    if not isinstance(_plain(kind), (types.Integer, int)) or isinstance(kind, bool):
        raise TypingError(f"{name} must be an int; got {kind}")


def _plain(kind: Any) -> Any:
    """The type of an argument, or the value of one that was left out."""
    return kind.value if isinstance(kind, types.Omitted) else kind


def law(key: Any, call: Any) -> None:
    """Check the types of key and call."""
    words = isinstance(key, types.BaseTuple) and len(key) == 2 and all(isinstance(w, types.Integer) for w in key)
    if not words:
        raise TypingError(f"key must be a tuple of two ints, as stream.key; got {key}")
    integer("call", call)


def normalization(x: Any, gamma: Any, beta: Any, eps: Any, channel_axis: Any) -> None:
    """Check the types of what all passes of batch normalization take."""
    array("x", x, 2)
    optional_vector("gamma", gamma)
    optional_vector("beta", beta)
    number("eps", eps)
    integer("channel_axis", channel_axis)


def or_constant(v: Any, n_channels: Any, constant: Any) -> Any:
    """Numbers per channel, or for None the same in each channel; for compiled code alone."""


@compiled(or_constant)
def _or_constant(v: Any, n_channels: Any, constant: Any) -> Any:
    def given(v: Any, n_channels: Any, constant: Any) -> Any:
        return v

    def same(v: Any, n_channels: Any, constant: Any) -> Any:
        return np.full(n_channels, constant)

    return same if is_none(v) else given
