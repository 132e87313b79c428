"""Fused passes have the bits of their steps one after the other, in every dtype, layout and place of the result."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from normdrop import functional

from ..unfused import LAYOUTS, act_dropout, arrays, assert_same_bits, batch_norm_act, batch_norm_act_inference, stream

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.slow]

SHAPE = (4, 5, 3, 6)
DTYPES = [np.float32, np.float64, np.float16]
MASKS = {"elements": (0.4, ()), "channels": (0.4, (2, 3)), "images": (0.4, 0), "nothing": (0.0, ()), "all": (1.0, ())}


def fused(x: Any, gamma: Any, beta: Any, dy: Any, **how: Any) -> list[Any]:
    y, context = functional.batch_norm_act(x, gamma, beta, rng=stream(), **how)
    return [y, *functional.batch_norm_act_backward(dy, context)]


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_pass_has_the_bits_of_its_steps_one_after_the_other(dtype: Any, layout: str) -> None:
    given, how = arrays(SHAPE, dtype, layout), {"activation": "relu", "p": 0.4}
    assert_same_bits(fused(**given, **how), batch_norm_act(**given, **how))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("masks", list(MASKS))
def test_a_mask_is_that_of_dropout_whatever_it_is_shared_along(masks: str, layout: str) -> None:
    p, shared_axes = MASKS[masks]
    given = arrays(SHAPE, np.float32, layout) | {"residual": None}
    how = {"activation": "relu", "p": p, "shared_axes": shared_axes}
    assert_same_bits(fused(**given, **how), batch_norm_act(**given, **how))


def test_an_activation_with_a_parameter_has_the_bits_of_the_sequence() -> None:
    for slope in (0.01, 0.2, -1.5):
        given, how = arrays(SHAPE, np.float32), {"activation": ("leaky_relu", slope), "p": 0.4}
        assert_same_bits(fused(**given, **how), batch_norm_act(**given, **how))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_has_the_bits_of_its_steps_one_after_the_other(dtype: Any) -> None:
    for layout in LAYOUTS:
        given, (mean, var) = arrays(SHAPE, dtype, layout), np.random.default_rng(3).uniform(0.2, 2.0, (2, SHAPE[1]))
        dy, how = given.pop("dy"), {"activation": "relu", "residual": given.pop("residual")}
        y, context = functional.batch_norm_act_inference(**given, mean=mean, var=var, **how, keep_x=True)
        got = [y, *functional.batch_norm_act_inference_backward(dy, context)]
        assert_same_bits(got, batch_norm_act_inference(**given, mean=mean, var=var, dy=dy, **how))
        without = functional.batch_norm_act_inference(**given, mean=mean, var=var, **how)
        assert_same_bits(without[0], y)


@pytest.mark.parametrize("masks", ["elements", "channels", "nothing"])
@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
def test_an_activation_and_dropout_have_the_bits_of_their_steps(dtype: Any, masks: str) -> None:
    p, shared_axes = MASKS[masks]
    for layout in LAYOUTS:
        given = arrays(SHAPE, dtype, layout)
        x, residual, dy = given["x"], given["residual"], given["dy"]
        how = {"activation": "relu", "p": p, "shared_axes": shared_axes}
        y, context = functional.act_dropout(x, residual=residual, rng=stream(), **how)
        got = [y, functional.act_dropout_backward(dy, context)]
        assert_same_bits(got, act_dropout(x, dy, residual=residual, **how))


@pytest.mark.parametrize("place", ["x", "residual", "another layout"])
def test_a_result_that_is_written_over_an_input_has_the_same_bits_and_so_have_its_gradients(place: str) -> None:
    for layout in LAYOUTS:
        given, how = arrays(SHAPE, np.float32, layout), {"activation": "relu", "p": 0.4}
        expected = batch_norm_act(**given, **how)
        dy, gamma, beta = (given.pop(name) for name in ("dy", "gamma", "beta"))
        copies = {name: values.copy(order="K") for name, values in given.items()}
        out = copies.get(place, np.full(SHAPE[::-1], np.nan, np.float32).T)
        y, context = functional.batch_norm_act(**copies, gamma=gamma, beta=beta, rng=stream(), out=out, **how)
        assert y is out
        y = y.copy()
        into = dy.copy(order="K")
        got = functional.batch_norm_act_backward(into, context, out=into)
        assert got[0] is into
        assert_same_bits([y, *got], expected)
        for name, values in given.items():
            assert name == place or copies[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("place", ["x", "residual"])
def test_inference_and_activations_in_place_have_the_same_bits(place: str) -> None:
    given, statistics = arrays(SHAPE, np.float32), np.random.default_rng(3).uniform(0.2, 2.0, (2, SHAPE[1]))
    x, residual, dy = (given[name] for name in ("x", "residual", "dy"))
    vectors = *statistics, given["gamma"], given["beta"]
    how: dict[str, Any] = {"activation": "relu"}
    calls: dict[str, tuple[Any, Any]] = {
        "inference": (
            lambda x, **more: functional.batch_norm_act_inference(x, *vectors, **how, keep_x=True, **more),
            functional.batch_norm_act_inference_backward,
        ),
        "activation": (lambda x, **more: functional.act_dropout(x, **how, **more), functional.act_dropout_backward),
    }
    for forward, backward in calls.values():
        y, context = forward(x, residual=residual)
        expected = [y, backward(dy, context)]
        copies = {"x": x.copy(), "residual": residual.copy(order="K")}
        y, context = forward(copies["x"], residual=copies["residual"], out=copies[place])
        assert y is copies[place]
        y, into = y.copy(), dy.copy(order="K")
        assert_same_bits([y, backward(into, context, out=into)], expected)


def test_a_gradient_may_be_written_over_the_x_that_was_kept() -> None:
    given, (mean, var) = arrays(SHAPE, np.float32), np.random.default_rng(3).uniform(0.2, 2.0, (2, SHAPE[1]))
    vectors = mean, var, given["gamma"], given["beta"]
    for residual in (None, given["residual"]):
        x = given["x"].copy()
        _, context = functional.batch_norm_act(x, *vectors[2:], residual=residual, rng=stream())
        expected = functional.batch_norm_act_backward(given["dy"], context)
        assert_same_bits(functional.batch_norm_act_backward(given["dy"], context, out=x), expected)
        x = given["x"].copy()
        _, inferred = functional.batch_norm_act_inference(x, *vectors, residual=residual, keep_x=True)
        expected = functional.batch_norm_act_inference_backward(given["dy"], inferred)
        assert_same_bits(functional.batch_norm_act_inference_backward(given["dy"], inferred, out=x), expected)
