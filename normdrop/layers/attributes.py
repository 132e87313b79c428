"""Attributes of layers: checked whenever they are set, or fixed when the layer is made.

A value lies in the layer's dictionary under the attribute's own name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, overload

from normdrop import _checks, _device

T = TypeVar("T")

_MISSING = object()
_OURS = __name__.partition(".")[0]


class Attribute(Generic[T]):
    """A value in the layer's dictionary; its kinds say what may be set."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Attribute[T]: ...

    @overload
    def __get__(self, layer: object, owner: type) -> T: ...

    def __get__(self, layer: object | None, owner: type) -> Attribute[T] | T:
        if layer is None:
            return self
        try:
            return vars(layer)[self._name]  # type: ignore[no-any-return]
        except KeyError:
            kind = type(layer).__name__
            raise AttributeError(f"{kind} has no {self._name} before super().__init__() has run") from None


class Option(Attribute[T]):
    """A value that may be set at any time; `check` returns what is kept, or raises."""

    def __init__(self, check: Callable[[Any], T], doc: str) -> None:
        super().__init__(doc)
        self._check = check

    def __set__(self, layer: object, value: T) -> None:
        vars(layer)[self._name] = self._check(value)


class Fixed(Attribute[T]):
    """A value that the layer was made with."""

    def __set__(self, layer: object, value: T) -> None:
        kind, name = type(layer).__name__, self._name
        if value is vars(layer).get(name, _MISSING):  # as from a loop that copies attributes
            return
        raise AttributeError(
            f"{name} is fixed when a layer is made, so that it cannot become {_checks.kind(value)} now; make a new "
            f"{kind} with other arguments"
        )


class Vector(Attribute[T]):
    """An array with one number per channel, or None where the layer was made without it."""

    def __init__(self, check: Callable[[Any, str, dict[str, Any]], object], doc: str) -> None:
        super().__init__(doc)
        self._check = check

    def __set__(self, layer: object, value: T) -> None:
        own, name = vars(layer), self._name
        if (value is None) != (own[name] is None):
            what = "with" if value is None else "without"
            raise AttributeError(
                f"the layer was made {what} {name}, which cannot become {_checks.kind(value)}; make a new "
                f"{type(layer).__name__} with other arguments (affine, scale, shift, track_running_stats)"
            )
        if value is not None:
            self._check(value, name, own)
        own[name] = value


class Gradient(Vector[T]):
    """The gradient of a parameter, or None."""

    def __set__(self, layer: object, value: T) -> None:
        own = vars(layer)
        if value is not None:
            self._check(value, self._name, own)
        own[self._name] = value


def parameter(values: Any, name: str, own: dict[str, Any]) -> None:
    """Check a parameter of a layer with this dictionary, which an optimizer is to change in place."""
    vector, shape, dtype = _checks.array(values, name, own["dtype"]), (own["num_features"],), own["dtype"]
    if vector.dtype != dtype:
        raise TypeError(
            f"{name} must have the layer's dtype, {dtype}; got {vector.dtype}. Use {name}.astype({str(dtype)!r})."
        )
    if vector.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one value per channel; got {vector.shape}")
    if not vector.flags.writeable:
        raise ValueError(f"{name} is read-only and could not be changed in place; pass {name}.copy()")


def refuse_unknown(layer: object, name: str, value: object) -> None:
    """Refuse an attribute that the layer's class does not know, as a misspelt one would be set without effect."""
    found = inspect.getattr_static(type(layer), name, _MISSING)  # None is a value that a class may give
    if found is _MISSING or (inspect.isroutine(found) and not callable(value)):
        known = {n.lower(): n for n in dir(type(layer)) if not n.startswith("_") and n != name}
        close = get_close_matches(name.lower(), known, 1)
        is_own = type(layer).__module__.partition(".")[0] != _OURS and found is _MISSING  # of somebody's subclass
        if is_own and (not close or name in getattr(type(layer), "__annotations__", ())):
            return
        meant = f"; did you mean {known[close[0]]!r}?" if close else "."
        how = f" A subclass that wants the name says so in its class body: {name} = None." if is_own else ""
        raise AttributeError(f"{type(layer).__name__} has no attribute {name!r} that can be set{meant}{how}")


def writable(values: Any) -> Any:
    """Return an array of a pickle, or a copy: what was loaded as a memory map is read-only."""
    if values is None or not _device.on_host(values) or values.flags.writeable:
        return values
    return values.copy()
