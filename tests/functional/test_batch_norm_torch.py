"""Batch norm agrees with PyTorch in float64: forward, inference, backward and running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

torch = pytest.importorskip("torch")
peer = torch.nn.functional.batch_norm

pytestmark = pytest.mark.usefixtures("backend")

Array = np.ndarray[Any, np.dtype[Any]]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = [(7, 3), (2, 40), (5, 3, 9), (4, 2, 5, 6), (3, 17, 1, 1), (2, 2, 3, 4, 5)]
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "sliced": lambda x: np.repeat(x, 2, axis=0)[::2],
}


def _arrays(shape: tuple[int, ...], layout: str) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(len(shape))
    x, dy = LAYOUTS[layout](rng.normal(2.0, 3.0, shape)), LAYOUTS[layout](rng.normal(size=shape))
    return x, dy, rng.normal(1.0, 0.3, shape[1]), rng.normal(size=shape[1])


def _tensor(values: Array | None, *, gradient: bool = False) -> Any:
    return None if values is None else torch.tensor(np.ascontiguousarray(values), requires_grad=gradient)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_agrees_with_pytorch(shape: tuple[int, ...], layout: str, affine: bool) -> None:
    x, dy, gamma, beta = _arrays(shape, layout)
    parameters = (gamma, beta) if affine else (None, None)
    y, context = functional.batch_norm(x, *parameters, eps=1e-3)
    dx, dgamma, dbeta = functional.batch_norm_backward(dy, context)
    peers = _tensor(x, gradient=True), *(_tensor(values, gradient=True) for values in parameters)
    expected = peer(peers[0], None, None, peers[1], peers[2], training=True, eps=1e-3)
    expected.backward(_tensor(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(dx, peers[0].grad.numpy(), **CLOSE)
    if affine:
        np.testing.assert_allclose(dgamma, peers[1].grad.numpy(), **CLOSE)
        np.testing.assert_allclose(dbeta, peers[2].grad.numpy(), **CLOSE)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inference_agrees_with_pytorch(shape: tuple[int, ...], layout: str, affine: bool) -> None:
    x, dy, gamma, beta = _arrays(shape, layout)
    rng = np.random.default_rng(5)
    mean, var = rng.normal(size=shape[1]), rng.uniform(0.1, 3.0, shape[1])
    parameters = (gamma, beta) if affine else (None, None)
    y, context = functional.batch_norm_inference(x, mean, var, *parameters, eps=1e-3, keep_x=True)
    dx, dgamma, dbeta = functional.batch_norm_inference_backward(dy, context)
    peers = _tensor(x, gradient=True), *(_tensor(values, gradient=True) for values in parameters)
    expected = peer(peers[0], _tensor(mean), _tensor(var), peers[1], peers[2], training=False, eps=1e-3)
    expected.backward(_tensor(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(dx, peers[0].grad.numpy(), **CLOSE)
    if affine:
        np.testing.assert_allclose(dgamma, peers[1].grad.numpy(), **CLOSE)
        np.testing.assert_allclose(dbeta, peers[2].grad.numpy(), **CLOSE)


@pytest.mark.parametrize("momentum", [0.9, 0.25, 0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_statistics_are_those_of_pytorch_with_one_minus_momentum(
    shape: tuple[int, ...], momentum: float
) -> None:
    layer = normdrop.BatchNorm(shape[1], momentum=momentum, dtype=np.float64)
    mean, var = torch.zeros(shape[1], dtype=torch.float64), torch.ones(shape[1], dtype=torch.float64)
    rng = np.random.default_rng(1)
    for step in range(3):
        x = rng.normal(step, 1.0 + step, shape)
        y = layer(x)
        expected = peer(torch.tensor(x), mean, var, training=True, momentum=1.0 - momentum)
        np.testing.assert_allclose(y, expected.numpy(), **CLOSE)
        np.testing.assert_allclose(layer.running_mean, mean.numpy(), **CLOSE)
        np.testing.assert_allclose(layer.running_var, var.numpy(), **CLOSE)
    x = rng.normal(size=shape)
    expected = peer(torch.tensor(x), mean, var, training=False)
    np.testing.assert_allclose(layer.eval()(x), expected.numpy(), **CLOSE)


def test_layers_train_as_pytorch_trains_them() -> None:
    """Twenty steps of gradient descent through a layer keep both sides together."""
    rng = np.random.default_rng(2)
    layer, theirs = normdrop.BatchNorm(4, dtype=np.float64), torch.nn.BatchNorm1d(4, dtype=torch.float64)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    target = rng.normal(size=(16, 4))
    for _ in range(20):
        x = rng.normal(1.0, 2.0, (16, 4))
        layer.backward(2.0 * (layer(x) - target) / target.size)
        for _, value, gradient in layer.parameters():
            value -= 0.1 * gradient
        optimizer.zero_grad()
        torch.mean((theirs(torch.tensor(x)) - torch.tensor(target)) ** 2).backward()
        optimizer.step()
    np.testing.assert_allclose(layer.gamma, theirs.weight.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(layer.beta, theirs.bias.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(layer.running_var, theirs.running_var.numpy(), **CLOSE)
