"""The batch normalization layers of normdrop.torch do what PyTorch's do, and hold its state."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import functional  # noqa: E402

SHAPES = {"BatchNorm1d": (6, 5, 7), "BatchNorm2d": (6, 5, 3, 4), "BatchNorm3d": (6, 5, 2, 3, 2)}
NAMES = list(SHAPES)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.3, "eps": 1e-3},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"bias": False},
]
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}


def _pair(name: str, options: dict[str, Any], dtype: Any = None) -> tuple[Any, Any]:
    layer, peer = getattr(ours, name)(5, **options), getattr(torch.nn, name)(5, **options)
    generator = torch.Generator().manual_seed(8)
    for parameter in peer.parameters():
        parameter.data.normal_(1.0, 0.3, generator=generator)
    layer.load_state_dict(peer.state_dict())
    return layer.to(dtype or torch.float64), peer.to(dtype or torch.float64)


def _run(layer: Any, x: Any, dy: Any) -> list[Any]:
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(dy)
    results = [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()]
    return [None if r is None else r.clone() for r in results]


def _assert_close(got: list[Any], expected: list[Any], tolerance: float) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_gradients_and_running_statistics_are_those_of_pytorch_in_every_mode(
    name: str, options: dict[str, Any]
) -> None:
    layer, peer = _pair(name, options)
    for seed in range(3):
        torch.manual_seed(seed)
        x, dy = torch.randn(SHAPES[name]).double() * 2 + 3, torch.randn(SHAPES[name]).double()
        _assert_close(_run(layer, x, dy), _run(peer, x, dy), 1e-10)
    layer.eval(), peer.eval()
    _assert_close(_run(layer, x, dy), _run(peer, x, dy), 1e-10)
    assert repr(layer) == repr(peer)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_every_dtype_with_parameters_of_its_own_or_of_float32(dtype: str, mixed: bool) -> None:
    kind = getattr(torch, dtype)
    if mixed and dtype == "float64":
        pytest.skip("PyTorch refuses it")
    layer, peer = _pair("BatchNorm2d", {}, torch.float32 if mixed else kind)
    x, dy = torch.randn(SHAPES["BatchNorm2d"]).to(kind), torch.randn(SHAPES["BatchNorm2d"]).to(kind)
    for _ in range(2):
        _assert_close(_run(layer, x, dy), _run(peer, x, dy), TOLERANCE[dtype])
        layer.eval(), peer.eval()


def test_dtypes_that_pytorch_refuses_are_refused_as_there() -> None:
    layer, peer = _pair("BatchNorm1d", {}, torch.float64)
    x = torch.randn(6, 5)
    with pytest.raises(RuntimeError) as expected:
        peer(x)
    with pytest.raises(RuntimeError) as got:
        layer(x)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("kind", ["channels last", "transposed", "sliced", "(N, C)"])
def test_memory_formats_are_kept_and_values_are_those_of_pytorch(kind: str) -> None:
    base = torch.randn(6, 5, 4, 8).double()
    x = {
        "channels last": lambda: base.to(memory_format=torch.channels_last),
        "transposed": lambda: base.permute(3, 1, 0, 2),
        "sliced": lambda: base[:, :, ::2, 1:],
        "(N, C)": lambda: base[:, :, 0, 0],
    }[kind]()
    layer, peer = _pair("BatchNorm1d" if x.dim() == 2 else "BatchNorm2d", {})
    dy = torch.randn_like(x)
    got, expected = _run(layer, x, dy), _run(peer, x, dy)
    _assert_close(got, expected, 1e-10)
    assert [t.stride() for t in got[:2]] == [torch.empty_like(x).stride()] * 2


def test_state_goes_both_ways() -> None:
    layer, peer = _pair("BatchNorm2d", {})
    layer(torch.randn(SHAPES["BatchNorm2d"]).double())
    state = layer.state_dict()
    assert list(state) == list(peer.state_dict())
    peer.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), peer.state_dict().values(), strict=True))
    assert int(peer.num_batches_tracked) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "parameters", "all"])
def test_what_requires_no_gradient_gets_none_and_the_others_are_right(frozen: str, training: bool) -> None:
    results = []
    for layer in _pair("BatchNorm1d", {}):
        layer.train(training)
        x = (
            torch.randn(9, 5, generator=torch.Generator().manual_seed(2))
            .double()
            .requires_grad_(frozen not in ("x", "all"))
        )
        layer.weight.requires_grad_(frozen not in ("weight", "parameters", "all"))
        layer.bias.requires_grad_(frozen not in ("bias", "parameters", "all"))
        y = layer(x)
        assert y.requires_grad == (frozen != "all")
        if frozen != "all":
            y.square().sum().backward()
        results.append([x.grad, layer.weight.grad, layer.bias.grad])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_float32_statistics_are_exact_far_from_zero() -> None:
    x = 300 + 0.1 * torch.randn(100_000, 4)
    layer = ours.BatchNorm1d(4, momentum=1.0)
    layer(x)
    torch.testing.assert_close(layer.running_var.double(), x.double().var(0), rtol=1e-6, atol=0)


def test_no_grad_and_inference_mode_work_and_update_statistics() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        layer, peer = _pair("BatchNorm1d", {})
        x = torch.randn(9, 5).double()
        with mode():
            _assert_close([layer(x), *layer.buffers()], [peer(x), *peer.buffers()], 1e-10)


def test_one_value_per_channel_is_refused_as_there_and_changes_nothing() -> None:
    layer = ours.BatchNorm1d(5)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 5))
    assert int(layer.num_batches_tracked) == 0
    assert not layer.running_mean.any()
    assert layer.eval()(torch.randn(1, 5)).shape == (1, 5)


def test_a_wrong_shape_is_refused_as_there() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        ours.BatchNorm2d(5)(torch.randn(3, 5))
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        ours.BatchNorm2d(5)(torch.randn(3, 4, 2, 2))


def test_a_tensor_that_a_gradient_needs_and_that_was_changed_is_noticed() -> None:
    layer, x = ours.BatchNorm1d(5), torch.randn(9, 5)
    y = layer(x)
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_an_update_of_running_statistics_does_not_disturb_a_pending_backward_in_inference() -> None:
    layer, x = ours.BatchNorm1d(5), torch.randn(9, 5)
    y = layer.eval()(x)
    expected = torch.autograd.grad(y.square().sum(), layer.weight, retain_graph=True)[0]
    layer.train()(x)
    assert torch.equal(torch.autograd.grad(y.square().sum(), layer.weight)[0], expected)


def test_copies_and_pickles_are_layers_of_the_same_state() -> None:
    layer = ours.BatchNorm2d(5)
    x = torch.randn(SHAPES["BatchNorm2d"])
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.eval()(x), copy.deepcopy(layer).eval()(x))


def test_empty_batches_other_devices_and_eps_of_zero_go_to_pytorch() -> None:
    layer, peer = _pair("BatchNorm2d", {}, torch.float32)
    x = torch.zeros(0, 5, 3, 3)
    assert layer(x).shape == peer(x).shape
    assert layer.to("meta")(x.to("meta")).device.type == "meta"
    one = torch.ones(2, 3)
    y = functional.batch_norm(one, torch.zeros(3), torch.ones(3), eps=0.0)
    assert torch.equal(y, one)


def test_module_inputs_of_pytorchs_own_tests_give_the_same() -> None:
    common = pytest.importorskip("torch.testing._internal.common_modules")
    infos = [info for info in common.module_db if info.module_cls.__name__ in NAMES]
    assert len(infos) == len(NAMES)
    n_compared = 0
    for info in infos:
        kind = getattr(ours, info.module_cls.__name__)
        for training in (True, False):
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
            )
            for given in inputs:
                made = given.constructor_input
                peer = info.module_cls(*made.args, **made.kwargs).double().train(training)
                layer = kind(*made.args, **made.kwargs).double().train(training)
                layer.load_state_dict(peer.state_dict())
                (x,) = given.forward_input.args
                dy = torch.randn_like(x)
                _assert_close(_run(layer, x, dy), _run(peer, x, dy), 1e-9)
                n_compared += 1
    assert n_compared >= 2 * len(NAMES)
