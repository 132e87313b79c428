"""Layers of PyTorch as objects: the same output, the same training, and back as they were."""

from __future__ import annotations

import numpy as np
import pytest

import normdrop
from normdrop.convert import from_torch, to_torch

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.once, pytest.mark.same]

NORMS = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,), "SyncBatchNorm": (4,)}


def batch(ndim):
    return np.random.default_rng(1).normal(2, 3, [4, 3, *range(5, 3 + ndim)]).astype(np.float32)


def module(name="BatchNorm2d", **options):
    norm = getattr(torch.nn, name)(3, **options)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for values in norm.state_dict().values():
            if values.ndim:
                values.copy_(torch.from_numpy(rng.uniform(0.5, 2, 3)))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 7
    return norm


@pytest.mark.parametrize("options", [
    {"momentum": 0.01, "eps": 1e-3}, {"affine": False}, {"bias": False}, {"track_running_stats": False},
    {"affine": False, "track_running_stats": False}, {"dtype": "float64"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_pytorch_computes_and_trains_as_before_and_comes_back(name, options):
    if "dtype" in options:
        options = {"dtype": getattr(torch, options["dtype"])}
    for ndim in NORMS[name]:
        norm = module(name, **options).eval()
        layer = from_torch(norm)
        assert type(layer).__name__ == (name if name != "SyncBatchNorm" else "BatchNorm")
        assert not layer.training
        back = to_torch(layer, ndim=ndim)
        assert (back.eps, back.momentum, back.training) == (norm.eps, norm.momentum, False)
        assert repr(back) == repr(norm).replace("SyncBatchNorm", "BatchNorm2d")
        state, expected = back.state_dict(), norm.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
        assert all(state[key].dtype == expected[key].dtype for key in state)
        x = batch(ndim).astype(np.float64 if "dtype" in options else np.float32)
        assert np.allclose(layer(x), norm(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-5)
        layer.train()(x)
        norm = back.train()  # PyTorch trains a SyncBatchNorm on GPUs only
        norm(torch.from_numpy(x))
        if layer.track_running_stats:
            assert np.allclose(layer.running_mean, norm.running_mean.numpy(), rtol=1e-6)
            assert np.allclose(layer.running_var, norm.running_var.numpy(), rtol=1e-6)
            assert layer.num_batches == int(norm.num_batches_tracked) == 8


def test_nothing_is_shared_with_a_layer_of_pytorch():
    norm = module()
    layer = from_torch(norm)
    back = to_torch(layer)
    before = layer.state_dict()
    with torch.no_grad():
        for values in (*norm.state_dict().values(), *back.state_dict().values()):
            values += 1
    assert all(np.array_equal(before[name], values) for name, values in layer.state_dict().items())


def test_half_parameters_of_pytorch_become_float32_without_loss():
    for dtype in (torch.float16, torch.bfloat16):
        norm = module().to(dtype)
        layer = from_torch(norm)
        assert layer.dtype == np.float32
        assert np.array_equal(layer.gamma, norm.weight.detach().float().numpy())
        assert np.array_equal(layer.running_var, norm.running_var.float().numpy())


def test_a_state_of_tensors_is_taken_as_one_of_arrays():
    norm = module()
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), norm)
    layer = from_torch(model.state_dict(), prefix="1.")
    assert layer.state_dict().keys() == from_torch(norm).state_dict().keys()
    assert np.array_equal(layer.running_var, from_torch(norm).running_var)
    assert layer.num_batches == 7


def test_averages_of_all_values_go_on_where_batches_have_one_size():
    norm, x = torch.nn.BatchNorm1d(3, momentum=None), np.random.default_rng(0).normal(2, 3, (5, 10, 3))
    for values in x.astype(np.float32)[:4]:
        norm(torch.from_numpy(values))
    layer = from_torch(norm, n=10)
    assert (layer.momentum, layer.num_values) == (None, 40)
    layer(x[4].astype(np.float32))
    norm(torch.from_numpy(x[4].astype(np.float32)))
    assert np.allclose(layer.running_mean, norm.running_mean.numpy(), rtol=1e-5)
    assert to_torch(layer, ndim=2).momentum is None


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_dropout_of_pytorch_becomes_that_of_the_same_name_and_mode_and_back(name):
    layer = from_torch(getattr(torch.nn, name)(0.3).eval())
    assert (type(layer), layer.p, layer.training) == (getattr(normdrop, name), 0.3, False)
    back = to_torch(layer.train())
    assert (type(back), back.p, back.training) == (getattr(torch.nn, name), 0.3, True)
    if name != "Dropout":
        assert from_torch(back, channel_axis=-1).channel_axis == int(name[-2]) + 1


def test_other_layers_of_pytorch_are_refused_and_those_of_normdrop_taken():
    from normdrop.torch import BatchNorm2d

    assert type(from_torch(BatchNorm2d(3))) is normdrop.BatchNorm2d
    for other in (
        torch.nn.AlphaDropout(),
        torch.nn.InstanceNorm1d(3),
        torch.nn.LazyBatchNorm1d(),
        torch.nn.Linear(1, 1),
    ):
        with pytest.raises(TypeError, match="must be a layer of batch normalization or dropout of PyTorch"):
            from_torch(other)
    with pytest.raises(TypeError, match="eps must not be given"):
        from_torch(torch.nn.BatchNorm2d(3), eps=1e-3)
