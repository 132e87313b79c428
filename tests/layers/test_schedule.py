"""A p that is a function of the number of training passes: what moves it, what does not, and what is saved."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

pytestmark = pytest.mark.same

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def stream(call: int = 5) -> MaskStream:
    return MaskStream.from_key((3, 4), call)


def eighths(step: int) -> float:
    return min(step, 8) / 8


def of_channels(step: int) -> Any:
    return np.array([0.0, 0.25, 0.5, 1.0]) * eighths(step)


class Rising:
    """A schedule with state of its own."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def __call__(self, step: int) -> float:
        return step / self.n_steps


SCHEDULES = {"number": eighths, "array": of_channels, "object": Rising(10)}


@pytest.mark.parametrize("p", list(SCHEDULES.values()), ids=list(SCHEDULES))
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_each_pass_has_the_p_of_its_step_in_training_and_that_of_the_next_one_in_inference(
    p: Any, scaling: Any
) -> None:
    layer = normdrop.Dropout(p, scaling=scaling, rng=stream())
    for step in range(9):
        y = layer(X)
        expected, context = functional.dropout(X, p(step), scaling=scaling, rng=stream(5 + step))
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(layer.backward(X), functional.dropout_backward(X, context))
        assert layer.step == step + 1
        np.testing.assert_array_equal(layer.realized_p, np.rint(np.multiply(p(step + 1), 2.0**32)) / 2.0**32)
        expected = functional.dropout_inference(X, p(step + 1), scaling=scaling)[0]
        np.testing.assert_array_equal(layer.eval()(X), expected)
        layer.train()


def test_other_layers_that_are_dropout_have_schedules_too() -> None:
    channels, paths = normdrop.Dropout1d(of_channels, rng=stream()), normdrop.DropPath(eighths, rng=stream())
    x = np.ones((6, 4, 3))
    for step in range(3):
        expected = functional.dropout(x, of_channels(step)[:, None], shared_axes=2, rng=stream(5 + step))[0]
        np.testing.assert_array_equal(channels(x), expected)
        expected = functional.dropout(x, eighths(step), shared_axes=(1, 2), rng=stream(5 + step))[0]
        np.testing.assert_array_equal(paths(x), expected)
        channels.forget()
        paths.forget()
    paths.p = np.array([0.0, 1.0] * 3).reshape(6, 1, 1)
    np.testing.assert_array_equal(paths(x)[:, 0, 0], [1.0, 0.0] * 3)


def test_a_pass_with_a_mask_counts_and_one_of_nothing_or_in_inference_does_not() -> None:
    layer = normdrop.Dropout(eighths, rng=stream())
    layer(X, mask=X > 0)
    assert (layer.step, layer.stream) == (1, stream())
    layer(X[:0])
    layer.eval()(X)
    layer.eval()(X, sample_ids=np.arange(6))
    assert (layer.step, layer.stream) == (1, stream())
    layer.train()(X, sample_ids=np.arange(6))
    assert (layer.step, layer.stream) == (2, stream(6))
    normdrop.Dropout.forward(layer, X, return_context=True)
    assert layer.step == 3


def test_a_number_and_an_array_count_nothing() -> None:
    for p in (0.5, np.full(4, 0.5)):
        layer = normdrop.Dropout(p, rng=stream())
        layer(X)
        assert layer.step == 0


def fails(step: int) -> float:
    raise ZeroDivisionError(f"at step {step}")


RESULTS: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "above 1": (1.5, ValueError, ("p must be", "1.5")),
    "nan": (float("nan"), ValueError, ("p must be", "nan")),
    "nothing": (None, TypeError, ("p must be", "NoneType")),
    "bool": (True, TypeError, ("p must be", "bool")),
    "schedule": (eighths, TypeError, ("p must be one number",)),
    "array above 1": (np.array([0.0, 2.0, 0.0, 0.0]), ValueError, ("p must have", "2.0", "(1,)", "np.clip")),
    "integers": (np.array([0, 1, 0, 1]), TypeError, ("p must have dtype", "int64")),
}


@pytest.mark.parametrize("case", list(RESULTS))
def test_what_a_schedule_returns_is_checked_and_the_error_names_it_and_the_step(refused: Any, case: str) -> None:
    value, error, words = RESULTS[case]

    def wrong(step: int) -> Any:
        return 0.5 if step < 3 else value

    layer = normdrop.Dropout(wrong, rng=stream())
    layer(X)
    layer.step = 3
    for call in (lambda s: s.layer(s.x), lambda s: s.layer.realized_p):
        refused(SimpleNamespace(layer=layer, x=X), call, error, "schedule wrong", "at step 3", *words)


def test_an_array_of_a_schedule_that_does_not_fit_is_refused(refused: Any) -> None:
    layer = normdrop.Dropout(lambda step: np.full(3, 0.5), rng=stream())
    refused(SimpleNamespace(layer=layer), lambda s: s.layer(X), ValueError, "p must be broadcastable", "(6, 4)", "(3,)")


def test_a_pass_that_fails_does_not_count(refused: Any, monkeypatch: Any) -> None:
    layer = normdrop.Dropout(eighths, rng=stream())
    layer(X)
    layer.backward(X)
    things = SimpleNamespace(layer=layer, out=X.astype(np.float64))
    refused(things, lambda s: s.layer(X, out=s.out), TypeError, "out")
    refused(things, lambda s: s.layer(X, mask=np.ones((2, 2), bool)), ValueError, "mask")
    refused(things, lambda s: s.layer(X, sample_ids=np.arange(2)), ValueError, "sample_ids")
    layer.p = fails
    refused(things, lambda s: s.layer(X), ZeroDivisionError, "at step 1")
    layer.p = of_channels

    def no_memory(*_: Any, **options: Any) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr("normdrop._backend.dropout_varied", no_memory)
    refused(things, lambda s: s.layer(X), MemoryError, "none left")
    layer.p = eighths
    monkeypatch.setattr(layer, "_keep", no_memory)  # after the pass itself
    before = layer.step, layer.stream.call
    with pytest.raises(MemoryError):
        layer(X)
    assert (layer.step, layer.stream.call) == before == (1, 6)


def test_passes_within_sampling_do_not_count_and_have_the_p_of_the_step_that_is_reached() -> None:
    layer = normdrop.Dropout(eighths, rng=stream())
    layer(X)
    layer(X)
    layer.forget()
    expected = [functional.dropout(X, 0.25, rng=stream(7 + n))[0] for n in range(3)]
    with normdrop.sampling(layer), normdrop.sampling([layer]):
        for y in expected:
            np.testing.assert_array_equal(layer(X), y)
        assert layer.step == 2
    normdrop.mc_predict(layer, X, n_samples=3, rng=0)
    assert layer.step == 2
    layer(X)
    assert layer.step == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_goes_on_at_the_same_step_and_one_made_within_sampling_counts_once_it_trains(duplicate: Any) -> None:
    layer = normdrop.Dropout(Rising(10), rng=stream())
    layer(X)
    twin = duplicate(layer)
    np.testing.assert_array_equal(twin(X), layer(X))
    assert (twin.step, twin.realized_p) == (layer.step, layer.realized_p)
    with normdrop.sampling(layer):
        twin = duplicate(layer)
    twin(X)
    assert twin.step == 2
    twin.train()(X)
    assert twin.step == 3
    assert [child.step for child in layer.spawn(2)] == [2, 2]


def test_a_pickle_from_before_schedules_begins_at_step_0() -> None:
    layer = normdrop.Dropout(0.5, rng=stream())
    state = {name: value for name, value in layer.__getstate__().items() if name not in ("step", "_counts")}
    old = normdrop.Dropout.__new__(normdrop.Dropout)
    old.__setstate__(state | {"stream": stream()})
    np.testing.assert_array_equal(old(X), layer(X))
    old.p = eighths
    old(X)
    assert (old.step, old.realized_p) == (1, 0.125)
    assert vars(old).keys() == vars(layer).keys()


def test_the_step_is_saved_and_loaded_with_the_stream(tmp_path: Path) -> None:
    layer, other = (normdrop.Dropout(eighths, rng=rng) for rng in (stream(), 1))
    layer(X)
    layer(X)
    layer.save(tmp_path / "drop.npz")
    other.load(tmp_path / "drop.npz")
    assert (other.step, other.stream) == (2, layer.stream)
    np.testing.assert_array_equal(other(X), layer(X))
    assert layer.state_dict()["step"].dtype == np.int64


def test_a_state_with_a_step_for_a_p_without_one_and_the_other_way_round_is_refused_with_the_remedy(
    refused: Any, tmp_path: Path
) -> None:
    layer, constant = normdrop.Dropout(eighths, rng=stream()), normdrop.Dropout(0.5, rng=stream())
    with_step, without = layer.state_dict(), normdrop.Dropout(0.5, rng=1).state_dict()
    things = SimpleNamespace(layer=layer, constant=constant, saved=dict(with_step), old=dict(without))
    refused(things, lambda s: s.constant.load_state_dict(s.saved), ValueError, "no step", "float 0.5", "Set layer.p")
    refused(
        things, lambda s: s.layer.load_state_dict(s.old), ValueError, "a step", "schedule eighths", "state | {'step': "
    )
    layer.load_state_dict(without | {"step": np.array(0)})
    constant.p = eighths
    constant.load_state_dict(with_step)
    for value, error in ((-1, ValueError), (1.0, TypeError), ([1], ValueError)):
        bad = with_step | {"step": np.array(value)}
        refused(SimpleNamespace(layer=layer), lambda s, bad=bad: s.layer.load_state_dict(bad), error, "step")
    normdrop.Dropout(0.5, rng=1).save(tmp_path / "old.npz")
    refused(things, lambda s: s.layer.load(tmp_path / "old.npz"), ValueError, "step")


@pytest.mark.parametrize("value", [-1, 2**63, 1.5, True, None])
def test_a_step_may_be_set_to_a_count_alone(refused: Any, value: Any) -> None:
    layer = normdrop.Dropout(eighths, rng=stream())
    error = ValueError if type(value) is int else TypeError
    refused(SimpleNamespace(layer=layer), lambda s: setattr(s.layer, "step", value), error, "step must be")
    layer.step = np.int64(4)
    assert layer.realized_p == 0.5


def test_no_step_of_a_layer_that_threads_share_is_lost() -> None:
    layer, n_passes = normdrop.Dropout(lambda step: 0.5, rng=stream()), 200

    def train() -> None:
        for _ in range(n_passes):
            layer(X)
            layer.forget()

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.step == 4 * n_passes


def test_a_layer_shows_its_schedule_and_step() -> None:
    layer = normdrop.Dropout(eighths, rng=stream())
    layer.step = 7
    assert repr(layer).startswith("Dropout(p=eighths, step=7, shared_axes=()")
    layer.p = Rising(3)
    assert "p=Rising, step=7" in repr(layer)
    layer.p = np.zeros((4,))
    assert "p=array of shape (4,), " in repr(layer)
