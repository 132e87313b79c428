"""The fused layer does what its layers do one after the other: same bits, same statistics, same stream, same rules."""

from __future__ import annotations

import copy
import pickle
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _backend, functional

from ..unfused import LAYOUTS, arrays, assert_same_bits, stream

SHAPE = (6, 3, 4)
OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "cumulative, no gamma": {"momentum": None, "scale": False},
    "biased, no affine": {"unbiased": False, "affine": False, "momentum": 0.5},
    "no statistics": {"track_running_stats": False},
}
STATE = ("running_mean", "running_var", "num_batches", "num_values", "dgamma", "dbeta")


def _x(seed: int = 0, dtype: Any = np.float32, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


def _layer(**options: Any) -> normdrop.BatchNormAct:
    return normdrop.BatchNormAct(3, **{"p": 0.4, "rng": stream()} | options)


class Separate:
    """The layers one after the other."""

    def __init__(self, **options: Any) -> None:
        self.norm, self.drop = normdrop.BatchNorm(3, **options), normdrop.Dropout(0.4, rng=stream())

    def step(self, x: Any, residual: Any, dy: Any) -> list[Any]:
        u = self.norm.forward(x, keep_x=True)
        a, act = functional.act_dropout(u if residual is None else u + residual)
        y = self.drop(a)
        du = functional.act_dropout_backward(self.drop.backward(dy), act)
        dx = self.norm.backward(du)
        return [y, dx if residual is None else (dx, du)]


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("options", list(OPTIONS))
def test_the_bits_are_those_of_the_layers_one_after_the_other_and_so_is_all_state(
    options: str, with_residual: bool
) -> None:
    fused, separate = _layer(**OPTIONS[options]), Separate(**OPTIONS[options])
    for step, layout in enumerate([*LAYOUTS, "C order"]):
        given = arrays(SHAPE, np.float32, layout)
        x, dy = given["x"] + np.float32(step), given["dy"]
        residual = given["residual"] if with_residual else None
        if step == len(LAYOUTS):  # after training, inference
            fused.eval()
            separate.norm.eval()
            separate.drop.eval()
        y = fused(x, residual, keep_x=not fused.training)
        assert_same_bits([y, fused.backward(dy)], separate.step(x, residual, dy))
        assert fused.stream == separate.drop.stream
        for name in STATE:
            np.testing.assert_array_equal(getattr(fused, name), getattr(separate.norm, name), err_msg=name)
        for (_, value, gradient), (_, other, _) in zip(fused.parameters(), separate.norm.parameters(), strict=True):
            np.testing.assert_array_equal(value, other)
            value -= np.float32(0.1) * gradient
            other -= np.float32(0.1) * gradient


def test_backward_gives_dx_alone_or_with_dresidual_as_the_forward_pass_was_called() -> None:
    layer, x, dy = _layer(), _x(), _x(1)
    layer(x)
    dx = layer.backward(dy)
    assert isinstance(dx, np.ndarray)
    layer(x, _x(2))
    dx, dresidual = layer.backward(dy)
    assert dx.shape == dresidual.shape == x.shape


def test_inference_drops_nothing_and_changes_nothing() -> None:
    layer = _layer(activation=("leaky_relu", 0.2))
    layer(_x())
    layer.forget()
    layer.eval()
    before = {name: values.tobytes() for name, values in layer.state_dict().items()}
    y = layer(_x(1), _x(2))
    expected, _ = functional.batch_norm_act_inference(
        _x(1),
        layer.running_mean,
        layer.running_var,
        layer.gamma,
        layer.beta,
        residual=_x(2),
        activation=layer.activation,
    )
    assert_same_bits(y, expected)
    assert {name: values.tobytes() for name, values in layer.state_dict().items()} == before


def test_backward_after_inference_wants_keep_x_and_says_so(refused: Any) -> None:
    layer = _layer().eval()
    layer(_x())
    refused(SimpleNamespace(layer=layer), lambda s: s.layer.backward(_x(1)), ValueError, "layer(x, keep_x=True)")
    layer.forget()
    layer(_x(), keep_x=True)
    assert layer.backward(_x(1)).shape == SHAPE
    assert layer.dgamma is not None


@pytest.mark.parametrize("place", ["x", "residual", "another"])
def test_a_batch_that_is_not_finite_gives_back_stream_statistics_and_inputs(place: str) -> None:
    layer = _layer(on_nonfinite="raise")
    layer(_x())
    layer.forget()
    before, moved = layer.state_dict(), layer.stream.copy()
    inputs = {"x": _x(1), "residual": _x(2), "another": np.zeros(SHAPE, np.float32)}
    inputs["x"][0, 1, 0] = np.inf
    saved = {name: values.copy() for name, values in inputs.items()}
    with pytest.raises(FloatingPointError, match="channel 1"):
        layer(inputs["x"], inputs["residual"], out=inputs[place])
    assert layer.stream == moved
    for name, values in layer.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    for name in ("x", "residual"):
        np.testing.assert_array_equal(inputs[name], saved[name])
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        layer.backward(_x())
    layer.on_nonfinite = "skip"
    layer(inputs["x"])
    assert (layer.num_batches, layer.stream.call) == (1, moved.call + 1)  # a mask was drawn for the output


@pytest.mark.parametrize("launcher", ["batch_norm_act", "update_running"])
def test_a_kernel_that_fails_leaves_the_layer_and_its_stream_as_they_were(
    refused: Any, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    layer = _layer()
    layer(_x())
    monkeypatch.setattr(_backend, launcher, fail)
    refused(SimpleNamespace(layer=layer, x=_x(1)), lambda s: s.layer(s.x, s.x), MemoryError, "no room")


def test_state_comes_back_whole_from_dictionaries_files_pickles_and_copies(tmp_path: Any) -> None:
    layer = _layer()
    layer(_x())
    layer.backward(_x(1))
    assert list(layer.state_dict()) == [
        "gamma", "beta", "running_mean", "running_var", "num_batches", "num_values", "key", "call",
    ]  # fmt: skip
    layer.save(tmp_path / "layer.npz")
    loaded, read = normdrop.BatchNormAct(3, p=0.4), normdrop.BatchNormAct(3, p=0.4)
    loaded.load_state_dict(layer.state_dict())
    read.load(tmp_path / "layer.npz")
    twins = [loaded, read, pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)]
    expected = layer(_x(2))
    for twin in twins:
        assert_same_bits(twin(_x(2)), expected)
        assert twin.stream == layer.stream
        assert twin.stream is not layer.stream
        np.testing.assert_array_equal(twin.running_var, layer.running_var)


WRONG_STATE: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "a short gamma": ({"gamma": np.ones(2)}, ValueError),
    "a negative variance": ({"running_var": -np.ones(3)}, ValueError),
    "a negative count": ({"num_values": np.array(-1)}, ValueError),
    "a key of floats": ({"key": np.ones(2)}, TypeError),
    "a call below 0": ({"call": np.array(-1)}, ValueError),
    "one entry more": ({"mask": np.ones(3)}, ValueError),
}


@pytest.mark.parametrize("case", list(WRONG_STATE))
def test_a_state_that_does_not_fit_changes_neither_statistics_nor_stream(refused: Any, case: str) -> None:
    layer, (entry, error) = _layer(), WRONG_STATE[case]
    layer(_x())
    other = _layer(rng=9)
    other(_x(1))
    state = other.state_dict() | entry
    refused(SimpleNamespace(layer=layer), lambda s: s.layer.load_state_dict(state), error, next(iter(entry)))
    del state[next(iter(entry))]
    if case != "one entry more":
        refused(SimpleNamespace(layer=layer), lambda s: s.layer.load_state_dict(state), ValueError, "missing")


def test_spawned_layers_draw_independent_masks_and_share_nothing() -> None:
    layer, x = normdrop.BatchNormAct(3, activation="identity", p=0.5, rng=1), _x(shape=(400, 3))
    children = layer.spawn(2)
    twins = normdrop.BatchNormAct(3, activation="identity", p=0.5, rng=1).spawn(2)
    masks = [each(x) != 0 for each in [layer, *children]]
    for i, mask in enumerate(masks):
        assert 0.4 < mask.mean() < 0.6
        for other in masks[:i]:
            assert 0.4 < (mask == other).mean() < 0.6
    for child, twin in zip(children, twins, strict=True):
        assert child.stream.key == twin.stream.key
        assert not np.shares_memory(child.running_mean, layer.running_mean)


def test_the_stream_is_drawn_from_rng_after_gamma() -> None:
    rng = np.random.default_rng(5)
    layer = normdrop.BatchNormAct(3, gamma_init="uniform", rng=rng)
    again = np.random.default_rng(5)
    np.testing.assert_array_equal(layer.gamma, again.random(3).astype(np.float32))
    assert layer.stream == MaskStream(again)
    shared = stream()
    assert normdrop.BatchNormAct(3, rng=shared).stream is shared


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("p", 1.5, ValueError),
        ("p", "half", TypeError),
        ("stream", 3, TypeError),
        ("activation", "gelu", AttributeError),
        ("shared_axes", (2,), AttributeError),
        ("channel_axis", -1, AttributeError),
        ("momentum", 2.0, ValueError),
        ("residual", None, AttributeError),
        ("reduce", sum, ValueError),
    ],
)
def test_attributes_are_checked_when_they_are_set(refused: Any, name: str, value: Any, error: Any) -> None:
    refused(SimpleNamespace(layer=_layer()), lambda s: setattr(s.layer, name, value), error, name)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"activation": "rellu"}, ValueError, ("activation", "rellu")),
        ({"activation": ("relu", 1.0)}, ValueError, ("relu", "no parameter")),
        ({"p": 2}, ValueError, ("p must be", "2")),
        ({"shared_axes": "12"}, TypeError, ("shared_axes", "12")),
        ({"rng": 1.5}, TypeError, ("rng", "1.5")),
        ({"eps": -1.0}, ValueError, ("eps", "-1.0")),
    ],
)
def test_a_bad_option_is_refused_and_draws_nothing(refused: Any, options: Any, error: Any, words: Any) -> None:
    things = SimpleNamespace(rng=np.random.default_rng(1))
    refused(things, lambda s: normdrop.BatchNormAct(3, **{"rng": s.rng} | options), error, *words)


def test_options_are_attributes_and_in_the_text() -> None:
    layer = normdrop.BatchNormAct(3, activation=("leaky_relu", 0.2), p=0.25, shared_axes=2, rng=stream())
    assert (layer.activation, layer.p, layer.shared_axes) == (("leaky_relu", 0.2), 0.25, (2,))
    assert normdrop.BatchNormAct(3, activation="elu").activation == ("elu", 1.0)
    assert normdrop.BatchNormAct(3).activation == "relu"
    for word in ("BatchNormAct(3, eps=", "activation=('leaky_relu', 0.2)", "p=0.25", "shared_axes=(2,)", "call=3)"):
        assert word in repr(layer)
    layer.p = 1.0
    assert not layer(_x()).any()


@pytest.mark.parametrize(
    ("make", "fit", "wrong"),
    [
        (normdrop.BatchNormAct1d, [(4, 3), (4, 3, 2)], [(4, 3, 2, 2)]),
        (normdrop.BatchNormAct2d, [(4, 3, 2, 2)], [(4, 3), (4, 3, 2)]),
        (normdrop.BatchNormAct3d, [(4, 3, 2, 2, 2)], [(4, 3), (4, 3, 2, 2)]),
    ],
)
def test_layers_with_a_rank_take_inputs_of_that_rank_alone(make: Any, fit: Any, wrong: Any, refused: Any) -> None:
    layer = make(3)
    for shape in fit:
        assert layer(_x(shape=shape)).shape == shape
    for shape in wrong:
        words = make.__name__, "BatchNormAct takes any rank"
        refused(SimpleNamespace(layer=layer), lambda s, shape=shape: s.layer(_x(shape=shape)), ValueError, *words)


def test_a_layer_refuses_a_context_of_another_layer(refused: Any) -> None:
    layer, dy = _layer(), _x(1)
    four = normdrop.BatchNormAct(4).forward(_x(shape=(6, 4, 3)), return_context=True)[1]
    plain = normdrop.BatchNorm(3).forward(_x(), return_context=True)[1]
    broken = layer.forward(_x(), return_context=True)[1]._replace(norm=None)
    things = SimpleNamespace(layer=layer)
    refused(things, lambda s: s.layer.backward(dy, context=four), ValueError, "4 channels", "has 3")
    refused(things, lambda s: s.layer.backward(dy, context=plain), TypeError, "context", "BatchNormContext")
    refused(things, lambda s: s.layer.backward(dy, context=broken), TypeError, "context.norm", "None")


def test_threads_that_train_one_layer_get_masks_of_their_own_and_lose_no_batch() -> None:
    layer, x, n_threads, n_calls = _layer(), _x(), 4, 25
    drawn = functional.batch_norm_act, layer.gamma, layer.beta
    results: list[bytes] = []
    start = threading.Barrier(n_threads)

    def train() -> None:
        start.wait()
        for _ in range(n_calls):
            results.append(layer(x).tobytes())
            layer.backward(x)

    threads = [threading.Thread(target=train) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = stream()
    expected = [drawn[0](x, *drawn[1:], p=0.4, rng=alone)[0].tobytes() for _ in range(n_threads * n_calls)]
    assert sorted(results) == sorted(expected)
    assert layer.num_batches == n_threads * n_calls
    assert layer.stream == alone
