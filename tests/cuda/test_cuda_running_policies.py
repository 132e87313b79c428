"""How running statistics follow batches on a GPU: as on the host; and what is refused there."""

from __future__ import annotations

import numpy as np
import pytest

from normdrop import BatchNorm, BatchRenorm, ConditionalBatchNorm, DomainBatchNorm, GhostBatchNorm, _device

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]

X, DY = (np.random.default_rng(k).normal(2.0, 3.0, (4, 3)).astype(np.float32) for k in range(2))
MASK = np.array([True, True, False, True])


def values(x):
    return _device.to_host(x)


def close(layer, host):
    state, expected = layer.state_dict(), host.state_dict()
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("how", [{"momentum": "population"}, {"debias": True}, {"momentum": None}])
def test_every_policy_does_there_what_it_does_on_the_host(how):
    layer, host = BatchNorm(3, **how).to_device(), BatchNorm(3, **how)
    x = _device.to_device(X)
    for each, given in ((layer, x), (host, X)):
        each.forward(given, return_context=True)
        each.update_running_stats(given, mask=MASK)
    close(layer, host)
    y, expected = layer.freeze()(x), host.freeze()(X)
    np.testing.assert_allclose(values(y), expected, rtol=1e-5, atol=1e-5)
    dx = layer.backward(_device.to_device(DY))
    np.testing.assert_allclose(values(dx), host.backward(DY), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(layer.dgamma), host.dgamma, rtol=1e-5)
    layer.unfreeze().reset_running_stats()
    assert (values(layer.running_mean).tolist(), layer.num_values) == ([0.0] * 3, 0)


def test_renormalization_and_domains_do_there_what_they_do_on_the_host():
    x, dy = _device.to_device(X), _device.to_device(DY)
    layer, host = BatchRenorm(3, r_max=1.1, d_max=0.1).to_device(), BatchRenorm(3, r_max=1.1, d_max=0.1)
    np.testing.assert_allclose(values(layer(x)), host(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(layer.backward(dy)), host.backward(DY), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(layer.dgamma), host.dgamma, rtol=1e-5)
    close(layer, host)
    domains, expected = DomainBatchNorm(3, ["a", "b"]).to_device(), DomainBatchNorm(3, ["a", "b"])
    np.testing.assert_allclose(values(domains(x, domain="b")), expected(X, domain="b"), rtol=1e-5, atol=1e-5)
    domains.backward(dy)
    expected.backward(DY)
    assert domains.norms["a"].gamma is domains.norms["b"].gamma
    np.testing.assert_allclose(values(domains.dgamma), expected.dgamma, rtol=1e-5)
    close(domains.to_host(), expected)
    assert domains.norms["a"].gamma is domains.gamma


def test_several_channel_axes_and_ghost_batches_are_refused_there():
    x = _device.to_device(np.ones((4, 3, 2), np.float32))
    with pytest.raises(TypeError, match="channel_axis must be an int for x on a GPU"):
        BatchNorm(6, channel_axis=(1, 2)).to_device()(x)
    with pytest.raises(TypeError, match="ghost batches need x on the host"):
        GhostBatchNorm(3, 2).to_device()(x)
    with pytest.raises(TypeError, match="conditional batch normalization needs x on the host"):
        ConditionalBatchNorm(3).to_device()(x)
