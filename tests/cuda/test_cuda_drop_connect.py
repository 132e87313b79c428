"""DropConnect of arrays on a GPU: what it gives of the same arrays on the host, in any order of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device
from normdrop._cuda import connections

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]

_RNG = np.random.default_rng(0)
X, WEIGHT, BIAS, DY = (_RNG.normal(size=shape) for shape in [(3, 20), (5, 20), (5,), (3, 5)])


def layer(masks: Any) -> normdrop.DropConnect:
    return normdrop.DropConnect(0.3, masks=masks, rng=MaskStream.from_key((1, 2), 3))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("masks", ["sample", "batch"])
def test_a_layer_gives_arrays_of_the_gpu_with_the_values_of_the_host(
    masks: Any, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_ROWS", 7)  # several times
    ours, theirs = layer(masks), layer(masks)
    y, gradients = ours(X, WEIGHT, BIAS), ours.backward(DY)
    given = [_device.to_device(np.asarray(values, order=order)) for values in (X, WEIGHT, BIAS, DY)]
    on_gpu = theirs(*given[:3])
    assert not isinstance(on_gpu, np.ndarray)
    np.testing.assert_allclose(_device.to_host(on_gpu), y, rtol=1e-12)
    for made, expected in zip(theirs.backward(given[3]), gradients, strict=True):
        np.testing.assert_allclose(_device.to_host(made), expected, rtol=1e-12)
    out = _device.to_device(np.zeros((3, 5), order="F"))
    layer(masks)(*given[:3], out=out)
    np.testing.assert_allclose(_device.to_host(out), y, rtol=1e-12)


def test_with_p_1_the_bias_is_left_and_gradients_are_zero() -> None:
    drop = layer("sample")
    drop.p = 1.0
    y = drop(*map(_device.to_device, (X, WEIGHT, BIAS)))
    np.testing.assert_array_equal(_device.to_host(y), np.broadcast_to(BIAS, (3, 5)))
    dx, dweight, dbias = drop.backward(_device.to_device(DY))
    assert not _device.to_host(dx).any()
    assert not _device.to_host(dweight).any()
    np.testing.assert_allclose(_device.to_host(dbias), DY.sum(0), rtol=1e-13)


def test_arrays_on_both_sides_are_refused() -> None:
    with pytest.raises(TypeError, match="weight is on the host"):
        layer("sample")(_device.to_device(X), WEIGHT)
