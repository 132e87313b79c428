"""The state of the batch norm layer: saved, restored, copied, and untouched by anything that fails."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import _backend

Array = np.ndarray[Any, np.dtype[Any]]


def _x(n: int = 8, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).normal(2.0, 3.0, (n, 3)).astype(dtype)


def _trained(steps: range = range(3), layer: normdrop.BatchNorm | None = None, **options: Any) -> normdrop.BatchNorm:
    """A layer after some steps of gradient descent, each with its own batch."""
    layer = layer or normdrop.BatchNorm(3, gamma_init="uniform", rng=1, **options)
    for step in steps:
        layer(_x(5 + step, step))
        layer.backward(_x(5 + step, step + 100))
        for _, value, gradient in layer.parameters():
            value -= np.float32(0.1) * gradient
    return layer


def _same(a: normdrop.BatchNorm, b: normdrop.BatchNorm) -> None:
    state, other = a.state_dict(), b.state_dict()
    assert list(state) == list(other)
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert value.tobytes() == other[name].tobytes(), name


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a launcher write its outputs and then raise, as a kernel would that runs out of memory half way."""

    def arrange(name: str) -> None:
        serving = _backend.select(_x())

        def launcher(*arguments: Any) -> None:
            getattr(serving, name)(*arguments)
            raise MemoryError(name)

        broken = ModuleType("broken")
        broken.__dict__.update({key: getattr(serving, key) for key in dir(serving) if not key.startswith("_")})
        setattr(broken, name, launcher)
        monkeypatch.setattr(_backend.contracts, "select", lambda x: broken)

    return arrange


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("momentum", [0.9, None, 0.0])
def test_failing_kernel_leaves_the_layer_as_it_was(fails: Callable[[str], None], momentum: float | None) -> None:
    layer = _trained(momentum=momentum)
    before = copy.deepcopy(layer)
    fails("batch_norm")
    with pytest.raises(MemoryError):
        layer(_x(seed=9))
    _same(layer, before)
    for name in ("dgamma", "dbeta"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(before, name))


@pytest.mark.usefixtures("backend")
def test_failing_backward_can_be_called_again_and_keeps_the_gradients(
    fails: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _trained()
    before = copy.deepcopy(layer)
    layer(_x(seed=9))
    before(_x(seed=9))
    with monkeypatch.context() as patch:
        patch.setattr(
            _backend.contracts, "select", _backend.contracts.select
        )  # what fails() replaces is put back at the end
        fails("batch_norm_backward")
        with pytest.raises(MemoryError):
            layer.backward(_x(seed=10))
        np.testing.assert_array_equal(layer.dgamma, before.dgamma)
    monkeypatch.undo()
    np.testing.assert_allclose(layer.backward(_x(seed=10)), before.backward(_x(seed=10)), rtol=1e-6)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "call",
    [
        lambda layer: layer(np.ones((4, 2), np.float32)),
        lambda layer: layer(np.ones(3, np.float32)),
        lambda layer: layer(np.ones((4, 3), np.int64)),
        lambda layer: layer(np.ones((4, 3), ">f4")),
        lambda layer: layer(np.ones((1, 3), np.float32)),
        lambda layer: layer([[1.0, 2.0, 3.0]] * 2),
        lambda layer: layer(_x(), out=np.empty((8, 3))),
        lambda layer: layer(_x(), out=np.empty((3, 8), np.float32)),
        lambda layer: layer(_x(), keep_x=1),
        lambda layer: layer.backward(_x(n=3)),
        lambda layer: layer.backward(_x(dtype=np.float64)),
        lambda layer: layer.backward(_x(), out=np.empty(3)),
        lambda layer: layer.load_state_dict({}),
        lambda layer: layer.load_state_dict(layer.state_dict() | {"gamma": np.ones(2)}),
        lambda layer: layer.load_state_dict(layer.state_dict() | {"num_values": np.array(-1)}),
        lambda layer: layer.load_state_dict(
            layer.state_dict() | {"running_mean": np.ones(3), "running_var": -np.ones(3)}
        ),
        lambda layer: layer.load_state_dict(layer.state_dict() | {"beta": np.ones(3), "more": np.ones(3)}),
        lambda layer: setattr(layer, "momentum", 1.5),
        lambda layer: setattr(layer, "eps", 0.0),
    ],
)
def test_failed_call_leaves_everything_as_it_was(call: Callable[[normdrop.BatchNorm], Any]) -> None:
    layer, before = _trained(), _trained()
    layer(_x())
    before(_x())
    with pytest.raises((TypeError, ValueError)):
        call(layer)
    _same(layer, before)
    assert (layer.momentum, layer.eps) == (before.momentum, before.eps)
    np.testing.assert_array_equal(layer.backward(_x(seed=4)), before.backward(_x(seed=4)))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0)])
def test_empty_batch_gives_an_empty_output_and_moves_nothing(shape: tuple[int, ...]) -> None:
    layer = _trained()
    before = copy.deepcopy(layer)
    y = layer(np.empty(shape, np.float32))
    assert y.shape == shape
    _same(layer, before)
    assert layer.backward(y).shape == shape
    np.testing.assert_array_equal([layer.dgamma, layer.dbeta], np.zeros((2, 3)))
    assert layer.eval()(y).shape == shape


@pytest.mark.usefixtures("backend")
def test_each_forward_pass_serves_one_backward() -> None:
    layer = normdrop.BatchNorm(3)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(_x())
    for mode in (layer.train, layer.eval):
        mode()(_x())
        layer.backward(_x())
        with pytest.raises(RuntimeError, match="forward"):
            layer.backward(_x())


def test_counts_are_of_batches_and_of_values_per_channel() -> None:
    layer = normdrop.BatchNorm(3)
    layer(_x(8))
    layer(np.ones((2, 3, 5), np.float32))
    layer.eval()(_x(4))
    assert (layer.num_batches, layer.num_values) == (2, 18)
    assert layer.state_dict()["num_values"] == 18


def test_a_count_beyond_what_a_state_holds_is_saved_as_the_largest() -> None:
    layer = _trained()
    layer.num_values = 2**63 - 1
    layer(_x())
    assert layer.state_dict()["num_values"] == 2**63 - 1


def test_state_dict_is_a_copy_and_so_is_what_is_loaded() -> None:
    layer, twin = _trained(), normdrop.BatchNorm(3)
    state = layer.state_dict()
    kept = copy.deepcopy(state)
    twin.load_state_dict(state)
    _same(twin, layer)
    for value in state.values():
        value[...] = 77
    for name, value in kept.items():
        np.testing.assert_array_equal(layer.state_dict()[name], value)
        np.testing.assert_array_equal(twin.state_dict()[name], value)
    twin(_x(seed=7))
    np.testing.assert_array_equal(layer.running_mean, kept["running_mean"])


def test_loading_fills_the_arrays_that_an_optimizer_already_holds() -> None:
    layer = normdrop.BatchNorm(3)
    held = [value for _, value, _ in layer.parameters()]
    layer.load_state_dict(_trained().state_dict())
    for value, (_, now, _) in zip(held, layer.parameters(), strict=True):
        assert value is now


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"dtype": np.float64}])
def test_saved_file_restores_the_layer_and_holds_no_pickle(tmp_path: Path, options: dict[str, Any]) -> None:
    layer = _trained(**options)
    path = tmp_path / "layer.state"
    layer.save(path)
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(layer.state_dict())
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    twin = normdrop.BatchNorm(3, **options)
    twin.load(path)
    _same(twin, layer)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_file_of_something_else_is_refused_and_changes_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.npz"
    if content is None:
        np.savez(path, gamma=np.array([object()] * 3, dtype=object))
    else:
        path.write_bytes(content)
    layer = _trained()
    before = copy.deepcopy(layer)
    with pytest.raises(ValueError, match=r"x\.npz"):
        layer.load(path)
    _same(layer, before)
    with pytest.raises(FileNotFoundError):
        layer.load(tmp_path / "missing.npz")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("momentum", [0.9, None])
def test_training_resumed_from_a_file_equals_uninterrupted_training_bit_for_bit(
    tmp_path: Path, momentum: float | None
) -> None:
    uninterrupted = _trained(range(6), momentum=momentum)
    path = tmp_path / "half.npz"
    _trained(range(3), momentum=momentum).save(path)
    resumed = normdrop.BatchNorm(3, momentum=momentum)
    resumed.load(path)
    _same(_trained(range(3, 6), layer=resumed), uninterrupted)
    np.testing.assert_array_equal(resumed.eval()(_x(seed=50)), uninterrupted.eval()(_x(seed=50)))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("training", [True, False])
def test_copied_layer_goes_on_alone_from_where_it_was(duplicate: Callable[[Any], Any], training: bool) -> None:
    layer = _trained()
    layer.train() if training else layer.eval()
    twin = duplicate(layer)
    _same(twin, layer)
    assert twin.training == training
    np.testing.assert_array_equal(twin(_x(seed=8)), layer(_x(seed=8)))
    np.testing.assert_array_equal(twin.backward(_x(seed=4)), layer.backward(_x(seed=4)))
    before = copy.deepcopy(layer)
    _trained(layer=twin.train())
    _same(layer, before)
