"""Concrete dropout of arrays on a GPU: what it gives of the same arrays on the host, in any order of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]


def layer() -> normdrop.ConcreteDropout:
    return normdrop.ConcreteDropout(0.3, rng=MaskStream.from_key((1, 2), 3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_layer_gives_arrays_of_the_gpu_and_its_logit_stays_on_the_host(order: Any) -> None:
    x, dy = (np.asarray(a, order=order) for a in np.random.default_rng(0).normal(size=(2, 5, 7)))
    ours, theirs = layer(), layer()
    y, dx = ours(x), ours.backward(dy)
    theirs.to_device()
    on_gpu = theirs(_device.to_device(x))
    assert not isinstance(on_gpu, np.ndarray)
    np.testing.assert_allclose(_device.to_host(on_gpu), y, rtol=1e-13)
    np.testing.assert_allclose(_device.to_host(theirs.backward(_device.to_device(dy))), dx, rtol=1e-13)
    assert ours.dlogit is not None
    assert theirs.dlogit is not None
    assert isinstance(theirs.logit, np.ndarray)
    assert float(theirs.dlogit) == pytest.approx(float(ours.dlogit), rel=1e-12)


def test_into_an_array_of_the_gpu_of_another_order() -> None:
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected, out = layer()(x), _device.to_device(np.zeros((5, 7), np.float32, order="F"))
    layer()(_device.to_device(x), out=out)
    np.testing.assert_allclose(_device.to_host(out), expected, rtol=1e-6)


def test_a_gradient_on_the_host_is_refused_after_a_pass_on_the_gpu() -> None:
    drop = layer()
    drop(_device.to_device(np.ones((5, 7))))
    with pytest.raises((TypeError, ValueError), match="GPU"):
        drop.backward(np.ones((5, 7)))
