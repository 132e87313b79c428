"""The activations of `normdrop._activations` on vectors of 16 float64."""

from __future__ import annotations

import functools
from typing import Any

from normdrop import _activations
from normdrop._cpu.lanes import choosing
from normdrop._cpu.lanes.simd import horner, splat
from normdrop._cpu.toolchain.launch import helper

PRIMITIVES = {
    "exponent": choosing.exponent,
    "horner": horner,
    "less": choosing.less,
    "where": choosing.where,
    "number": splat,
    "power_of_two": choosing.power_of_two,
}


@functools.lru_cache(1)
def _bound() -> dict[str, _activations.Activation]:
    return _activations.bound(PRIMITIVES, helper)


def activation(name: str) -> tuple[Any, Any]:
    """Return the helpers value(u, a) and derivative(u, a), which are compiled within the kernels that call them."""
    return _bound()[name][:2]
