"""What becomes of kept and dropped elements: the operation in the loops of dropout, and the loops with another one.

As in `normdrop._cpu.kernels.dropping`: plain dropout calls the functions here by their names, and `with_affine` gives
a kernel with the others under those names.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np

from normdrop._cuda.launch import Kernel, helper
from normdrop._cuda.memory import as_value


@helper
def numbers_of(x: Any, scale: Any) -> Any:
    """What `chosen` takes of a scale, for arrays like x."""
    return as_value(x, scale), as_value(x, 0.0)


@helper
def chosen(value: Any, kept: Any, numbers: Any) -> Any:
    """scale * value if it is kept, else +0."""
    return value * numbers[0] if kept else numbers[1]


@helper
def _affine_numbers(x: Any, affine: Any) -> Any:
    return affine


@helper
def _affine_chosen(value: Any, kept: Any, numbers: Any) -> Any:
    """scale * value + shift if it is kept, else the constant, in float64."""
    return np.float64(value) * numbers[0] + numbers[1] if kept else numbers[2]


_AFFINE = {"numbers_of": _affine_numbers, "chosen": _affine_chosen}


def with_affine(kernel: Kernel) -> Kernel:
    """Return a kernel of dropout that takes (scale, shift, constant) where the kernel takes a scale."""
    function = kernel.function
    names = function.__globals__ | _AFFINE

    def with_names(plain: Any) -> Any:
        return FunctionType(plain.__code__, names, f"{plain.__name__}_affine")

    for name, value in function.__globals__.items():
        plain = getattr(value, "py_func", value)
        if (
            isinstance(plain, FunctionType)
            and plain.__module__ == function.__module__
            and "cuda" not in plain.__code__.co_names
        ):
            names[name] = helper(with_names(plain))
    return Kernel(with_names(function), kernel.arguments.replace("f", "t"))
