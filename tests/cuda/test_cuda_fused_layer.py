"""The fused layer on a GPU: state there, results there, the masks of the host, and all of it back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import normdrop
from normdrop import _device, functional

from ..unfused import stream

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]


def normal(seed=0):
    return np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)


def values(x):
    return _device.to_host(x)


def made(**options):
    return normdrop.BatchNormAct(3, **{"p": 0.5, "rng": stream()} | options)


def test_a_fused_layer_trains_there_as_on_the_host():
    there, host = made().to_device(), made()
    for step in range(2):
        x, skip, dy = normal(step), normal(step + 5), normal(step + 9)
        on_gpu = [_device.to_device(each) for each in (x, skip, dy)]
        y, expected = there(*on_gpu[:2]), host(x, skip)
        assert not isinstance(y, np.ndarray)
        np.testing.assert_array_equal(values(y) == 0.0, expected == 0.0)
        gradients = there.backward(on_gpu[2])
        for mine, other in zip([y, *gradients], [expected, *host.backward(dy)], strict=True):
            np.testing.assert_allclose(values(mine), other, rtol=1e-5, atol=1e-5)
    assert there.stream == host.stream
    there.eval()
    host.eval()
    y = there(on_gpu[0], on_gpu[1], keep_x=True)
    np.testing.assert_allclose(values(y), host(x, skip, keep_x=True), rtol=1e-5, atol=1e-5)
    for mine, other in zip(there.backward(on_gpu[2]), host.backward(dy), strict=True):
        np.testing.assert_allclose(values(mine), other, rtol=1e-5, atol=1e-5)
    assert there.to_host() is there
    for name in ("dgamma", "dbeta", "running_mean", "running_var"):
        np.testing.assert_allclose(getattr(there, name), getattr(host, name), rtol=1e-5, atol=1e-6)


def test_copies_states_and_children_of_a_fused_layer_on_a_gpu_are_whole():
    layer, x = made().to_device(), _device.to_device(normal())
    layer(x)
    twin, loaded, other = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), made(rng=1).to_device()
    other.load_state_dict(layer.state_dict())
    assert isinstance(loaded.running_var, np.ndarray)
    assert twin.stream == loaded.stream == other.stream == layer.stream
    expected = values(layer(x)).tobytes()
    assert values(twin(x)).tobytes() == values(other(x)).tobytes() == expected
    assert layer.spawn(1)[0].stream != layer.stream


def test_a_batch_that_is_not_finite_gives_back_stream_and_residual_there():
    layer, x, skip = made(on_nonfinite="raise").to_device(), normal(), normal(1)
    x[0, 1] = np.nan
    there = _device.to_device(skip)
    with pytest.raises(FloatingPointError, match="channel 1"):
        layer(_device.to_device(x), there, out=there)
    assert layer.stream == stream()
    np.testing.assert_array_equal(values(there), skip)


def test_a_residual_on_the_host_is_refused():
    with pytest.raises(TypeError, match="residual is on the host"):
        functional.act_dropout(_device.to_device(normal()), residual=normal())
