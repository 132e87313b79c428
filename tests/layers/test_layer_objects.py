"""Layers are objects that people copy, pickle, share between threads and processes, and mistype."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop

OLD = json.loads((Path(__file__).parents[1] / "data" / "old_layers.json").read_text())


def _x(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape or (8, 3)).astype(dtype)


# Copies and children.


def test_spawned_layers_draw_independent_masks_and_copies_the_same_one() -> None:
    layer, x = normdrop.Dropout(0.5, rng=1), np.ones(1000, np.float32)
    children = layer.spawn(3)
    twins = normdrop.Dropout(0.5, rng=1).spawn(3)
    masks = [child(x) != 0 for child in [layer, *children]]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < (mask == other).mean() < 0.6
    for child, twin in zip(children, twins, strict=True):
        assert child.stream.key == twin.stream.key
    again = [pickle.loads(pickle.dumps(layer))(x) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_spawning_again_gives_other_children_and_a_used_layer_gives_clean_ones() -> None:
    layer = normdrop.Dropout2d(0.5, channel_axis=-1, scaling="original", rng=1)
    x = np.ones((2, 2, 2, 100))
    layer(x)
    first, second = layer.spawn(1)[0], layer.spawn(1)[0]
    assert first.stream.key != second.stream.key
    assert (first.p, first.scaling, first.channel_axis, first.stream.call) == (0.5, "original", layer.channel_axis, 0)
    with pytest.raises(RuntimeError, match="forward pass"):
        first.backward(x)
    assert layer.backward(x).shape == x.shape
    assert layer.spawn(0) == []


def test_spawned_batch_norm_layers_share_nothing() -> None:
    layer = normdrop.BatchNorm(3)
    layer(_x())
    child, other = layer.spawn(2)
    child(_x(seed=1))
    assert (layer.num_batches, child.num_batches, other.num_batches) == (1, 2, 1)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        assert not np.shares_memory(getattr(layer, name), getattr(child, name))


@pytest.mark.parametrize("n", [-1, 1.5, True, "2"])
@pytest.mark.parametrize("make", [lambda: normdrop.Dropout(rng=1), lambda: normdrop.BatchNorm(2)])
def test_a_bad_number_of_children_is_refused(refused: Any, make: Any, n: Any) -> None:
    error = ValueError if n == -1 else TypeError
    refused(SimpleNamespace(layer=make()), lambda s: s.layer.spawn(n), error, "n must be")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_shares_nothing_with_its_layer(duplicate: Any) -> None:
    layer, drop = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=1)
    layer(_x())
    layer.backward(_x(seed=1))
    twin, other = duplicate(layer), duplicate(drop)
    for name in ("gamma", "beta", "running_mean", "running_var", "dgamma", "dbeta"):
        assert not np.shares_memory(getattr(layer, name), getattr(twin, name)), name
    before = layer.state_dict()
    twin(_x(seed=2))
    twin.gamma += 1
    other(_x())
    assert all(np.array_equal(before[name], value) for name, value in layer.state_dict().items())
    assert drop.stream.call == 0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_comes_without_the_passes_that_wait_and_says_so(duplicate: Any) -> None:
    for layer in (normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=1)):
        layer(_x())
        with pytest.raises(RuntimeError, match="copies and pickles of a layer come without"):
            duplicate(layer).backward(_x())
        assert layer.backward(_x()).shape == (8, 3)


def test_a_pickle_holds_no_batch() -> None:
    layer, mask = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=1)
    x = _x(100_000, 3)
    layer(x)
    mask(x, mask=np.ones(x.shape, np.bool_))
    layer.eval()(x, keep_x=True)
    for each in (layer, mask):
        assert len(pickle.dumps(each)) < 4096


class _Trains:
    """Trains a layer while it is copied, as another thread may."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __reduce__(self) -> tuple[Any, ...]:
        self.layer(_x(5, 3, seed=self.layer.num_batches))
        return str, ()


class _Watched(normdrop.BatchNorm):
    def __init__(self) -> None:
        self._first = _Trains(self)
        super().__init__(3, momentum=None)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_a_whole_number_of_batches_if_the_layer_is_trained_meanwhile(duplicate: Any) -> None:
    layer = _Watched()
    layer(_x())
    before = layer.state_dict()
    twin = duplicate(layer)
    assert layer.num_batches == 2
    for name, values in twin.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


# Pickles of other versions.


@pytest.mark.parametrize(("version", "name"), [(version, name) for version, saved in OLD.items() for name in saved])
def test_a_layer_pickled_by_an_older_version_goes_on(version: str, name: str) -> None:
    saved = OLD[version][name]
    layer = pickle.loads(zlib.decompress(base64.b64decode(saved["pickle"])))
    state = {key: values.tolist() for key, values in layer.state_dict().items()}
    assert state == saved["state"]
    assert layer.training == saved["training"]
    kinds = {key: type(value) for key, value in vars(_full(name)).items()}
    assert set(vars(layer)) == set(kinds)
    assert all(
        value is None or isinstance(value, kinds[key]) for key, value in vars(layer).items() if key != "momentum"
    )
    x = _x(2, 2, 2, 3) if "2d" in name else _x()
    with pytest.raises(RuntimeError, match="forward pass"):
        layer.backward(x)
    twin = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(layer(x), twin(x))
    np.testing.assert_array_equal(layer.backward(x), twin.backward(x))
    assert "training" in repr(layer)


def _full(name: str) -> Any:
    """A layer that has everything a layer of that name can have."""
    if "BatchNorm" not in name:
        return normdrop.Dropout2d(0.5) if "2d" in name else normdrop.Dropout(0.5)
    dtype = np.float64 if "float64" in name else np.float32
    layer = normdrop.BatchNorm2d(3, dtype=dtype) if "2d" in name else normdrop.BatchNorm(3, dtype=dtype)
    x = _x(2, 3, 2, 2) if "2d" in name else _x()
    layer(x)
    layer.backward(x)
    return layer


@pytest.mark.parametrize("version", [2, -1, "1", None])
def test_a_layer_pickled_by_an_unknown_version_is_refused_with_both_versions(version: Any) -> None:
    for layer in (normdrop.BatchNorm(3), normdrop.Dropout()):
        state = layer.__getstate__() | {"state_version": version}
        with pytest.raises(ValueError, match=rf"version {version} of its state, and this normdrop knows those up to 1"):
            type(layer).__new__(type(layer)).__setstate__(state)


class _Gain(normdrop.Dropout):
    """A subclass as people write them: a property before a private name, and the whole dictionary as its state."""

    def __init__(self) -> None:
        super().__init__(0.5, rng=1)
        self._gain = 2.0

    @property
    def gain(self) -> float:
        return self._gain

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_subclass_may_give_its_dictionary_as_its_state_and_have_properties_before_private_names(
    duplicate: Any,
) -> None:
    layer = _Gain()
    layer(_x())
    twin = duplicate(layer)
    assert (twin.gain, twin.p, twin.stream) == (2.0, 0.5, layer.stream)
    with pytest.raises(RuntimeError, match="forward pass"):
        twin.backward(_x())


def test_arrays_of_a_memory_mapped_pickle_are_copied_where_they_are_read_only() -> None:
    """What joblib.load(mmap_mode="r") does, and loky above 1 MB."""
    layer = normdrop.BatchNorm(3)
    layer(_x())
    layer.backward(_x(seed=1))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    loaded = pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])
    loaded(_x(seed=2))
    layer(_x(seed=2))
    assert loaded.running_mean.tobytes() == layer.running_mean.tobytes()
    loaded.gamma -= np.float32(1.0)


# Threads.


@pytest.mark.jit
def test_no_batch_of_a_layer_that_threads_share_is_lost() -> None:
    layer, x = normdrop.BatchNorm(3, momentum=None, affine=False), _x(16, 3)
    layer(x)
    n_threads, n_batches = 4, 300
    start = threading.Barrier(n_threads)

    def train(number: int) -> None:
        start.wait()
        for i in range(n_batches):
            layer(_x(16, 3, seed=n_batches * number + i))
            layer.forget()

    threads = [threading.Thread(target=train, args=(number,)) for number in range(n_threads)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert layer.num_batches == 1 + n_threads * n_batches
    assert layer.num_values == 16 * layer.num_batches
    everything = np.concatenate([x, *(_x(16, 3, seed=seed) for seed in range(n_threads * n_batches))]).astype(
        np.float64
    )
    np.testing.assert_allclose(layer.running_mean, everything.mean(axis=0), rtol=1e-12)
