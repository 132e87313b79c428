"""Layers that the tests of saved state write and read."""

from __future__ import annotations

import numpy as np

import normdrop

SUFFIXES = [".npz", ".safetensors"]


def batch_norm(first, **options):
    """A layer whose state has other numbers for every `first`, in every entry."""
    layer = normdrop.BatchNorm(3, **options)
    state = layer.state_dict()
    for i, (name, values) in enumerate(state.items()):
        numbers = first + i + np.arange(values.size, dtype=values.dtype) / 3 if values.shape else first + i
        state[name] = np.array(numbers, values.dtype)
    layer.load_state_dict(state)
    return layer


def same(layer, other):
    ours, theirs = layer.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(
        ours[name].dtype == theirs[name].dtype and ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )
