"""What fails in `mc_predict`, or does not fit it, changes nothing and is told; what else it takes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _progress, mc_predict

from ..thinned import Net, X, state

pytestmark = pytest.mark.same


def test_what_fails_leaves_modes_streams_and_passes_as_they_were() -> None:
    net, stream = Net(), MaskStream(9)
    before = state(net)
    left = 3

    def fail(x: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("the function's own")
        return net(x)

    for rng in (None, 5, stream):
        left = 3
        with pytest.raises(RuntimeError, match="own"):
            mc_predict(fail, X, 10, model=net, rng=rng, batch_samples=2)
        assert state(net) == before
    assert stream == MaskStream(9)


@pytest.mark.parametrize("rng", [None, "stream"])
def test_an_interrupt_at_any_line_leaves_modes_streams_and_passes_as_they_were(rng: Any) -> None:
    package = str(Path(normdrop.__file__).parent / "ensembles")
    a, b = normdrop.Dropout(0.5, rng=1), normdrop.BatchNormAct(3, p=0.5, rng=2)
    net = SimpleNamespace(a=a, b=b, layers=lambda: [a, b])
    stream = None if rng is None else MaskStream(3)
    mc_predict(lambda x: b(a(x)), X, 3, model=net, rng=4, batch_samples=2)
    a(X)
    before = state(net)

    def interrupted(line: int) -> bool:
        left = line

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(package):
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        old = sys.gettrace()
        sys.settrace(trace)
        try:
            mc_predict(lambda x: b(a(x)), X, 3, model=net, rng=stream, batch_samples=2, quantiles=0.5)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(old)
        return False

    line = 1
    while interrupted(line):
        assert state(net) == before, line
        assert stream in (None, MaskStream(3)), line
        line += 1
    assert line > 200


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1; got 0"),
        ({"n_samples": 2.5}, TypeError, "n_samples must be an int"),
        ({"function": 3}, TypeError, "function must be callable"),
        ({"reduce": "mean"}, ValueError, "reduce must be one of 'arithmetic', 'geometric'; got 'mean'"),
        ({"reduce": "geometric"}, ValueError, r"sum 1 along the last axis.*Return softmax\(logits\)"),
        ({"stop_at": 0}, ValueError, "stop_at must be a real number, positive.*got 0"),
        ({"stop_at": "no"}, TypeError, "stop_at must be a real number"),
        ({"quantiles": 95}, ValueError, "quantiles must be.*from 0 to 1.*got int 95"),
        ({"quantiles": "0.5"}, TypeError, "quantiles must be a real number"),
        ({"rng": 1.5}, TypeError, "rng must be"),
        ({"batch_samples": 0}, ValueError, "batch_samples must be at least 1"),
        ({"batch_samples": "all"}, TypeError, "batch_samples must be an int"),
        ({"batch_samples": 2, "x": [1.0]}, TypeError, "x must be an array with an axis of rows"),
        ({"model": normdrop.BatchNorm(3)}, ValueError, "model must have a layer of dropout"),
        ({"progress": 1}, TypeError, "progress must be"),
    ],
)
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(change: Any, error: Any, words: str) -> None:
    net = Net()
    before = state(net)
    arguments = {"function": net, "x": X, "n_samples": 20} | change
    with pytest.raises(error, match=words):
        mc_predict(**arguments)
    assert state(net) == before


def test_functions_that_fit_no_batch_or_draw_nothing_or_change_shape_are_told() -> None:
    drop = normdrop.Dropout(0.5)

    def fails(function: Any, words: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=words):
            mc_predict(function, X, 20, **options)

    def plain(x: Any) -> Any:
        return drop(x)

    batches = {"model": drop, "batch_samples": 4}
    fails(lambda x: drop(x.T).T, "batch_samples must be 1 for this function: a Dropout layer got shape", **batches)
    fails(lambda x: drop(x).sum(axis=0), "Return one row for each of x, or pass batch_samples=1", **batches)
    fails(lambda x: drop.forward(x, return_context=True)[0], "asks layers for their contexts", **batches)
    fails(lambda x: x, r"must draw masks.*gave the same 20 times. Pass model=")
    fails(lambda x: x, "must draw masks.*gave the same 16 times", stop_at=1.0)
    fails(plain, "model must hold the layers that function calls", model=normdrop.Dropout(0.5))
    fails(plain, "rng needs the layers", rng=1)
    fails(plain, "no layers; pass model=", batch_samples=2)
    shapes = iter(range(1, 9))
    fails(lambda x: np.ones(next(shapes)), r"the same shape for each sample, \(1,\) for the first; got \(2,\)")
    with pytest.raises(TypeError, match=r"function\(x\) must have dtype .*got int64"):
        mc_predict(lambda x: np.arange(3), X)
    with pytest.raises(ValueError, match=r"reduce was None.*call mc_predict with reduce='arithmetic'"):
        _ = mc_predict(drop, X, 2).mutual_information


def test_a_mask_that_the_function_gives_itself_is_split_with_its_rows() -> None:
    drop, other, mask = normdrop.Dropout(0.5), normdrop.Dropout(0.5), X > 0

    def function(x: Any) -> Any:
        return drop(x) + other(x, mask=np.tile(mask, (len(x) // len(X), 1)))

    alone, batched = (mc_predict(function, X, 9, model=[drop, other], rng=0, batch_samples=n) for n in (1, 4))
    np.testing.assert_array_equal(alone.mean, batched.mean)


def test_numbers_empty_outputs_and_one_sample_are_taken() -> None:
    drop = normdrop.Dropout(0.5)
    number = mc_predict(lambda x: float(drop(x).sum()), X, 5, model=drop, rng=0)
    assert number.mean.shape == ()
    assert mc_predict(drop, np.ones((0, 3)), 5, quantiles=0.5).quantiles.shape == (1, 0, 3)
    one = mc_predict(drop, X, 1)
    assert np.isnan(one.var).all()
    assert np.isnan(one.standard_error).all()


def test_the_bar_moves_once_for_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    @contextmanager
    def bar(progress: Any, text: str, total: int) -> Any:
        steps.append((progress, total))
        yield lambda: steps.append(1)

    monkeypatch.setattr(_progress, "bar", bar)
    mc_predict(normdrop.Dropout(0.5), X, 9, progress=True, batch_samples=4)
    assert steps == [(True, 9), *[1] * 9]


def test_of_a_module_of_pytorch_masks_come_from_rng_where_its_layers_are_ours() -> None:
    torch = pytest.importorskip("torch")
    import normdrop.torch as ours

    layer = ours.Dropout(0.5)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), layer).eval()
    x = torch.from_numpy(X)
    first, again = (mc_predict(net, x, 30, rng=1) for _ in range(2))
    np.testing.assert_array_equal(first.mean, again.mean)
    assert (first.var > 0).all()
    assert not any(module.training for module in net.modules())
    assert "stream" not in vars(layer)
    torch.manual_seed(0)
    theirs = torch.nn.Dropout(0.5)
    assert (mc_predict(theirs, x, 30).var > 0).all()
    with pytest.raises(ValueError, match=r"rng must be None.*torch.manual_seed, or normdrop.torch.accelerate"):
        mc_predict(theirs, x, rng=1)
    with pytest.raises(ValueError, match=r"batch_samples must be 1 unless.*modules of PyTorch"):
        mc_predict(net, X, batch_samples=2)
