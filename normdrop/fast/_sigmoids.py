"""Moments of a normal variable after the logistic function, by quadrature."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from normdrop.fast._moments import Vector
from normdrop.fast._rectifiers import Curve

_N_NODES = 32
_WIDE = 1.25  # standard deviation up to which Gauss-Hermite is used
_STEP, _END = 0.65, 30.0  # of the trapezoidal rule beyond it


@lru_cache(maxsize=1)
def hermite() -> tuple[Vector, Vector]:
    """Nodes and weights of Gauss-Hermite quadrature: Σ weight · f(node) is E f(Z) for a standard normal Z."""
    from scipy.special import roots_hermitenorm

    nodes, weights = roots_hermitenorm(_N_NODES)
    return nodes, weights / weights.sum()


def sigmoid(mean: Vector, var: Vector) -> Curve:
    """f(x) = 1 / (1 + exp(-x))."""
    return Curve(*_both(mean, var))


def tanh(mean: Vector, var: Vector) -> Curve:
    """f(x) = 2 sigmoid(2 x) - 1."""
    inner = sigmoid(2.0 * mean, 4.0 * var)
    return Curve(
        2.0 * inner.mean - 1.0,
        4.0 * inner.var,
        4.0 * inner.mean_by_mean,
        8.0 * inner.mean_by_var,
        8.0 * inner.var_by_mean,
        16.0 * inner.var_by_var,
    )


def _both(x: Vector, v: Vector) -> Vector:
    """Rows of `Curve`. f(-x) = 1 - f(x): small values at negative means keep their digits."""
    s, away, sign = np.sqrt(v), -np.abs(x), np.where(x > 0, -1.0, 1.0)
    rows: Vector = np.empty((6, x.size))
    wide = s > _WIDE
    rows[:, ~wide] = _narrow(away[~wide], s[~wide])
    rows[:, wide] = _broad(away[wide], s[wide])
    rows[0] = np.where(x > 0, 1.0 - rows[0], rows[0])
    rows[3] *= sign
    rows[4] *= sign
    return rows


def _narrow(x: Vector, s: Vector) -> Vector:
    """Gauss-Hermite quadrature of f and its derivatives."""
    from scipy.special import expit

    z, w = hermite()
    step = np.outer(z, s)
    y, center = expit(x + step), expit(x)
    # f(x + step) - f(x) without cancellation
    rise = -y * expit(-x) * np.expm1(-step)
    mean_rise = w @ rise
    rise -= mean_rise
    slope = y * (1.0 - y)
    bend = slope * (1.0 - 2.0 * y)
    return np.stack(
        [
            center + mean_rise,
            w @ (rise * rise),
            w @ slope,
            0.5 * (w @ bend),
            2.0 * (w @ (rise * slope)),
            w @ (slope * slope + rise * bend),
        ]
    )


def _broad(x: Vector, s: Vector) -> Vector:
    """f is P(L < x) for a logistic L, so that E f(X) = E P(X > L | L), and f² is that of the larger of two such L."""
    from scipy.special import expit, ndtr

    nodes = np.arange(-_END, _END + _STEP / 2.0, _STEP)
    below = expit(nodes)
    one = _STEP * below * expit(-nodes)
    densities = np.stack([one, 2.0 * below * one])
    r = (x - nodes[:, np.newaxis]) / s
    first, second = densities @ ndtr(r)
    bell = np.exp(-0.5 * r * r) / (np.sqrt(2.0 * np.pi) * s)
    first_by_mean, second_by_mean = densities @ bell
    bell *= -0.5 * r / s
    first_by_var, second_by_var = densities @ bell
    return np.stack(
        [
            first,
            second - first * first,
            first_by_mean,
            first_by_var,
            second_by_mean - 2.0 * first * first_by_mean,
            second_by_var - 2.0 * first * first_by_var,
        ]
    )
