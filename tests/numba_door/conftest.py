"""A user's functions, which call those of `normdrop.numba`; compiled once for all tests of a process."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit, prange

import normdrop.numba as door


@njit
def keep_all(n, key, call, p):
    mask = np.empty(n, np.bool_)
    for i in range(n):
        mask[i] = door.keep(key, call, i, p)
    return mask


@njit
def all_bits(n, key, call):
    words = np.empty(n, np.uint32)
    for i in range(n):
        words[i] = door.bits(key, call, i)
    return words


@njit
def drop_all(y, dx, x, p, key, call):
    door.dropout_into(y, x, p, key, call)
    door.dropout_backward_into(dx, x, p, key, call)
    return door.dropout(x, p, key, call)


@njit(nogil=True, parallel=True)
def drop_rows(y, x, p, key, call):
    for i in prange(x.shape[0]):
        door.dropout_into(y[i], x[i], p, key, call + i)


@njit
def moments(x, channel_axis):
    return door.moments(x, channel_axis)


@njit
def norm(x, gamma, beta):
    return door.batch_norm(x, gamma, beta=beta)


@njit
def norm_into(y, statistics, x, gamma, beta, eps, channel_axis):
    door.batch_norm_into(y, statistics, x, gamma, beta, eps, channel_axis)


@njit
def normalize_into(y, x, mean, var, gamma, beta, eps, channel_axis):
    door.normalize_into(y, x, mean, var, gamma, beta, eps, channel_axis)


@njit
def backward_into(dx, dgamma, dbeta, dy, x, statistics, gamma, channel_axis):
    door.batch_norm_backward_into(dx, dgamma, dbeta, dy, x, statistics, gamma, channel_axis)


@pytest.fixture(scope="session")
def user() -> SimpleNamespace:
    """Compiled functions of a user."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if callable(value)})
