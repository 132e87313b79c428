"""Training steps on the command line: both sides take the same steps, and tables and files hold what was measured."""

from __future__ import annotations

import dataclasses
import json

import pytest

from normdrop import __main__

torch = pytest.importorskip("torch")

import normdrop.torch  # noqa: E402  # it needs PyTorch
from normdrop.bench import networks, training  # noqa: E402

pytestmark = pytest.mark.once


@pytest.mark.jit
@pytest.mark.slow
def test_the_command_times_steps_in_this_process_and_in_a_passive_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "QUICK", dataclasses.replace(training.QUICK, rounds=2, seconds=0.0001))
    command = ["bench", "--training", "--quick", "--only", "perceptron", "--json", "--output", str(tmp_path / "new")]
    assert __main__.main(command) == 0
    seconds = json.loads(capsys.readouterr().out)["seconds"]
    assert list(seconds) == ["default", "passive"]
    for measured in seconds.values():
        ((name, sides),) = measured.items()
        assert name.startswith("perceptron")
        assert list(sides) == ["PyTorch", "normdrop", "without"]
        assert all(len(times) == 2 and min(times) > 0 for times in sides.values())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["training.json", "training.md"]
    assert "| perceptron" in (tmp_path / "new" / "training.md").read_text(encoding="utf-8")


@pytest.mark.jit
@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_all_sides_of_every_network_take_steps_and_one_is_accelerated_and_one_is_without(monkeypatch, name):
    reports, accelerate = [], normdrop.torch.accelerate
    monkeypatch.setattr(normdrop.torch, "accelerate", lambda model: reports.append(accelerate(model)))
    for step in training._sides(name).values():
        step()
    assert [report.n_swapped > 0 for report in reports] == [True]
    bare, _ = networks.NETWORKS[name]()
    training._leave_out(bare)
    assert accelerate(bare).rows == ()


def test_a_speed_up_is_the_median_of_the_ratios_within_a_round_with_its_quartiles(monkeypatch):
    rounds = {"PyTorch": [0.02, 0.03, 0.08], "normdrop": [0.01, 0.02, 0.02], "without": [0.01, 0.01, 0.01]}
    passive = {"PyTorch": [0.01] * 3, "normdrop": [0.01] * 3, "without": [0.01] * 3}
    *_, row = training._table({"default": {"a network": rounds}, "passive": {"a network": passive}})
    assert row == "| a network | 30.00 | 20.00 | 2.00 (1.75 to 3.00) | 3.00 | 1.00 (1.00 to 1.00) |"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "nothing"], "no network has 'nothing' in its name; there are: perceptron"),
        (["--peers", "jax"], "leave out --device and --peers"),
        (["--device", "cuda"], "leave out --device and --peers"),
    ],
)
def test_what_does_not_fit_is_one_line(capsys, options, words):
    assert __main__.main(["bench", "--training", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_without_pytorch_the_error_names_the_extra(capsys, monkeypatch):
    find = __main__.importlib.util.find_spec
    monkeypatch.setattr(__main__.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    assert __main__.main(["bench", "--training"]) == 2
    assert "normdrop[torch]" in capsys.readouterr().err
