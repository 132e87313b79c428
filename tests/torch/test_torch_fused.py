"""`FusedBatchNorm` and its function do what the layers one after the other do, in every mode of PyTorch."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop._activations import ACTIVATIONS

torch = pytest.importorskip("torch")

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import FusedBatchNorm, functional  # noqa: E402
from normdrop.torch._activations import activate  # noqa: E402

# PyTorch's own: in the first use of forward-mode gradients, for one.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

SHAPE = (6, 5, 4, 3)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"bias": False},
    {"momentum": 1.0, "eps": 1e-3},
]


def _normal(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _double(*shape: int, seed: int = 0) -> Any:
    return _normal(*shape, seed=seed).requires_grad_()


class _Steps(torch.nn.Module):
    """The same by layers one after the other."""

    def __init__(self, norm: Any, p: float) -> None:
        super().__init__()
        self.norm, self.drop = norm, ours.Dropout(p)

    def forward(self, x: Any, residual: Any = None) -> Any:
        y = self.norm(x)
        return self.drop(torch.relu(y if residual is None else y + residual))


def _results(layer: Any, x: Any, residual: Any, dy: Any) -> list[Any]:
    torch.manual_seed(3)
    leaves = [t.detach().clone(memory_format=torch.preserve_format) for t in (x, residual) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    y = layer(*leaves)
    y.backward(dy)
    found = [y.detach(), *(t.grad for t in leaves), *(t.grad for t in layer.parameters()), *layer.buffers()]
    state = torch.get_rng_state()
    return [*(t.clone() for t in found), state]


@pytest.mark.parametrize(
    ("dtype", "layout", "residual"),
    [
        ("float32", "planes", False),
        ("float32", "planes", True),
        ("float32", "channels last", True),
        ("float32", "rows", False),
        pytest.param("float16", "rows", False, marks=pytest.mark.once),
        pytest.param("bfloat16", "planes", True, marks=pytest.mark.once),
    ],
)
def test_bits_are_those_of_the_layers_one_after_the_other(dtype: str, layout: str, residual: bool) -> None:
    kind = getattr(torch, dtype)
    x, skip, dy = (_normal(*SHAPE, seed=seed, dtype=kind) for seed in range(3))
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "rows":
        x, skip, dy = (t[..., 0, 0].contiguous() for t in (x, skip, dy))
    peer = ours.BatchNorm1d(5) if layout == "rows" else ours.BatchNorm2d(5)
    torch.nn.init.normal_(peer.weight), torch.nn.init.normal_(peer.bias)
    layer = FusedBatchNorm(5, p=0.4)
    layer.load_state_dict(peer.state_dict())
    pair = layer.to(kind), _Steps(peer, 0.4).to(kind)
    for training in (True, False):
        got, expected = (_results(one.train(training), x, skip if residual else None, dy) for one in pair)
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert got[0].stride() == x.stride()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_and_modes_are_those_of_pytorchs_batch_norm(options: dict[str, Any]) -> None:
    layer, peer = FusedBatchNorm(5, p=0.5, **options), torch.nn.BatchNorm2d(5, **options)
    assert isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
    layer.p = 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        x, dy = torch.randn(SHAPE), torch.randn(SHAPE)
        if seed == 3:
            layer.eval(), peer.eval()
        got, expected = _results(layer, x, None, dy), _results(torch.nn.Sequential(peer, torch.nn.ReLU()), x, None, dy)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    state = layer.state_dict()
    assert list(state) == list(peer.state_dict())
    peer.load_state_dict(state)
    layer.load_state_dict(peer.state_dict())


def test_channels_are_dropped_along_shared_axes_by_the_mask_of_the_stream() -> None:
    x = torch.randn(SHAPE)
    y = ours.BatchNorm2d(5)(x).relu().detach().numpy()
    expected, _ = normdrop.functional.dropout(y, 0.5, shared_axes=(2, 3), rng=normdrop.MaskStream(7))
    layer = FusedBatchNorm(5, p=0.5, shared_axes=(2, 3), rng=7)
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_by_pytorch_are_those_of_the_kernels(name: str) -> None:
    known, parameter = ACTIVATIONS[name], ACTIVATIONS[name].parameter or 0.0
    u = torch.linspace(-8, 8, 1601, dtype=torch.float64).requires_grad_()
    y = activate(u, name, parameter)
    (slope,) = torch.autograd.grad(y.sum(), u)
    values = u.detach().numpy()
    np.testing.assert_allclose(y.detach(), known.value(values, parameter), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, known.derivative(values, parameter) + 0 * values, rtol=1e-9, atol=1e-12)


def _silu(x: Any, residual: Any, weight: Any, bias: Any, *, training: bool = True) -> Any:
    mean, var = torch.linspace(-1, 1, 3).double(), torch.linspace(0.5, 2, 3).double()
    given = (None, None) if training else (mean, var)
    return functional.batch_norm_act(
        x, *given, weight, bias, training, residual=residual, activation="silu", p=0.4, rng=normdrop.MaskStream(3)
    )


def _of_x_alone(x: Any) -> Any:
    return _silu(x, _normal(4, 3, 2, seed=5), None, None)


_INPUTS = (_double(4, 3, 2), _double(4, 3, 2, seed=5), _double(3, seed=1), _double(3, seed=2))
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "training": (_silu, _INPUTS),
    "inference": (lambda *inputs: _silu(*inputs, training=False), _INPUTS),
    "training of x alone": (_of_x_alone, _INPUTS[:1]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_gradients_and_their_gradients_are_the_derivatives_in_every_mode(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-6)


def test_a_graph_of_the_gradient_does_not_change_its_bits() -> None:
    inputs = [t.detach().float().requires_grad_() for t in _INPUTS]
    y = _silu(*inputs).pow(2).sum()
    plain = torch.autograd.grad(y, inputs, retain_graph=True)
    graph = torch.autograd.grad(y, inputs, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, graph, strict=True))


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_transforms_of_functions_give_what_autograd_gives(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    x, *others = (t.detach() for t in inputs)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(function(leaf, *others).pow(2).sum(), leaf)[0]
    got = torch.func.grad(lambda x: function(x, *others).pow(2).sum())(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: function(x, *others).pow(2).sum(), (x,), (direction,))
    torch.testing.assert_close(tangent, (expected * direction).sum(), rtol=1e-9, atol=1e-9)


OPERATORS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "batch_norm_act": lambda x, r, w, b, key: (x, r, w, b, key),
    "batch_norm_act_backward": lambda x, r, w, b, key: (x + 1, x, r, w, b, torch.ones(3, 3).double(), key),
}


@pytest.mark.parametrize("given", ["all", "none", "sliced"])
@pytest.mark.parametrize("name", list(OPERATORS))
def test_operators_are_registered_as_they_behave(name: str, given: str) -> None:
    x = torch.randn(8, 3, 5)[::2] if given == "sliced" else torch.randn(4, 3, 5)
    more = (torch.randn(4, 3, 5), torch.ones(3), torch.zeros(3), torch.tensor([123456789, 7]))
    arguments = OPERATORS[name](x, *((None,) * 4 if given == "none" else more))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(
            getattr(torch.ops.normdrop, name).default,
            (*arguments, "relu", 0.0, 0.5, [], 1e-5),
            test_utils=["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"],
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", ["input", "residual", "weight", "bias", "parameters", "all"])
def test_what_requires_no_gradient_gets_none_and_the_others_are_right(frozen: str, training: bool) -> None:
    results = []
    for layer in (FusedBatchNorm(5, p=0.4), _Steps(ours.BatchNorm2d(5), 0.4)):
        torch.manual_seed(0)
        norm = layer.train(training) if isinstance(layer, FusedBatchNorm) else layer.train(training).norm
        leaves = {"input": torch.randn(SHAPE), "residual": torch.randn(SHAPE), "weight": norm.weight, "bias": norm.bias}
        without = {"parameters": ("weight", "bias"), "all": tuple(leaves)}.get(frozen, (frozen,))
        for name, leaf in leaves.items():
            leaf.requires_grad_(name not in without)
        y = layer(leaves["input"], leaves["residual"])
        assert y.requires_grad == (frozen != "all")
        if frozen != "all":
            y.square().sum().backward()
        results.append([leaf.grad for leaf in leaves.values()])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_no_grad_and_inference_mode_work_and_update_statistics(mode: str) -> None:
    x, layer, peer = torch.randn(SHAPE), FusedBatchNorm(5), torch.nn.BatchNorm2d(5)
    with getattr(torch, mode)():
        for _ in range(2):
            torch.testing.assert_close(layer(x), peer(x).relu(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close([*layer.buffers()], [*peer.buffers()])
            layer.eval(), peer.eval()


def test_between_the_passes_nothing_of_the_size_of_a_batch_is_kept_but_the_inputs() -> None:
    kept: list[Any] = []
    layer, x, skip = FusedBatchNorm(5, p=0.5), torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x, skip)
    assert {t.data_ptr() for t in kept if t.numel() > 15} == {x.data_ptr(), skip.data_ptr()}


def test_what_the_kernels_do_not_take_is_computed_by_the_steps() -> None:
    layer, x = FusedBatchNorm(5, p=0.5), torch.randn(SHAPE)
    torch.manual_seed(0)
    one = layer(x, torch.ones(4, 3))  # a residual that is spread
    torch.manual_seed(0)
    assert torch.equal(one, layer(x, torch.ones(SHAPE)))
    assert layer.to("meta")(x.to("meta")).device.type == "meta"
    assert FusedBatchNorm(5, p=0.5, shared_axes=(2, 3), device="meta")(x.to("meta")).shape == SHAPE
    assert FusedBatchNorm(5)(torch.zeros(0, 5)).shape == (0, 5)


def test_arguments_are_refused_by_name_and_change_nothing() -> None:
    with pytest.raises(ValueError, match="activation must be"):
        FusedBatchNorm(5, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p must be the probability of dropping"):
        FusedBatchNorm(5, p=1.5)
    with pytest.raises(TypeError, match="shared_axes must be"):
        FusedBatchNorm(5, shared_axes="ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="generator and rng are both given"):
        FusedBatchNorm(5, generator=torch.Generator(), rng=1)
    layer = FusedBatchNorm(5, p=0.5, rng=1)
    with pytest.raises(ValueError, match="left to PyTorch"):
        layer.to("meta")(torch.randn(SHAPE, device="meta"))
    assert layer.stream.call == 0
    layer = FusedBatchNorm(5, p=0.5, shared_axes=4)
    with pytest.raises(ValueError, match="shared_axes must be an axis"):
        layer(torch.randn(SHAPE))
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("source", ["default", "generator", "stream"])
def test_a_pass_that_fails_leaves_statistics_and_source_as_they_were(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"generator": torch.Generator()} if source == "generator" else {"rng": 1} if source == "stream" else {}
    layer = FusedBatchNorm(5, p=0.5, **own)
    state = [t.clone() for t in layer.buffers()]
    x, default = torch.randn(SHAPE), layer.generator or torch.default_generator
    before = default.get_state()
    for wrong, error in ((torch.randn(1, 5, generator=torch.Generator()), "more than 1 value"), (x[0, 0, 0], "2D")):
        with pytest.raises(ValueError, match=error):
            layer(wrong)
    assert torch.equal(default.get_state(), before)
    with monkeypatch.context() as patch:
        patch.setattr(normdrop.functional, "batch_norm_act", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            layer(x)
    assert torch.equal(default.get_state(), before) or source == "default"
    assert layer.stream is None or layer.stream.call == 0
    assert all(torch.equal(a, b) for a, b in zip(state, layer.buffers(), strict=True))


def test_a_conversion_to_synchronized_layers_is_refused_because_it_would_lose_the_activation() -> None:
    model = torch.nn.Sequential(FusedBatchNorm(5))
    with pytest.raises(TypeError, match=r"0: FusedBatchNorm"):
        ours.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0]) is FusedBatchNorm


def test_options_changed_later_count_and_are_shown_and_copied() -> None:
    layer = FusedBatchNorm(5, p=0.5)
    layer.activation = ("leaky_relu", 0.2)
    assert repr(layer).endswith("activation=('leaky_relu', 0.2), p=0.5)")
    layer.p, layer.activation = 0.0, "relu"
    x = torch.randn(SHAPE)
    expected = ours.BatchNorm2d(5)(x).relu()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer):
        torch.testing.assert_close(twin(x), expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    layer, x, gradients = FusedBatchNorm(5, p=0.5), torch.randn(SHAPE, requires_grad=True), []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        x.grad = None
        torch.manual_seed(1)
        run(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
