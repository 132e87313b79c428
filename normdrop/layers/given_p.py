"""The p of a dropout layer: a number, an array, or a schedule, a function of the number of training passes so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks
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
    if not is_schedule(p):
        return probabilities(p)
    found = p(step)
    try:
        return probabilities(found)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the schedule {_name(p)} must return a p, and at step {step} did not: {error}") from None


def text(p: Any, step: int) -> str:
    """Return p as a layer's repr has it."""
    if is_schedule(p):
        return f"{_name(p)}, step={step}"
    return f"array of shape {p.shape}" if isinstance(p, np.ndarray) else f"{p}"


def _name(p: Any) -> str:
    return str(getattr(p, "__name__", type(p).__name__))


def check_step(value: object) -> int:
    """Return a number of training passes."""
    return _checks.integer(value, "step", 0, 2**63 - 1)


def check_state(state: object, p: Any) -> None:
    """Refuse a saved state without the step of a schedule, and one with a step for a p that has none."""
    if not isinstance(state, Mapping) or ("step" in state) == is_schedule(p):
        return
    if is_schedule(p):
        raise ValueError(
            f"state must have a step, because p is the schedule {_name(p)}; it was saved without one. Add the number "
            "of training passes so far: state | {'step': np.array(0)}."
        )
    raise ValueError(
        f"state must have no step, because p is {_checks.kind(p)} and no schedule. Set layer.p to the schedule first, "
        "or leave out the entry."
    )
