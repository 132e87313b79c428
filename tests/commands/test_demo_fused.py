"""The demo's networks have the same numbers with fused layers as with the layers one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import normdrop
from normdrop.demo import layers, networks

pytestmark = pytest.mark.jit


def _separate(network: networks.Network) -> networks.Network:
    """The same network, with batch norm and ReLU as two layers."""
    separate: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, normdrop.BatchNormAct):
            assert (layer.activation, layer.p) == ("relu", 0.0)
            separate += [normdrop.BatchNorm(layer.num_features), layers.ReLU()]
        else:
            separate.append(layer)
    return networks.Network(separate)


@pytest.mark.parametrize("variant", ["batch norm", "both"])
@pytest.mark.parametrize("build", [networks.fully_connected, networks.convolutional])
def test_fused_networks_train_to_the_same_bits(build: Any, variant: str) -> None:
    def made() -> networks.Network:
        network: networks.Network = build(variant, rng=np.random.default_rng(1), mask_rng=np.random.default_rng(2))
        return network

    both = made(), _separate(made())
    assert len(both[1].layers) == len(both[0].layers) + 2
    rng = np.random.default_rng(3)
    steps = [networks.SGD(network) for network in both]
    for _ in range(4):
        x, labels = rng.normal(size=(32, 1, 8, 8)).astype(np.float32), rng.integers(10, size=32)
        for network, step in zip(both, steps, strict=True):
            network.backward(networks.cross_entropy(network.forward(x), labels)[1])
            step.step(0.1)
    for network in both:
        network.eval()
    ours, theirs = (network.probabilities(x) for network in both)
    assert ours.tobytes() == theirs.tobytes()
    for (_, value, _), (_, other, _) in zip(*(network.parameters() for network in both), strict=True):
        assert value.tobytes() == other.tobytes()
