"""DropBlock of arrays on a GPU: what it gives of the same arrays on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]


@pytest.mark.parametrize("options", [{}, {"shared_channels": True}, {"scaling": "expected", "channel_axis": -1}])
def test_a_layer_gives_arrays_of_the_gpu_with_the_bits_of_the_host(options: dict[str, Any]) -> None:
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 3, 6, 5)).astype(np.float32)
    ours, theirs = (normdrop.DropBlock2d(0.4, 2, rng=MaskStream.from_key((1, 2), 3), **options) for _ in range(2))
    y = theirs(_device.to_device(x))
    dx = theirs.backward(_device.to_device(dy))
    assert not isinstance(y, np.ndarray)
    np.testing.assert_array_equal(_device.to_host(y), ours(x))
    np.testing.assert_array_equal(_device.to_host(dx), ours.backward(dy))
