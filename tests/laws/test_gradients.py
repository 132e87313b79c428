"""Every backward pass is the derivative of its forward pass, by central differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

from ..gradcheck import Array, Backward, Pass, central_differences, check_pass

pytestmark = pytest.mark.usefixtures("backend")

ORDERS: dict[str, Callable[[Array], Array]] = {
    "C order": lambda x: x,
    "channels last in memory": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "Fortran order": np.asfortranarray,
}
BATCHES = [
    ((5, 3), 1),
    ((3, 2, 4), 1),
    ((3, 4, 2), -1),
    ((2, 2, 3, 3), 1),
    ((2, 3, 3, 2), -1),
    ((2, 2, 17), 1),
    ((4, 3), 0),
]
AFFINE = [("gamma", "beta"), ("gamma",), ("beta",), ()]


def _inputs(shape: tuple[int, ...], channel_axis: int, affine: tuple[str, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(len(shape) + shape[0])
    inputs = {"x": rng.normal(1.0, 2.0, shape)}
    return inputs | {name: rng.normal(1.0, 0.5, shape[channel_axis]) for name in affine}


def _training(channel_axis: int, **options: Any) -> Pass:
    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        parameters = inputs.get("gamma"), inputs.get("beta")
        y, context = functional.batch_norm(inputs["x"], *parameters, channel_axis=channel_axis, **options)

        def backward(dy: Array) -> Mapping[str, Array]:
            gradients = zip(("x", "gamma", "beta"), functional.batch_norm_backward(dy, context), strict=True)
            return {name: gradient for name, gradient in gradients if name in inputs}

        return y, backward

    return run


def _inference(channel_axis: int, n_channels: int, *, keep_x: bool = True) -> Pass:
    rng = np.random.default_rng(7)
    mean, var = rng.normal(size=n_channels), rng.uniform(0.0, 2.0, n_channels)

    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        parameters = inputs.get("gamma"), inputs.get("beta")
        options = {"channel_axis": channel_axis, "keep_x": keep_x}
        y, context = functional.batch_norm_inference(inputs["x"], mean, var, *parameters, eps=0.1, **options)

        def backward(dy: Array) -> Mapping[str, Array]:
            results = functional.batch_norm_inference_backward(dy, context)
            gradients = zip(("x", "gamma", "beta"), results, strict=True)
            return {name: gradient for name, gradient in gradients if name in inputs and gradient is not None}

        return y, backward

    return run


@pytest.mark.parametrize("affine", AFFINE, ids=str)
@pytest.mark.parametrize(("shape", "channel_axis"), BATCHES, ids=str)
def test_batch_norm_backward_is_the_derivative_of_training(
    shape: tuple[int, ...], channel_axis: int, affine: tuple[str, ...]
) -> None:
    check_pass(_training(channel_axis), _inputs(shape, channel_axis, affine))


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("eps", [1e-5, 10.0])
def test_batch_norm_backward_is_the_derivative_in_any_memory_order(eps: float, order: str) -> None:
    inputs = _inputs((3, 2, 2, 3), 1, ("gamma", "beta"))
    inputs["x"] = ORDERS[order](inputs["x"])
    check_pass(_training(1, eps=eps), inputs)
    check_pass(_inference(1, 2), inputs)


@pytest.mark.parametrize("affine", AFFINE, ids=str)
@pytest.mark.parametrize(("shape", "channel_axis"), BATCHES, ids=str)
def test_inference_backward_is_the_derivative_with_frozen_statistics(
    shape: tuple[int, ...], channel_axis: int, affine: tuple[str, ...]
) -> None:
    inputs = _inputs(shape, channel_axis, affine)
    for keep_x in (True, False):
        check_pass(_inference(channel_axis, shape[channel_axis], keep_x=keep_x), inputs)


def test_gradient_of_a_constant_channel_is_finite_and_exact() -> None:
    inputs = _inputs((6, 2), 1, ("gamma", "beta"))
    inputs["x"][:, 1] = 4.0
    check_pass(_training(1, eps=0.5), inputs)


def _dropout(**options: Any) -> Pass:
    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        y, context = functional.dropout(inputs["x"], **options)
        return y, lambda dy: {"x": functional.dropout_backward(dy, context)}

    return run


MASK = np.random.default_rng(1).random((4, 3, 5)) < 0.6
DROPOUTS: dict[str, dict[str, Any]] = {
    "elements": {"p": 0.4, "rng": 3},
    "elements, original scaling": {"p": 0.4, "rng": 3, "scaling": "original"},
    "channels": {"p": 0.5, "rng": 5, "shared_axes": 2},
    "channels last": {"p": 0.5, "rng": 5, "shared_axes": 1},
    "samples": {"p": 0.5, "rng": 8, "shared_axes": (1, 2)},
    "shared axes apart": {"p": 0.5, "rng": 5, "shared_axes": (0, 2)},
    "channels, original scaling": {"p": 0.5, "rng": 5, "shared_axes": 2, "scaling": "original"},
    "a given mask": {"p": 0.4, "mask": MASK},
    "a given mask of channels": {"p": 0.4, "mask": MASK[:, :, :1], "shared_axes": 2},
    "a given mask, original scaling": {"p": 0.4, "mask": MASK, "scaling": "original"},
    "nothing": {"p": 0.0, "rng": 1},
    "everything": {"p": 1.0, "rng": 1},
}


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("name", list(DROPOUTS))
def test_dropout_backward_is_the_derivative_of_its_forward(name: str, order: str) -> None:
    x = ORDERS[order](np.random.default_rng(2).normal(size=(4, 3, 5)))
    check_pass(_dropout(**DROPOUTS[name]), {"x": x})


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_dropout_inference_backward_is_the_derivative(scaling: str) -> None:
    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        y, context = functional.dropout_inference(inputs["x"], 0.3, scaling=scaling)
        return y, lambda dy: {"x": functional.dropout_backward(dy, context)}

    check_pass(run, {"x": np.random.default_rng(2).normal(size=(4, 7))})


def _through(layer: Any) -> Callable[[Mapping[str, Array]], tuple[Array, Backward]]:
    """A pass through a copy of the layer's state, so that each forward pass meets the same stream and statistics."""
    state = layer.state_dict()

    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        layer.load_state_dict(state)
        layer.forget()
        y = layer(inputs["x"])

        def backward(dy: Array) -> Mapping[str, Array]:
            layer.load_state_dict(state)
            layer.forget()
            layer(inputs["x"])
            return {"x": layer.backward(dy)}

        return y, backward

    return run


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: normdrop.Dropout(0.3, rng=1), (4, 6)),
        (lambda: normdrop.Dropout(0.3, rng=1, scaling="original"), (4, 6)),
        (lambda: normdrop.Dropout2d(0.4, rng=2), (3, 4, 2, 2)),
        (lambda: normdrop.Dropout2d(0.4, rng=2, channel_axis=-1), (3, 2, 2, 4)),
        (lambda: normdrop.BatchNorm(3, dtype=np.float64), (5, 3)),
        (lambda: normdrop.BatchNorm1d(3, dtype=np.float64, affine=False), (4, 3, 2)),
        (lambda: normdrop.BatchNorm2d(2, dtype=np.float64, channel_axis=-1), (2, 3, 2, 2)),
        (lambda: normdrop.BatchNorm(3, dtype=np.float64, track_running_stats=False), (5, 3)),
    ],
)
def test_backward_of_a_layer_is_the_derivative_in_both_modes(
    make: Callable[[], Any], shape: tuple[int, ...], training: bool
) -> None:
    layer = make()
    warm_up = np.random.default_rng(4).normal(1.0, 3.0, shape)
    layer(warm_up)
    layer.train() if training else layer.eval()
    check_pass(_through(layer), {"x": np.random.default_rng(3).normal(1.0, 2.0, shape)})


@pytest.mark.parametrize("training", [True, False])
def test_gradients_in_parameters_are_the_derivatives(training: bool) -> None:
    rng = np.random.default_rng(6)
    x, dy = rng.normal(2.0, 3.0, (6, 3)), rng.normal(size=(6, 3))
    layer = normdrop.BatchNorm(3, gamma_init="uniform", dtype=np.float64, rng=1)
    layer(rng.normal(1.0, 2.0, (6, 3)))
    layer.train() if training else layer.eval()

    def run(inputs: Mapping[str, Array]) -> tuple[Array, Backward]:
        layer.gamma[...], layer.beta[...] = inputs["gamma"], inputs["beta"]
        layer.forget()
        return layer(x, keep_x=True), lambda dy: {}

    inputs = {name: value.copy() for name, value, _ in layer.parameters()}
    expected = {name: central_differences(run, inputs, name, dy) for name in inputs}
    run(inputs)
    layer.backward(dy)
    for name, _, gradient in layer.parameters():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-7, atol=1e-7)
