"""What concrete dropout adds to the loss: the paper's regularization, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from normdrop import _checks
from normdrop.layers.base import Array


def factor(name: str) -> Callable[[object], float]:
    """Return the check of a factor of the regularization."""

    def check(value: object) -> float:
        number = _checks.real(value, name, "0 or more, for example 1e-5")
        if not 0.0 <= number < math.inf:
            raise ValueError(f"{name} must be finite and 0 or more, for example 1e-5; got {value!r}")
        return number

    return check


def sigmoid(a: float) -> float:
    """Return the p of which `a` is the logit."""
    e = math.exp(-abs(a))
    return (e if a < 0 else 1.0) / (1.0 + e)


class Regularization(NamedTuple):
    """The logit, and the factors of the weights' part and of that of p."""

    logit: float
    of_weights: float
    of_p: float

    def value(self, weight: Array, input_axis: int) -> float:
        """Return what is added to the loss."""
        squares, n_inputs = _squares(weight, input_axis)
        size = abs(self.logit)  # the entropy is the same for p and 1 - p
        negative_entropy = -(size * sigmoid(-size) + math.log1p(math.exp(-size)))
        return self.of_weights * squares / sigmoid(-self.logit) + self.of_p * n_inputs * negative_entropy

    def gradients(self, weight: Array, input_axis: int) -> tuple[Array, float]:
        """Return those with respect to the weights and to the logit."""
        squares, n_inputs = _squares(weight, input_axis)
        p, keep_prob = sigmoid(self.logit), sigmoid(-self.logit)
        dlogit = self.of_weights * squares * p / keep_prob + self.of_p * n_inputs * self.logit * p * keep_prob
        dweight: Array = (2.0 * self.of_weights / keep_prob * weight).astype(weight.dtype, copy=False)
        return dweight, dlogit


def _squares(weight: Array, input_axis: int) -> tuple[float, int]:
    """Return the sum of squares of weights, and how many inputs they have."""
    weight = _checks.array(weight, "weight")
    values = weight.astype(np.float64, copy=False).ravel()
    return float(values @ values), weight.shape[_checks.axis(input_axis, "input_axis", weight.ndim)]
