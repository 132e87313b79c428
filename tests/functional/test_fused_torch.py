"""Fused passes agree with PyTorch's autograd in float64, for every activation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normdrop import functional
from normdrop._activations import ACTIVATIONS

from ..unfused import LAYOUTS, arrays, stream

torch = pytest.importorskip("torch")
F = torch.nn.functional

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SHAPE = (5, 4, 3, 3)
PEERS: dict[str, Any] = {
    "identity": lambda u: u,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda u: F.gelu(u, approximate="tanh"),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
}
COMPILED = ["gelu", "hardswish"]  # a curved and a straight one; each is compiled for seconds
BACKENDS = [
    pytest.param(backend, name, marks=[pytest.mark.slow] if backend == "cpu" else [], id=f"{backend}-{name}")
    for backend, names in (("reference", list(PEERS)), ("cpu", COMPILED))
    for name in names
]


@pytest.fixture
def serving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop import _backend, _cpu, _reference

    module = _cpu if request.param == "cpu" else _reference
    monkeypatch.setattr(_backend.contracts, "select", lambda x: module)


def _tensors(given: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(np.ascontiguousarray(given[name]), requires_grad=name != "dy") for name in given}


def _same(got: Any, tensor: Any) -> None:
    np.testing.assert_allclose(got, tensor.numpy(), **CLOSE)


def test_every_activation_has_a_peer() -> None:
    assert set(PEERS) == set(ACTIVATIONS)


@pytest.mark.parametrize(("serving", "name"), BACKENDS, indirect=["serving"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_batch_norm_a_sum_an_activation_and_dropout_agree_with_pytorch(
    serving: None, name: str, training: bool, with_residual: bool
) -> None:
    for layout in LAYOUTS:
        given = arrays(SHAPE, np.float64, layout)
        peers = _tensors(given)
        dy, how = given.pop("dy"), {"activation": name}
        if not with_residual:
            del given["residual"]
        mean, var = np.random.default_rng(2).uniform(0.2, 2.0, (2, SHAPE[1]))
        if training:
            y, context = functional.batch_norm_act(**given, **how, p=0.4, rng=stream())
            got = functional.batch_norm_act_backward(dy, context)
            mask = torch.tensor(functional.dropout(np.ones(SHAPE), 0.4, rng=stream())[0])
        else:
            y, context = functional.batch_norm_act_inference(**given, mean=mean, var=var, **how, keep_x=True)
            got = functional.batch_norm_act_inference_backward(dy, context)
            mask = 1.0
        statistics = (None, None) if training else (torch.tensor(mean), torch.tensor(var))
        u = F.batch_norm(peers["x"], *statistics, peers["gamma"], peers["beta"], training=training)
        expected = PEERS[name](u + peers["residual"] if with_residual else u) * mask
        expected.backward(peers["dy"])
        _same(y, expected.detach())
        for gradient, of in zip(got, ("x", "residual", "gamma", "beta"), strict=True):
            if gradient is None:
                assert not with_residual
            else:
                _same(gradient, peers[of].grad)


@pytest.mark.parametrize(("serving", "name"), BACKENDS, indirect=["serving"])
def test_an_activation_with_dropout_and_a_sum_agree_with_pytorch(serving: None, name: str) -> None:
    for layout in LAYOUTS:
        given = arrays(SHAPE, np.float64, layout)
        peers = _tensors(given)
        y, context = functional.act_dropout(
            given["x"], residual=given["residual"], activation=name, p=0.4, rng=stream()
        )
        mask = torch.tensor(functional.dropout(np.ones(SHAPE), 0.4, rng=stream())[0])
        expected = peers["residual"] + PEERS[name](peers["x"]) * mask
        expected.backward(peers["dy"])
        _same(y, expected.detach())
        _same(functional.act_dropout_backward(given["dy"], context), peers["x"].grad)
