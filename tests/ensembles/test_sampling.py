"""In `sampling`, dropout is on and everything else in inference; after it, all is as it was, however it ended."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import deque
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional
from normdrop.ensembles import modes

from ..unfused import assert_same_bits, stream

pytestmark = pytest.mark.same

X = np.random.default_rng(0).normal(2.0, 3.0, (6, 3)).astype(np.float32)


class Net:
    """Layers in attributes, containers and slots, in different modes."""

    def __init__(self) -> None:
        self.norm = normdrop.BatchNorm(3)
        self.blocks = {"a": [Slotted()], "b": ({"deep": deque([normdrop.Dropout1d(0.5, rng=3)])},)}
        self.fused = normdrop.BatchNormAct(3, p=0.5, rng=stream())
        self.off = normdrop.Dropout(0.5, rng=1).eval()
        self.again = self.norm
        self.itself = self
        self.norm(X)

    def layers(self) -> list[normdrop.Layer]:
        deep = self.blocks["b"][0]["deep"][0]
        return [self.norm, self.blocks["a"][0]._Slotted__drop, deep, self.fused, self.off]


class Slotted:
    __slots__ = ("__drop", "empty")

    def __init__(self) -> None:
        self.__drop = normdrop.Dropout(0.5, rng=2)


def modes_of(net: Any) -> list[Any]:
    return [
        (layer.training, getattr(layer, "sampling", None), layer._passes.waiting[1:], id(layer._passes.waiting[0]))
        for layer in net.layers()
    ]


def test_only_dropout_is_on_wherever_layers_lie() -> None:
    net = Net()
    before = modes_of(net)
    with normdrop.sampling(net) as given:
        assert given is net
        assert [layer.training for layer in net.layers()] == [False, True, True, False, True]
        assert net.fused.sampling
    assert modes_of(net) == before


@pytest.mark.parametrize(
    "hold",
    [
        lambda layer: layer,
        lambda layer: [[(layer,)]],
        lambda layer: {"x": {"y": layer}},
        lambda layer: frozenset([layer]),
        lambda layer: SimpleNamespace(a=SimpleNamespace(b=layer)),
        lambda layer: layer.forward,
        lambda layer: partial(print, layer, x=1),
    ],
)
def test_a_layer_is_found_in_what_holds_it(hold: Any) -> None:
    layer = normdrop.Dropout(0.5).eval()
    with normdrop.sampling(hold(layer)):
        assert layer.training
    assert not layer.training


def test_a_layer_that_is_held_twice_or_in_a_circle_is_handled_once_and_a_deep_one_is_found() -> None:
    layer = normdrop.Dropout(0.5)
    circle: list[Any] = [layer, layer, {"again": layer}]
    circle.append(circle)
    assert modes.layers_of(circle) == [layer]
    deep: Any = layer
    for _ in range(10 * sys.getrecursionlimit()):
        deep = [deep]
    assert modes.layers_of(deep) == [layer]


def test_batch_norm_neither_uses_nor_changes_the_statistics_of_the_batch() -> None:
    norm, drop = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=0)
    norm(X)
    norm.forget()
    expected, before = norm.eval()(X), norm.state_dict()
    norm.train()
    with normdrop.sampling([norm, drop]):
        np.testing.assert_array_equal(norm(X), expected)
    assert all(np.array_equal(before[name], value) for name, value in norm.state_dict().items())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("options", [{}, {"shared_axes": 0}, {"track_running_stats": False}], ids=str)
def test_a_fused_layer_has_the_bits_of_batch_norm_in_inference_and_dropout_forward_and_backward(options: Any) -> None:
    tracks = {name: value for name, value in options.items() if name != "shared_axes"}
    axes = options.get("shared_axes", ())
    fused = normdrop.BatchNormAct(3, p=0.4, rng=stream(), **options)
    norm, drop = normdrop.BatchNorm(3, **tracks), normdrop.Dropout(0.4, rng=stream(), shared_axes=axes)
    for layer in (fused, norm):
        layer(X)
        layer.forget()
    fused.stream = drop.stream.copy()
    rng = np.random.default_rng(1)
    residual, dy = (rng.normal(size=X.shape).astype(np.float32) for _ in range(2))
    with normdrop.sampling([fused, norm, drop]):
        for x, r in [(X, residual), (np.asfortranarray(X), np.asfortranarray(residual))]:
            u = norm(x, keep_x=True)
            a, act = functional.act_dropout(u + r)
            assert_same_bits(fused(x, r, keep_x=True), drop(a))
            assert fused.stream == drop.stream
            du = functional.act_dropout_backward(drop.backward(dy), act)
            assert_same_bits(list(fused.backward(dy)), [norm.backward(du), du])


def test_a_fused_layer_says_that_it_samples_and_copies_do_as_it_does() -> None:
    layer = normdrop.BatchNormAct(3, p=0.4, rng=stream())
    state = layer.state_dict()
    plain = repr(layer)
    with normdrop.sampling(layer):
        assert repr(layer) == plain.replace("training=True", "training=False")[:-1] + ", sampling=True)"
        assert layer.state_dict().keys() == state.keys()
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            twin.stream = layer.stream.copy()
            np.testing.assert_array_equal(twin(X), layer(X))
    assert repr(layer).startswith(plain[:20])
    assert not layer.sampling
    layer.sampling = True
    assert not layer.eval().sampling
    layer.sampling = True
    assert not layer.train().sampling


def test_an_older_pickle_of_a_fused_layer_samples_nothing() -> None:
    layer = normdrop.BatchNormAct(3, p=0.4)
    state = layer.__getstate__()
    del state["sampling"]
    layer.__setstate__(state)
    assert layer.sampling is False


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_modes_are_restored_whatever_ends_the_block_and_whatever_it_did_to_them(error: Any) -> None:
    net = Net()
    before = modes_of(net)

    def block() -> None:
        with normdrop.sampling(net):
            net.norm.train()
            net.off.eval()
            net.fused.eval()
            raise error

    with pytest.raises(error):
        block()
    assert modes_of(net) == before


def test_blocks_nest_and_a_sampling_function_may_call_itself() -> None:
    net = Net()
    before = modes_of(net)

    @normdrop.sampling(net)
    def recurse(n: int) -> None:
        assert net.off.training
        if n:
            recurse(n - 1)
            assert not net.norm.training

    with normdrop.sampling(net):
        inner = modes_of(net)
        with normdrop.sampling(net.off):
            assert not net.norm.training
        assert modes_of(net) == inner
        recurse(3)
        assert modes_of(net) == inner
    assert modes_of(net) == before


def test_an_interrupt_at_any_line_leaves_every_mode_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    package = str(Path(normdrop.__file__).parent)
    net = Net()
    before = modes_of(net)

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
            with normdrop.sampling(net):
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(old)
        return False

    line = 1
    while interrupted(line):
        assert modes_of(net) == before, line
        line += 1
    assert line > 100


def test_passes_of_the_block_wait_no_more_and_those_before_it_wait_on() -> None:
    layer, dy = normdrop.Dropout(0.5, rng=stream()), np.ones_like(X)
    y = layer(X)
    with normdrop.sampling(layer):
        kept = layer(X) != 0
        np.testing.assert_array_equal(layer.backward(dy) != 0, kept)
        inner = [layer(X) for _ in range(2)]
        assert not np.array_equal(*inner)
    np.testing.assert_array_equal(layer.backward(dy) != 0, y != 0)
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        layer.backward(dy)


@pytest.mark.parametrize(
    "model",
    [normdrop.BatchNorm(3), normdrop.BatchNormAct(3), [], object(), {"x": 1}, lambda x: x],
    ids=lambda model: type(model).__name__,
)
def test_a_model_without_dropout_is_refused_and_left_as_it_was(model: Any) -> None:
    with (
        pytest.raises(ValueError, match=r"model must have a layer of dropout.*Pass the object"),
        normdrop.sampling(model),
    ):
        raise AssertionError
    for layer in modes.layers_of(model):
        assert layer.training


def test_a_layer_that_drops_nothing_for_now_is_a_layer_of_dropout() -> None:
    layer = normdrop.Dropout(0.0).eval()
    with normdrop.sampling(layer):
        np.testing.assert_array_equal(layer(X), X)


def test_a_layer_of_somebody_that_draws_from_a_stream_is_one_of_dropout() -> None:
    class Noise(normdrop.Layer):
        stream: Any = None

        def __init__(self) -> None:
            super().__init__()
            self.stream = stream()
            self.eval()

    class Plain(normdrop.Layer):
        pass

    noise, plain = Noise(), Plain()
    with normdrop.sampling([noise, plain]):
        assert (noise.training, plain.training) == (True, False)
    assert (noise.training, plain.training) == (False, True)


def test_a_module_of_pytorch_has_its_dropout_on_and_its_batch_norm_off() -> None:
    torch = pytest.importorskip("torch")
    import normdrop.torch as ours

    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ModuleList([torch.nn.AlphaDropout(0.5)]))
    net.add_module("ours", ours.Dropout(0.5))
    net.add_module("attention", torch.nn.MultiheadAttention(4, 2, dropout=0.1))
    net.add_module("recurrent", torch.nn.LSTM(3, 3, num_layers=2))
    net.layer = normdrop.Dropout(0.5).eval()
    net[0].eval()
    before = [module.training for module in net.modules()]
    with normdrop.sampling({"net": net}):
        names = {name for name, module in net.named_modules() if module.training}
        assert names == {"1.0", "ours", "attention"}
        assert net.layer.training
    assert [module.training for module in net.modules()] == before
    assert not net.layer.training
    with pytest.raises(ValueError, match="layer of dropout"), normdrop.sampling(torch.nn.BatchNorm1d(3)):
        raise AssertionError
