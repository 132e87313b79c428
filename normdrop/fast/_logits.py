"""Expectations over the softmax of independent normal logits, as integrals over one variable.

With S the sum of exp(z), 1 / Sⁿ is the integral of tⁿ exp(-t S) / Γ(n) over dt / t, and exp(-t S) a product over the
classes, whose expectation is the product of theirs. So K classes take K integrals over one normal variable for each t,
and none over more. Both are by the trapezoidal rule, whose error falls exponentially with its step for such smooth
functions: the outer one over u = log t, the inner one over the logit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from normdrop.fast._moments import Vector

_REACH = 5.3  # standard deviations beyond which a normal variable is neglected
_DEPTH = 17.0  # logarithm of what is neglected of 1 / S
_WIDE = 64.0  # largest standard deviation; wider logits are scaled down to it
_SIZE = 1 << 16  # numbers at once, so that they fit a cache


class Tilted(NamedTuple):
    """Integrands of N rows of K logits at T values of u."""

    u: Vector
    """The values, shape (N, T)."""
    product: Vector
    """E exp(-t S), times the step of u, shape (N, T)."""
    ratios: tuple[Vector, ...]
    """For r = 1, 2, ...: E[xʳ exp(-x)] / E[exp(-x)], with x = t exp(z), for each class, shape (N, K, T)."""

    def power(self, r: int) -> Vector:
        """E pʳ of every class, shape (N, K)."""
        expected: Vector = np.einsum("nt,nkt->nk", self.product, self.ratios[r - 1]) / math.gamma(r)
        return expected

    def pair(self, a: int, b: int) -> Vector:
        """E pₖᵃ pⱼᵇ of every two classes, shape (N, K, K)."""
        weighted = self.product[:, np.newaxis] * self.ratios[a - 1]
        expected: Vector = weighted @ self.ratios[b - 1].transpose(0, 2, 1) / math.gamma(a + b)
        same = np.arange(expected.shape[1])
        expected[:, same, same] = self.power(a + b)
        return expected


def _grid(mean: Vector, s: Vector, step: float) -> tuple[Vector, Vector]:
    """Values of u for each row, shape (N, T), and their steps, shape (N,)."""
    left = mean + np.where(s < math.sqrt(2.0 * _DEPTH), _DEPTH + 0.5 * s * s, math.sqrt(2.0 * _DEPTH) * s)
    first = -left.max(axis=1)
    last = (_REACH * s - mean).min(axis=1) + math.log(_DEPTH)
    steps = step + 0.5 * np.minimum(s.min(axis=1), 1.0)  # normal noise smooths
    n_steps = math.ceil(float(((last - first) / steps).max()))
    return first[:, np.newaxis] + steps[:, np.newaxis] * np.arange(n_steps + 1), steps


def tilted(mean: Vector, var: Vector, order: int, dtype: np.dtype[Any]) -> Tilted:
    """Compute the integrands of N rows; powers of probabilities up to `order` can be had of them.

    The inner integrals, where the time goes, are in the dtype of the logits.
    """
    # Higher powers are less smooth, and float32 has fewer digits to keep.
    outer, inner = (0.5, 0.4) if order <= 2 and dtype == np.float32 else (0.35, 0.35)
    s = np.sqrt(var)
    u, steps = _grid(mean, s, outer)
    h = inner / np.maximum(s, inner)  # step of a standard normal variable, 1 at most
    base = (u[:, np.newaxis] + mean[:, :, np.newaxis]).astype(dtype, copy=False)
    sums = [np.zeros_like(base) for _ in range(order + 1)]
    total = np.zeros_like(mean)
    n_nodes = int(_REACH / h.min())
    for i in range(-n_nodes, n_nodes + 1):
        z = h * i
        weight = np.where(np.abs(z) <= _REACH, np.exp(-0.5 * z * z), 0.0)
        total += weight
        x = base + (s * z).astype(dtype, copy=False)[:, :, np.newaxis]
        np.exp(np.minimum(x, 60.0, out=x), out=x)
        term = np.exp(-x)
        term *= weight.astype(dtype, copy=False)[:, :, np.newaxis]
        sums[0] += term
        for power in sums[1:]:
            term *= x
            power += term
    none = np.maximum(sums[0].astype(np.float64, copy=False), np.finfo(dtype).tiny)
    product = np.exp(np.log(none / total[:, :, np.newaxis]).sum(axis=1)) * steps[:, np.newaxis]
    return Tilted(u, product, tuple(power / none for power in sums[1:]))


class Logits(NamedTuple):
    """Some rows of logits, within what the integrals can take."""

    rows: slice
    """Which they are."""
    mean: Vector
    """Their means, shape (n, K); those of rows that are not finite are 0."""
    var: Vector
    """Their variances."""
    scale: Vector
    """By what they were divided, shape (n, 1): 1, or more where a standard deviation is very large, or NaN."""


def pieces(mean: Vector, var: Vector) -> Iterator[Logits]:
    """Divide the rows so that the integrands of each piece fit a cache."""
    finite = np.isfinite(mean + var).all(axis=1, keepdims=True)
    mean, var = np.where(finite, mean, 0.0), np.where(finite, var, 0.0)
    s = np.sqrt(var.max(axis=1, keepdims=True))
    scale = np.maximum(s / _WIDE, 1.0)
    each = mean.shape[1] * (30.0 + 25.0 * min(float(s.max(initial=0.0)), _WIDE))
    n_rows = max(1, int(_SIZE / each))
    mean, var, scale = mean / scale, var / scale**2, np.where(finite, scale, np.nan)
    for start in range(0, len(mean), n_rows):
        rows = slice(start, start + n_rows)
        yield Logits(rows, mean[rows], var[rows], scale[rows])
