"""The shared arithmetic, compiled for the CPU."""

from typing import Any

from normdrop import _formulas
from normdrop._cpu.launch import helper
from normdrop._cpu.simd import at_least_zero

centered = helper(_formulas.centered)
normalized = helper(_formulas.normalized)
input_gradient = helper(_formulas.input_gradient)


@helper
def centered_lanes(s: Any, t: Any, n: Any) -> Any:
    """Return what `centered` does, for vectors."""
    return s / n, at_least_zero(t - s * s / n)
