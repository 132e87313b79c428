"""Gradients of any order, in every mode of PyTorch's autograd, compiled and exported, are right or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import normdrop

torch = pytest.importorskip("torch")

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import functional  # noqa: E402

# PyTorch's own: in the first use of forward-mode gradients, for one.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

KEY = torch.tensor([123456789, 7])


def _double(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def _drop(x: Any) -> Any:
    return functional.dropout(x, 0.4, rng=normdrop.MaskStream(3))


def _norm(x: Any, weight: Any, bias: Any) -> Any:
    return functional.batch_norm(x, None, None, weight, bias, training=True)


def _infer(x: Any, weight: Any, bias: Any) -> Any:
    mean, var = torch.linspace(-1, 1, 3).double(), torch.linspace(0.5, 2, 3).double()
    return functional.batch_norm(x, mean, var, weight, bias)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "dropout": (_drop, (_double(4, 5),)),
    "batch norm": (_norm, (_double(4, 3, 2), _double(3, seed=1), _double(3, seed=2))),
    "batch norm of x alone": (lambda x: _norm(x, None, None), (_double(4, 3, 2),)),
    "inference": (_infer, (_double(4, 3, 2), _double(3, seed=1), _double(3, seed=2))),
    "inference of x alone": (lambda x: _infer(x, None, None), (_double(4, 3, 2),)),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_gradients_and_their_gradients_are_the_derivatives_in_every_mode(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    assert torch.autograd.gradcheck(
        function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=name != "dropout"
    )
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-6)


def _by_elementary_functions(x: Any, *_: Any, training: bool) -> Any:
    deviation = x - x.mean(0)
    return deviation / torch.sqrt(deviation.square().mean(0) + 1e-5)


def test_gradients_of_penalties_on_gradients_are_right_to_the_third_order() -> None:
    """PyTorch's own batch norm is the same to the second."""
    results = []
    for function in (functional.batch_norm, _by_elementary_functions):
        x, found = _double(4, 3), []
        value = function(x, None, None, training=True).pow(3).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.pow(2).sum()
            found.append(gradient)
        results.append(found)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_a_graph_of_the_gradient_does_not_change_its_bits() -> None:
    x, weight, bias = (t.detach().float().requires_grad_() for t in FUNCTIONS["batch norm"][1])
    y = _norm(x, weight, bias).pow(2).sum()
    plain = torch.autograd.grad(y, [x, weight, bias], retain_graph=True)
    graph = torch.autograd.grad(y, [x, weight, bias], create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, graph, strict=True))


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_transforms_of_functions_give_what_autograd_gives(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    inputs = tuple(t.detach() for t in inputs)
    x = inputs[0].clone().requires_grad_()
    expected = torch.autograd.grad(function(x, *inputs[1:]).pow(2).sum(), x)[0]
    got = torch.func.grad(lambda x: function(x, *inputs[1:]).pow(2).sum())(inputs[0])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: function(x, *inputs[1:]).pow(2).sum(), (inputs[0],), (direction,))
    assert abs(float(tangent)) > 0
    torch.testing.assert_close(tangent, (expected * direction).sum(), rtol=1e-9, atol=1e-9)
    rows = torch.func.jacrev(lambda x: function(x, *inputs[1:]))(inputs[0])
    columns = torch.func.jacfwd(lambda x: function(x, *inputs[1:]))(inputs[0])
    torch.testing.assert_close(rows, columns, rtol=1e-9, atol=1e-9)


def test_a_forward_mode_gradient_of_dropout_without_a_stream_is_that_of_its_mask() -> None:
    x, tangent = torch.ones(50), torch.randn(50)
    y, dy = torch.func.jvp(lambda x: functional.dropout(x, 0.5), (x,), (tangent,))
    torch.testing.assert_close(dy, y * tangent)


def test_vmap_draws_one_mask_or_one_for_each_example_or_asks_which() -> None:
    x, drop = torch.ones(6, 100), lambda x: functional.dropout(x, 0.5)
    same = torch.vmap(drop, randomness="same")(x)
    assert bool((same == same[0]).all())
    different = torch.vmap(drop, randomness="different")(x)
    assert len({tuple(row.tolist()) for row in different}) == 6
    assert set(different.unique().tolist()) == {0.0, 2.0}
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(drop)(x)


def test_gradients_of_each_example_use_its_own_mask() -> None:
    x = torch.ones(4, 100)
    pair = torch.func.vjp(torch.vmap(lambda x: functional.dropout(x, 0.5), randomness="different"), x)
    torch.testing.assert_close(pair[1](torch.ones(4, 100))[0], pair[0])


def test_vmap_of_batch_norm_normalizes_each_example_of_its_own() -> None:
    x = torch.randn(4, 6, 3)
    norm = lambda x: functional.batch_norm(x, None, None, training=True)  # noqa: E731
    torch.testing.assert_close(torch.vmap(norm)(x), torch.stack([norm(one) for one in x]))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), ours.BatchNorm1d(32), torch.nn.ReLU(), ours.Dropout(0.5))
    x, gradients = torch.randn(16, 8, requires_grad=True), []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=use_reentrant)):
        torch.manual_seed(1)
        y = run(x)
        gradients.append(torch.autograd.grad(y.square().sum(), x) if run is model else None)
        if run is not model:
            x.grad = None
            y.square().sum().backward()
            gradients[-1] = (x.grad,)
    assert torch.equal(gradients[0][0], gradients[1][0])


OPERATORS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "draw_key": lambda: (torch.ones(3),),
    "dropout": lambda: (torch.randn(4, 6, 3, 2), KEY, 0.5, [2, 3]),
    "keep_mask": lambda: (KEY, [4, 6], 0.5),
    "batch_norm": lambda: (torch.randn(4, 3, 5), torch.ones(3), torch.zeros(3), 1e-5),
    "update_running": lambda: (torch.zeros(3), torch.ones(3), torch.ones(3, 3).double(), 0.1, 8),
    "batch_norm_backward": lambda: (
        torch.randn(4, 3),
        torch.randn(4, 3),
        torch.ones(3),
        torch.ones(3, 3).double(),
        1e-5,
    ),
}


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("name", list(OPERATORS))
def test_operators_are_registered_as_they_behave(name: str, sliced: bool) -> None:
    arguments = OPERATORS[name]()
    if sliced and isinstance(arguments[0], torch.Tensor) and arguments[0].dim() > 1:
        arguments = (torch.randn(8, *arguments[0].shape[1:])[::2], *arguments[1:])
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if name == "draw_key":
        tests = tests[:3]  # two draws differ
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(getattr(torch.ops.normdrop, name).default, arguments, test_utils=tests)


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), ours.BatchNorm2d(8), ours.Dropout(0.5), ours.Dropout2d(0.5), ours.Dropout(0.3)
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_and_eager_give_the_same_masks_outputs_gradients_and_statistics() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x, results = _Net(), torch.randn(4, 3, 8, 8), []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(5)
        for _ in range(2):
            y = run(x)
            y.square().sum().backward()
        results.append(
            [y.detach(), *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]
        )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    model.eval()
    torch.testing.assert_close(run(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_masks_differ_within_a_graph_and_from_call_to_call_and_survive_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    torch._dynamo.reset()

    def block(x: Any) -> Any:
        return functional.dropout(x, 0.5) + 10 * functional.dropout(x, 0.5)

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.ones(1000)
    y = compiled(x)
    assert y.unique().tolist() == [0.0, 2.0, 20.0, 22.0]
    assert not torch.equal(compiled(x), y)
    leaf = torch.ones(1000, requires_grad=True)
    again = torch.compile(lambda x: checkpoint(block, x, use_reentrant=False), backend="aot_eager", fullgraph=True)
    y = again(leaf)
    y.sum().backward()
    assert torch.equal(leaf.grad, y.detach())


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_compiled_transform_of_a_function_gives_what_the_eager_one_gives(name: str) -> None:
    torch._dynamo.reset()
    function, inputs = FUNCTIONS[name]
    x, others = inputs[0].detach(), [t.detach() for t in inputs[1:]]
    if name == "dropout":  # a stream would break the graph
        function = lambda x: functional.dropout(x, 0.4)  # noqa: E731
    gradient = torch.func.grad(lambda x: function(x, *others).pow(3).sum())
    torch.manual_seed(2)
    expected = gradient(x)
    assert expected.any()
    torch.manual_seed(2)
    torch.testing.assert_close(torch.compile(gradient, backend="aot_eager", fullgraph=True)(x), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_with_a_stream_the_mask_is_that_of_the_stream() -> None:
    torch._dynamo.reset()
    layer = ours.Dropout(0.5, rng=normdrop.MaskStream(4))
    compiled = torch.compile(torch.nn.Sequential(torch.nn.Identity(), layer), backend="aot_eager")
    stream, x = normdrop.MaskStream(4), torch.ones(200)
    for _ in range(2):
        expected, _ = normdrop.functional.dropout(x.numpy(), 0.5, rng=stream)
        np.testing.assert_array_equal(compiled(x).numpy(), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_exported_programs_do_the_same_and_for_inference_need_no_operator_of_ours(training: bool) -> None:
    torch.manual_seed(0)
    model, x = _Net().train(training), torch.randn(4, 3, 8, 8)
    program = torch.export.export(model, (x,))
    assert ("normdrop" in str(program.graph)) == training
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_draws_a_new_mask_each_time() -> None:
    with torch.no_grad():
        traced = torch.jit.trace(ours.Dropout(0.5), torch.ones(100), check_trace=False)
        assert not torch.equal(traced(torch.ones(100)), traced(torch.ones(100)))
        assert set(traced(3 * torch.ones(100)).unique().tolist()) == {0.0, 6.0}


def test_autocast_keeps_bfloat16() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), ours.BatchNorm1d(8), ours.Dropout(0.5))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(16, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert model[0].weight.grad.dtype == torch.float32
