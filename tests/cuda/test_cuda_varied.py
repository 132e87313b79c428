"""Dropout of arrays on a GPU with a p of each, which may be there or on the host: the bits of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device, functional

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]

X = np.random.default_rng(0).normal(size=(3, 4, 25)).astype(np.float32)
P = {
    "samples": np.array([0.5, 0.0, 0.9]).reshape(3, 1, 1),
    "channels": np.array([0.25, 1.0, 0.5, 0.0]).reshape(4, 1),
    "elements": np.random.default_rng(1).uniform(0, 1, X.shape),
}


def stream() -> MaskStream:
    return MaskStream.from_key((1, 2), 3)


@pytest.mark.parametrize("where", ["host", "gpu"])
@pytest.mark.parametrize("name", list(P))
def test_a_p_on_the_host_or_on_the_gpu_gives_the_bits_of_the_host(name: str, where: str) -> None:
    p = P[name] if where == "host" else _device.to_device(P[name])
    y, context, mask = functional.dropout(X, P[name], rng=stream(), return_mask=True)
    ours, theirs, drawn = functional.dropout(_device.to_device(X), p, rng=stream(), return_mask=True)
    assert not isinstance(ours, np.ndarray)
    np.testing.assert_array_equal(_device.to_host(ours), y)
    np.testing.assert_array_equal(_device.to_host(drawn), mask)
    dx = functional.dropout_backward(_device.to_device(X), theirs)
    np.testing.assert_array_equal(_device.to_host(dx), functional.dropout_backward(X, context))
    y, _ = functional.dropout_inference(X, P[name], scaling="original")
    ours, _ = functional.dropout_inference(_device.to_device(X), p, scaling="original")
    np.testing.assert_array_equal(_device.to_host(ours), y)
    np.testing.assert_array_equal(
        functional.dropout(X, p, rng=stream())[0], functional.dropout(X, P[name], rng=stream())[0]
    )


def test_shared_axes_ids_and_other_orders_with_a_p_of_each_have_the_bits_of_the_host() -> None:
    x, p, ids = np.asfortranarray(X), P["channels"], np.array([5, -1, 5])
    for given in ({"shared_axes": 2}, {"sample_ids": ids}, {}):
        y = functional.dropout(x, p, rng=stream(), **given)[0]
        ours = functional.dropout(_device.to_device(x), _device.to_device(p), rng=stream(), **given)[0]
        np.testing.assert_array_equal(_device.to_host(ours), y)


def test_a_layer_keeps_an_array_of_the_gpu_as_a_copy_on_the_host_and_schedules_may_give_such() -> None:
    p = P["channels"].reshape(4)
    layer, expected = normdrop.Dropout1d(_device.to_device(p), rng=stream()), normdrop.Dropout1d(p, rng=stream())
    assert isinstance(layer.p, np.ndarray)
    for _ in range(2):
        y = expected(X)
        np.testing.assert_array_equal(_device.to_host(layer(_device.to_device(X))), y)
        np.testing.assert_array_equal(_device.to_host(layer.backward(_device.to_device(X))), expected.backward(X))
        layer.p = lambda step: _device.to_device(p)
    assert layer.step == 1


def test_a_bad_p_on_the_gpu_is_refused_and_changes_nothing(refused: Any) -> None:
    from types import SimpleNamespace

    bad = _device.to_device(np.array([0.5, 1.5, 0.5, 0.5]).reshape(4, 1))
    x = _device.to_device(X)
    refused(SimpleNamespace(rng=stream()), lambda s: functional.dropout(x, bad, rng=s.rng), ValueError, "1.5 at (1, 0)")
