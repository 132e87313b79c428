"""`accelerate` swaps the layers of a model in place and `restore` swaps them back."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import accelerate, restore  # noqa: E402


class _Own(nn.BatchNorm1d):
    pass


def _model() -> Any:
    torch.manual_seed(0)
    shared = nn.Dropout(0.2)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), shared, nn.Sequential(shared, nn.Linear(8, 3)))


ALL = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


@pytest.mark.parametrize("name", ALL)
def test_every_layer_is_swapped_for_the_one_of_its_name_and_back(name: str) -> None:
    layer = getattr(nn, name)(3) if name.startswith("Batch") else getattr(nn, name)(0.3, True)
    twin, text = copy.deepcopy(layer), repr(layer)
    assert accelerate(layer).n_swapped == 1
    assert type(layer) is getattr(ours, name)
    assert repr(layer) == text
    assert vars(layer).keys() == vars(twin).keys()
    assert accelerate(layer).n_swapped == 0
    assert restore(layer).n_swapped == 1
    assert type(layer) is getattr(nn, name)


def test_parameters_buffers_hooks_modes_and_shared_layers_stay_what_they_are() -> None:
    model, calls = _model(), []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    model[2].eval()
    before = [*model.parameters(), *model.buffers()]
    modes = [layer.training for layer in model.modules()]
    report = accelerate(model)
    assert report.n_swapped == 2
    assert all(a is b for a, b in zip(before, [*model.parameters(), *model.buffers()], strict=True))
    assert [layer.training for layer in model.modules()] == modes
    assert model[3][0] is model[2]
    model(torch.randn(4, 6))
    assert calls == [1]


def test_an_optimizer_made_before_goes_on_and_training_ends_at_the_same_parameters() -> None:
    x, ends = torch.randn(16, 6), []
    for swap in (False, True):
        model = _model()
        model[2].p = 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(6):
            if swap and step == 2:
                accelerate(model)
            if swap and step == 4:
                restore(model)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        ends.append([*model.parameters(), *model.buffers()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_report_is_a_table_of_what_was_swapped_and_what_was_left_and_why() -> None:
    model = nn.ModuleDict(
        {
            "norm": nn.BatchNorm1d(3),
            "own": _Own(3),
            "alpha": nn.AlphaDropout(),
            "attention": nn.MultiheadAttention(4, 2, dropout=0.1),
            "elsewhere": nn.BatchNorm1d(3, device="meta"),
            "linear": nn.Linear(2, 2),
        }
    )
    lines = str(accelerate(model)).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["layer", "was", "is"],
        ["norm", "BatchNorm1d", "normdrop.torch.BatchNorm1d"],
    ]
    assert [line.partition("left: ")[::2] for line in lines[2:]] == [
        ("own        _Own                ", "not exactly a class that normdrop has"),
        ("alpha      AlphaDropout        ", "not exactly a class that normdrop has"),
        ("attention  MultiheadAttention  ", "its dropout (p=0.1) is within PyTorch's own operator"),
        ("elsewhere  BatchNorm1d         ", "it is on meta"),
    ]
    assert str(accelerate(nn.Linear(2, 2))) == "no layers of dropout or batch normalization"


def test_restore_leaves_layers_that_have_a_source_of_masks_of_their_own() -> None:
    model = nn.Sequential(ours.Dropout(0.5, rng=1), ours.Dropout(0.5, generator=torch.Generator()), ours.Dropout(0.5))
    report = restore(model)
    assert [row.swapped for row in report.rows] == [False, False, True]
    assert "generator or stream of its own" in str(report)


def test_what_is_no_module_is_refused() -> None:
    for function in (accelerate, restore):
        with pytest.raises(TypeError, match=r"torch\.nn\.Module; got list"):
            function([nn.Dropout()])


def test_a_transformer_encoder_runs_and_learns() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    assert accelerate(layer).n_swapped == 3
    x = torch.randn(2, 5, 8)
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert torch.equal(layer.eval()(x), layer(x))
