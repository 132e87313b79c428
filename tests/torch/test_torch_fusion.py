"""`accelerate` fuses what follows batch normalization in a sequence, and nobody sees it but in the time."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.bench import networks  # noqa: E402
from normdrop.torch import _sequential, accelerate, restore  # noqa: E402
from normdrop.torch._activations import activate, activation_of  # noqa: E402

ACTIVATIONS = [
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.3),
    nn.ReLU6(),
    nn.Hardswish(),
    nn.Hardtanh(),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.ELU(0.7),
    nn.SELU(),
]


@pytest.fixture(autouse=True)
def _fuse_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sequential, "SMALLEST", {"planes": 0, "rows": 0})


def _block(*tail: Any, dim: int = 1) -> Any:
    torch.manual_seed(0)
    norm = getattr(nn, f"BatchNorm{dim}d")(6)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return nn.Sequential(norm, *tail)


def _pair(model: Any) -> tuple[Any, Any]:
    """Return the model fused and its twin that is not."""
    twin = copy.deepcopy(model)
    accelerate(model), accelerate(twin, fuse=False)
    return model, twin


def _results(model: Any, x: Any) -> list[Any]:
    torch.manual_seed(7)
    x = x.detach().requires_grad_()
    y = model(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    found = [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers(), torch.get_rng_state()]
    return [t.clone() for t in found]


def _assert_same_bits(model: Any, twin: Any, x: Any) -> None:
    for one, other in zip(_results(model, x), _results(twin, x), strict=True):
        assert torch.equal(one, other)


def _passes(model: Any, x: Any) -> list[str]:
    """Return the names of the passes that compute a copy of a model, the last one first."""
    node, names = copy.deepcopy(model)(x.detach().requires_grad_()).grad_fn, []
    while node is not None and "AccumulateGrad" not in node.name():
        names.append(node.name().strip("_").partition("Backward")[0])
        node = node.next_functions[0][0]
    return names


@pytest.mark.parametrize("tail", [("ReLU",), ("ReLU", "Dropout"), ("Dropout",), ("Identity", "Dropout")], ids=str)
def test_fused_and_not_fused_have_the_same_bits_masks_gradients_and_statistics(tail: tuple[str, ...]) -> None:
    model, twin = _pair(_block(*(getattr(nn, name)() for name in tail)))
    x = torch.randn(9, 6)
    assert _passes(model, x) == ["BatchNormAct"]
    for training in (True, True, False):
        _assert_same_bits(model.train(training), twin.train(training), x)


@pytest.mark.parametrize(
    ("drop", "shape"),
    [("Dropout1d", (9, 6)), ("Dropout1d", (9, 6, 4)), ("Dropout2d", (9, 6, 4, 3)), ("Dropout3d", (3, 6, 2, 2, 2))],
)
def test_whole_channels_are_dropped_in_the_same_pass(drop: str, shape: tuple[int, ...]) -> None:
    dim = {2: 1, 3: 1, 4: 2, 5: 3}[len(shape)]
    model, twin = _pair(_block(nn.ReLU(), getattr(nn, drop)(), dim=dim))
    x = torch.randn(shape)
    assert _passes(model, x) == ["BatchNormAct"]
    _assert_same_bits(model, twin, x)


@pytest.mark.filterwarnings("ignore:dropout2d")
def test_dropout_of_another_rank_is_left_to_pytorch() -> None:
    model, twin = _pair(_block(nn.ReLU(), nn.Dropout2d()))
    _assert_same_bits(model, twin, torch.randn(9, 6, 4))


@pytest.mark.parametrize("module", ACTIVATIONS, ids=repr)
def test_an_activation_is_known_by_what_its_module_computes(module: Any) -> None:
    u, known = torch.linspace(-8, 8, 200, dtype=torch.float64), activation_of(module)
    assert known is not None
    torch.testing.assert_close(activate(u, *known), module(u.clone()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "module", [nn.Hardtanh(0, 2), nn.SiLU(), nn.CELU(), nn.PReLU(), nn.Softmax(1), nn.LeakyReLU(torch.tensor(0.1))]
)
def test_activations_that_kernels_have_not_or_not_faster_are_not_fused(module: Any) -> None:
    model, twin = _pair(_block(module))
    x = torch.randn(9, 6)
    assert "BatchNormAct" not in _passes(model, x)
    _assert_same_bits(model, twin, x)


def test_in_channels_last_memory_dropout_of_elements_is_a_pass_of_its_own() -> None:
    model, twin = _pair(_block(nn.ReLU(), nn.Dropout(0.2), dim=2))
    x = torch.randn(5, 6, 4, 3).to(memory_format=torch.channels_last)
    assert _passes(model, x) == ["Dropout", "BatchNormAct"]
    assert model(x).stride() == x.stride() == twin(x).stride()
    _assert_same_bits(model, twin, x)


def test_batches_that_stay_in_a_cache_are_left_to_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = _pair(_block(nn.ReLU(), nn.Dropout(0.5)))
    monkeypatch.setattr(_sequential, "SMALLEST", {"planes": 0, "rows": 8 * 6 * 4})
    assert _passes(model, torch.randn(7, 6)) == ["Dropout", "Relu", "BatchNorm"]
    assert _passes(model, torch.randn(8, 6)) == ["BatchNormAct"]
    images, _ = _pair(_block(nn.ReLU(), nn.Dropout(0.5), dim=2))
    monkeypatch.setattr(_sequential, "SMALLEST", {"planes": 5 * 6 * 12 * 4, "rows": 1 << 40})
    assert _passes(images, torch.randn(4, 6, 4, 3)) == ["Dropout", "Relu", "BatchNorm"]
    assert _passes(images, torch.randn(5, 6, 4, 3)) == ["BatchNormAct"]


def test_modes_of_each_layer_and_p_changed_later_count() -> None:
    """Among them dropout in training after batch normalization in inference, as for estimates of uncertainty."""
    model, twin = _pair(_block(nn.ReLU(), nn.Dropout(0.5)))
    x = torch.randn(9, 6)

    def check(change: Any, passes: list[str]) -> None:
        change(model), change(twin)
        assert _passes(model, x) == passes
        _assert_same_bits(model, twin, x)

    check(lambda m: m[2].eval(), ["BatchNormAct"])
    check(lambda m: m.train()[0].eval(), ["Dropout", "Inference"])
    check(lambda m: m.eval(), ["Inference"])
    check(lambda m: setattr(m.train()[2], "p", 0.0), ["BatchNormAct"])
    check(lambda m: setattr(m[2], "p", 0.9), ["BatchNormAct"])
    check(lambda m: setattr(m[2], "p", 1.0), ["BatchNormAct"])
    check(lambda m: setattr(m[0], "track_running_stats", False), ["BatchNormAct"])
    model[2].p = 1.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        model(x)


def test_sources_of_masks_of_the_layers_own_are_used() -> None:
    results = []
    for fuse in (True, False):
        streams = [{"rng": 3}, {"generator": torch.Generator().manual_seed(4)}]
        model = nn.Sequential(*(_block(nn.ReLU(), ours.Dropout(0.5, **given)) for given in streams))
        accelerate(model, fuse=fuse)
        before = torch.get_rng_state()
        results.append([])
        for p in (0.5, 0.0, 0.5):  # a stream moves on with p=0, too
            model[0][2].p = p
            results[-1].append(model(torch.ones(4, 6) + torch.eye(4, 6)))
        assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_with_hooks_is_called_by_itself_as_long_as_it_has_them(index: int, kind: str) -> None:
    model, calls = _block(nn.ReLU(), nn.Dropout(0.5)), []
    hook = getattr(model[index], f"register_{kind}_hook")(lambda *_: calls.append(1))
    model, twin = _pair(model)
    calls.clear()
    x = torch.randn(9, 6)
    _assert_same_bits(model, twin, x)
    assert calls == [1, 1]
    hook.remove()
    assert _passes(model, x) == ["BatchNormAct"]


def test_the_report_says_what_is_fused_and_what_is_not_and_why() -> None:
    watched, own = _block(nn.ReLU()), nn.ReLU()
    watched[0].register_forward_hook(lambda *_: None)
    own.forward = torch.relu
    model = nn.ModuleDict(
        {
            "whole": _block(nn.ReLU(), nn.Dropout(0.5)),
            "watched": watched,
            "own": _block(own, nn.Dropout()),
            "late": _block(nn.ReLU(), nn.Dropout(0.5)),
            "alone": nn.BatchNorm1d(6),
            "curved": _block(nn.SiLU(), nn.Dropout()),
            "apart": _block(nn.Linear(6, 6), nn.ReLU()),
            "loose": nn.ModuleList([nn.BatchNorm1d(6), nn.ReLU()]),
        }
    )
    model["late"][2].register_forward_hook(lambda *_: None)
    report = accelerate(model)
    assert {
        row.name: row.outcome.removeprefix("normdrop.torch.BatchNorm1d") for row in report.rows if "Batch" in row.layer
    } == {
        "whole.0": ", fused with 1, 2",
        "watched.0": ", not fused: 0 has hooks or a forward of its own",
        "own.0": ", not fused: 1 has hooks or a forward of its own",
        "late.0": ", fused with 1; not with 2: it has hooks or a forward of its own",
        "alone": "",
        "curved.0": ", not fused with 1: SiLU is faster by itself",
        "apart.0": "",
        "loose.0": "",
    }
    assert report.n_fused == 2
    again = accelerate(model)
    assert (again.n_swapped, again.n_fused) == (0, 2)
    assert accelerate(_block(nn.ReLU()), fuse=False).n_fused == 0


@pytest.mark.parametrize(("words", "n"), [("four blocks", 4), ("residual network", 4), ("perceptron", 0)])
def test_networks_of_the_benchmark_are_fused_where_batch_normalization_is_in_a_sequence(words: str, n: int) -> None:
    (make,) = (make for name, make in networks.NETWORKS.items() if name.startswith(words))
    assert accelerate(make()[0]).n_fused == n


def test_hooks_on_all_modules_see_every_layer() -> None:
    model, seen = _block(nn.ReLU(), nn.Dropout(0.5)), []
    accelerate(model)
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    model(torch.randn(9, 6))
    hook.remove()
    assert seen == ["BatchNorm1d", "ReLU", "Dropout", "Sequential"]


def test_layers_are_the_same_alone_by_index_in_slices_shared_and_after_changes_of_the_sequence() -> None:
    model, twin = _pair(_block(nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 6)))
    text, keys, x = repr(twin), list(twin.state_dict()), torch.randn(9, 6)
    assert (repr(model), list(model.state_dict()), len(model)) == (text, keys, 4)
    for part in (lambda m: m[0], lambda m: m[:2], lambda m: m[1:], lambda m: nn.Sequential(m[0], m[1], m[0], m[1])):
        _assert_same_bits(part(model), part(twin), x)
    torch.testing.assert_close(model[1](x), x.relu())
    for one in (model, twin):
        one.insert(1, nn.Linear(6, 6, bias=False))
        nn.init.ones_(one[1].weight)
        one.append(nn.BatchNorm1d(6)), one.append(one[2])
    assert accelerate(twin, fuse=False).n_swapped == 1
    assert accelerate(model).n_fused == 1
    _assert_same_bits(model, twin, x)


def test_parameters_stay_the_same_objects_and_restore_gives_back_what_was() -> None:
    model = nn.Sequential(nn.Linear(6, 6), _block(nn.ReLU(), nn.Dropout(0.5)))
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    parameters = list(model.parameters())
    assert accelerate(model).n_fused == 1
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert isinstance(model[1], nn.Sequential)
    assert type(model) is nn.Sequential  # nothing to fuse in it
    assert restore(model).n_swapped == 2
    after = [(type(module), dict(vars(module))) for module in model.modules()]
    assert before == after


class _Named(nn.Sequential):
    """As torchvision has them: other arguments, the same way forward."""

    def __init__(self, n: int) -> None:
        super().__init__(nn.BatchNorm1d(n), nn.ReLU(), nn.Dropout(0.5))


class _Other(nn.Sequential):
    def forward(self, input: Any) -> Any:  # noqa: A002
        return 2 * super().forward(input)


def test_subclasses_are_fused_if_their_way_forward_is_pytorchs() -> None:
    model = nn.ModuleList([_Named(6), _Other(nn.BatchNorm1d(6), nn.ReLU())])
    assert accelerate(model).n_fused == 1
    assert _passes(model[0], torch.randn(9, 6)) == ["BatchNormAct"]
    assert isinstance(model[0], _Named)
    assert type(model[0]).__name__ == "_Named"
    assert type(model[1]) is _Other
    restore(model)
    assert type(model[0]) is _Named


@pytest.mark.parametrize("way", ["deepcopy", "copy", "pickle", "torch.save"])
def test_copies_and_pickles_fuse_and_share_nothing(way: str) -> None:
    model = nn.Sequential(_Named(6), _block(nn.ReLU()))
    accelerate(model)
    file = io.BytesIO()
    if way == "torch.save":
        torch.save(model, file)
        file.seek(0)
    twin = {
        "deepcopy": lambda: copy.deepcopy(model),
        "copy": lambda: copy.copy(model),
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
        "torch.save": lambda: torch.load(file, weights_only=False),
    }[way]()
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    x = torch.randn(9, 6)
    assert _passes(twin[0], x) == ["BatchNormAct"]
    _assert_same_bits(model if way != "copy" else copy.deepcopy(model), twin, x)
    assert (twin[0][0] is model[0][0]) == (way == "copy")
    restore(twin[0])
    assert type(twin[0]) is _Named


def test_what_is_no_tensor_of_ours_goes_from_layer_to_layer() -> None:
    model = _block(nn.ReLU(), nn.Dropout(0.5)).to("meta")
    accelerate(model)
    model = model[:1].append(nn.ReLU())
    assert model(torch.randn(9, 6, device="meta")).device.type == "meta"
    assert accelerate(nn.Sequential()).rows == ()
    model, twin = _pair(_block(nn.ReLU()))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        model(torch.randn(2, 6, 3, 3))
    empty = torch.zeros(0, 6)
    assert model(empty).shape == twin(empty).shape


def test_transforms_of_functions_see_through() -> None:
    model, twin = _pair(_block(nn.ReLU(), nn.Dropout(0.0)).double())
    x = torch.randn(9, 6).double()
    found = [torch.func.jacrev(one.eval())(x) for one in (model, twin)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model, twin = _pair(_block(nn.ReLU(), nn.Dropout(0.5)))
    x, gradients = torch.randn(9, 6, requires_grad=True), []
    for run in (twin, lambda x: checkpoint(model, x, use_reentrant=use_reentrant)):
        x.grad = None
        torch.manual_seed(1)
        run(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), ours.FusedBatchNorm(6, p=0.5)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x), x)


def _net() -> Any:
    return nn.Sequential(nn.Conv2d(3, 6, 3), _block(nn.ReLU(), nn.Dropout(0.5), dim=2), _Residual())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.once
def test_compiled_and_eager_give_the_same_and_the_fused_operator_is_in_the_graph() -> None:
    torch._dynamo.reset()
    model, x, results, graphs = _net(), torch.randn(4, 3, 8, 8), [], []
    accelerate(model)

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(str(graph.graph))
        return graph.forward

    from torch._dynamo.backends.common import aot_autograd

    state = {name: value.clone() for name, value in model.state_dict().items()}
    for run in (model, torch.compile(model, backend=aot_autograd(fw_compiler=backend), fullgraph=True)):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(5)
        for _ in range(2):
            y = run(x)
            y.square().sum().backward()
        results.append([y, *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    assert graphs[0].count("normdrop.batch_norm_act.default") == 2
    model.eval()
    torch.testing.assert_close(run(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("training", [True, False])
def test_exported_programs_do_the_same_and_for_inference_need_no_operator_of_ours(training: bool) -> None:
    model, x = _net(), torch.randn(4, 3, 8, 8)
    accelerate(model)
    program = torch.export.export(model.train(training), (x,))
    assert ("normdrop.batch_norm_act" in str(program.graph)) == training
    assert ("normdrop" in str(program.graph)) == training
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(program.module()(x), expected)


def test_the_loss_curve_is_that_of_the_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    x, labels, curves = torch.randn(40, 6), torch.randint(3, (40,)), []
    model = nn.Sequential(_block(nn.ReLU(), nn.Dropout(0.3)), nn.Linear(6, 6), _block(nn.Dropout(0.1)), nn.Linear(6, 3))
    for one in _pair(model):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.2, momentum=0.9)
        torch.manual_seed(1)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(one(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]
