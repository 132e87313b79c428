"""The shared arithmetic, compiled for the CPU."""

from typing import Any

from normdrop import _formulas
from normdrop._cpu.lanes.simd import at_least_zero
from normdrop._cpu.toolchain.launch import helper

centered = helper(_formulas.centered)
normalized = helper(_formulas.normalized)
input_gradient = helper(_formulas.input_gradient)
squares_about = helper(_formulas.squares_about)
slope = helper(_formulas.slope)
running = helper(_formulas.running)


@helper
def centered_lanes(s: Any, t: Any, n: Any) -> Any:
    """Return what `centered` does, for vectors."""
    return s / n, at_least_zero(t - s * s / n)
