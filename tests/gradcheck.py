"""One check for every pass: right gradients, unchanged inputs, and results that share no memory with anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Backward = Callable[[Array], Mapping[str, Array]]
Pass = Callable[[Mapping[str, Array]], tuple[Array, Backward]]
"""Takes the inputs by name; returns the output and a function from dy to the gradient of each input, by name."""

STEP = 1e-5
BOUND = 1e-7


def central_differences(run: Pass, inputs: Mapping[str, Array], name: str, dy: Array) -> Array:
    """Gradient of sum(dy * y) with respect to one input, element by element."""
    gradient = np.empty(inputs[name].shape)
    for index in np.ndindex(inputs[name].shape):
        sums = []
        for step in (STEP, -STEP):
            moved = {key: values.copy(order="K") for key, values in inputs.items()}
            moved[name][index] += step
            sums.append(float(np.sum(dy * run(moved)[0])))
        gradient[index] = (sums[0] - sums[1]) / (2.0 * STEP)
    return gradient


def check_pass(run: Pass, inputs: Mapping[str, Array], *, seed: int = 0) -> float:
    """Assert all that a pass promises about gradients and memory; return the largest error of a gradient."""
    before = {name: values.copy() for name, values in inputs.items()}
    y, backward = run(inputs)
    dy = np.random.default_rng(seed).normal(size=y.shape)
    dy_before, y_before = dy.copy(), y.copy()
    gradients = dict(backward(dy))

    for name, values in inputs.items():
        np.testing.assert_array_equal(values, before[name], err_msg=f"{name} was changed")
    np.testing.assert_array_equal(dy, dy_before, err_msg="dy was changed")
    np.testing.assert_array_equal(y, y_before, err_msg="backward changed the output")

    made = {"y": y} | {f"gradient of {name}": values for name, values in gradients.items()}
    given = dict(inputs) | {"dy": dy}
    for (name, values), (other, others) in [
        *combinations(made.items(), 2),
        *((result, argument) for result in made.items() for argument in given.items()),
    ]:
        assert not np.may_share_memory(values, others), f"{name} shares memory with {other}"

    worst = 0.0
    for name, gradient in gradients.items():
        assert gradient.shape == inputs[name].shape
        assert gradient.dtype == np.float64
        expected = central_differences(run, inputs, name, dy)
        error = float(np.max(np.abs(gradient - expected), initial=0.0) / (1.0 + np.max(np.abs(expected), initial=0.0)))
        assert error <= BOUND, f"gradient of {name} is off by {error}"
        worst = max(worst, error)

    # A result may be written over without changing what comes next: nothing was aliased inside either.
    y.fill(np.nan)
    again = backward(dy)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(again[name], gradient, err_msg=f"second gradient of {name}")
        assert not np.may_share_memory(again[name], gradient)
    return worst
