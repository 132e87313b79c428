"""Formulas for other targets: functions of a module, bound to what vectors or a GPU have instead of NumPy's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any


def bound(names: Mapping[str, Any], primitives: Mapping[str, Any], compiled: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a module's names with its functions on a target's primitives.

    `compiled` makes a function one that the target's kernels call.
    """
    found = {**names, **primitives}
    for name, value in names.items():
        if isinstance(value, FunctionType) and name not in primitives:
            found[name] = compiled(FunctionType(value.__code__, found, name))
    return found
