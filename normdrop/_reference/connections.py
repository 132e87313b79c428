"""The reference of DropConnect: sums over kept connections in float64, in the order that every target can keep."""

from __future__ import annotations

import numpy as np

from normdrop._connections import Connections
from normdrop._reference.masks import dropout, keep_mask
from normdrop._reference.rounding import Array, Mask, Vector, rounded, wide

_LANES = 16


def _masks(shape: tuple[int, int, int], connections: Connections) -> Mask:
    mask = np.empty(shape, np.bool_)
    keep_mask(mask.reshape(-1), connections.key, connections.call, connections.threshold)
    return mask


def _dropped(values: Array, connections: Connections) -> Array:
    """Set to +0 what the mask that all samples share drops."""
    if connections.threshold == 0:
        return values
    kept = np.empty_like(values)
    dropout(kept.reshape(-1), values.reshape(-1), connections.key, connections.call, connections.threshold, 1.0)
    return kept


def _sum_in_lanes(terms: Array) -> Array:
    """Sum along the last axis: every 16th term in order, then the upper half of 16 sums to the lower until one is."""
    n = -(-terms.shape[-1] // _LANES)
    padded = np.zeros((*terms.shape[:-1], n * _LANES))
    padded[..., : terms.shape[-1]] = terms
    sums = np.zeros((*terms.shape[:-1], _LANES))
    for k in range(n):
        sums = sums + padded[..., k * _LANES : (k + 1) * _LANES]
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


def drop_connect(y: Array, x: Array, weight: Array, bias: Vector, connections: Connections) -> None:
    """Set y[n, o] = scale * sum of weight[o, i] * x[n, i] over kept (n, o, i) + bias[o]; x (N, I), weight (O, I).

    Where samples share the mask, weights are dropped first, so that 0 times an infinite x is a NaN, and the order of a
    sum is the target's own.
    """
    with np.errstate(all="ignore"):
        if connections.are_shared:
            sums = wide(x) @ wide(_dropped(weight, connections)).T
        else:
            mask = _masks((*y.shape, x.shape[1]), connections)
            sums = _sum_in_lanes(np.where(mask, wide(weight) * wide(x)[:, None, :], 0.0))
        y[...] = rounded(connections.scale * sums + bias, y.dtype)


def drop_connect_input_gradient(dx: Array, dy: Array, weight: Array, connections: Connections) -> None:
    """Set dx[n, i] = scale * sum of weight[o, i] * dy[n, o] over kept (n, o, i), o in order; weight (O, I)."""
    with np.errstate(all="ignore"):
        if connections.are_shared:
            sums = wide(dy) @ wide(_dropped(weight, connections))
        else:
            mask, sums = _masks((*dy.shape, weight.shape[1]), connections), np.zeros(dx.shape)
            for o, row in enumerate(wide(weight)):
                sums += np.where(mask[:, o], row * wide(dy)[:, o, None], 0.0)
        dx[...] = rounded(connections.scale * sums, dx.dtype)


def drop_connect_weight_gradient(dweight: Array, dy: Array, x: Array, connections: Connections) -> None:
    """Set dweight[o, i] = scale * sum of dy[n, o] * x[n, i] over kept (n, o, i), n in order; dy (N, O), x (N, I)."""
    with np.errstate(all="ignore"):
        if connections.are_shared:
            sums = wide(dy).T @ wide(x)
        else:
            mask, sums = _masks((*dy.shape, x.shape[1]), connections), np.zeros(dweight.shape)
            for n, kept in enumerate(mask):
                sums += np.where(kept, wide(dy)[n, :, None] * wide(x)[n], 0.0)
        made = rounded(connections.scale * sums, dweight.dtype)
        dweight[...] = _dropped(made, connections) if connections.are_shared else made


def drop_connect_bias_gradient(dbias: Vector, dy: Array) -> None:
    """Set dbias[o] = the sum of dy[n, o]."""
    with np.errstate(all="ignore"):
        dbias[...] = wide(dy).sum(axis=0)
