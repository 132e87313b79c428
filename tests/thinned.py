"""A network with several layers of dropout, and all that a prediction must leave as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

import normdrop
from normdrop import MaskStream

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (4, 3)).astype(np.float32)
W1, W2 = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=(5, 3)).astype(np.float32)


class Net:
    """Two layers with dropout after each, a fused one between them, and a stream that two of them share."""

    def __init__(self, **options: Any) -> None:
        shared = MaskStream(7)
        self.norm = normdrop.BatchNorm(3)
        self.first = normdrop.Dropout(0.4, rng=shared, **options)
        self.fused = normdrop.BatchNormAct(5, p=0.3, rng=3, **options)
        self.last = normdrop.Dropout(0.2, rng=shared, **options)
        self.seen: list[Any] = []
        self.norm(X)
        self.fused(X @ W1)

    def __call__(self, x: Any) -> Any:
        h = self.fused(self.first(self.norm(x)) @ W1)
        self.last(h, out=h)
        y = self.last(h @ W2)
        self.seen.append(y.copy())
        return y

    def probabilities(self, x: Any) -> Any:
        return special.softmax(self(x), axis=-1)

    def layers(self) -> list[normdrop.Layer]:
        return [self.norm, self.first, self.fused, self.last]


def state(net: Any) -> list[Any]:
    """Everything that must be as it was."""
    kept = [(sorted(vars(layer)), layer.training, getattr(layer, "sampling", None)) for layer in net.layers()]
    kept += [[values.tobytes() for values in layer.state_dict().values()] for layer in net.layers()]
    return kept + [(id(layer._passes.waiting[0]), id(getattr(layer, "stream", None))) for layer in net.layers()]
