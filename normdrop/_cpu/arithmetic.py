"""The shared arithmetic, compiled for the CPU."""

from normdrop import _formulas
from normdrop._cpu.launch import helper

centered = helper(_formulas.centered)
normalized = helper(_formulas.normalized)
input_gradient = helper(_formulas.input_gradient)
