"""The p of a dropout layer: a number, an array, or a schedule, a function of the number of training passes so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _process
from normdrop.functional._varied import Vector, is_array, probabilities

Schedule: TypeAlias = Callable[[int], "float | npt.NDArray[Any]"]
Probability: TypeAlias = "float | npt.NDArray[Any] | Schedule"


def is_schedule(p: object) -> bool:
    """Whether p is a function of the step."""
    return callable(p) and not is_array(p)


def taken(p: object) -> Any:
    """Return what a layer keeps as its p: a float, a read-only copy of an array in float64, or a schedule as it is."""
    if is_schedule(p):
        return p
    values = probabilities(p)
    if isinstance(values, float):
        return values
    values = values.copy()
    values.flags.writeable = False
    return values


def at(p: Any, step: int) -> float | Vector:
    """Return p at a step, after checks."""
    return probabilities(p(step) if is_schedule(p) else p)


def text(p: Any, step: int) -> str:
    """Return p as a layer's repr has it."""
    if is_schedule(p):
        return f"{getattr(p, '__name__', type(p).__name__)}, step={step}"
    return f"array of shape {p.shape}" if isinstance(p, np.ndarray) else f"{p}"


def check_step(value: object) -> int:
    """Return a number of training passes."""
    return _checks.integer(value, "step", 0, 2**63 - 1)


def count(own: dict[str, Any], n: int) -> None:
    """Add to the steps of a layer with this dictionary."""
    with _process.updating:
        own["step"] += n
