"""What becomes of kept and dropped elements: the operation in the loops of dropout, and the loops with another one.

Plain dropout scales what is kept and sets what is dropped to +0. Its loops call the functions here by their names;
`with_affine` gives a kernel with the others under those names, so that there is one copy of each loop.
"""

from __future__ import annotations

import operator
from types import FunctionType
from typing import Any

from normdrop._cpu.kinds import Lanes, Memory
from normdrop._cpu.lanes.bits import choose, keep_product, zeros
from normdrop._cpu.lanes.memory import splat_for
from normdrop._cpu.lanes.simd import splat, widen
from normdrop._cpu.toolchain.launch import Kernel, helper

# Of plain dropout these are intrinsics, which leave LLVM the code that it would have of the expressions: calls of
# helpers are inlined too late for some of its passes, and a branch came into the loops.
numbers_of = splat_for  # numbers_of(x, scale): what the next three take of a scale, for arrays like x
scaled = operator.mul  # scaled(value, numbers): scale * value, of 16 elements that are all kept
dropped = zeros  # dropped(numbers): 16 elements that are all dropped
masked = keep_product  # masked(bits, value, numbers): scale * value where the bit is set, else +0


@helper
def _affine_numbers(x: Memory, affine: Any) -> Any:
    scale, shift, fill = affine
    return splat(scale), splat(shift), splat(fill)


@helper
def _affine_scaled(value: Lanes, numbers: Any) -> Lanes:
    """scale * value + shift, in float64."""
    return widen(value) * numbers[0] + numbers[1]


@helper
def _affine_dropped(numbers: Any) -> Lanes:
    return numbers[2]


@helper
def _affine_masked(bits: Any, value: Lanes, numbers: Any) -> Lanes:
    return choose(bits, widen(value) * numbers[0] + numbers[1], numbers[2])


_AFFINE = {
    "numbers_of": _affine_numbers,
    "scaled": _affine_scaled,
    "dropped": _affine_dropped,
    "masked": _affine_masked,
}


def with_affine(kernel: Kernel) -> Kernel:
    """Return a kernel of dropout that sets what is kept to scale * x + shift, and what is dropped to a constant.

    Where the kernel takes a scale, this one takes (scale, shift, constant). Each element is computed in float64 and
    rounded once.
    """
    function = kernel.function
    names = function.__globals__ | _AFFINE

    def with_names(plain: Any) -> Any:
        return FunctionType(plain.__code__, names, f"{plain.__name__}_affine")  # machine code tells them by their names

    for name, value in function.__globals__.items():
        plain = getattr(value, "py_func", value)
        if isinstance(plain, FunctionType) and plain.__module__ == function.__module__:
            names[name] = helper(with_names(plain))
    return Kernel(with_names(function), kernel.arguments.replace("f", "t"))
