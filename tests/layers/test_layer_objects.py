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


# Attributes.

FIXED = ["num_features", "channel_axis", "dtype", "affine", "scale", "shift", "track_running_stats"]


@pytest.fixture
def things() -> SimpleNamespace:
    s = SimpleNamespace(
        layer=normdrop.BatchNorm(3), bare=normdrop.BatchNorm(3, affine=False), drop=normdrop.Dropout(rng=1)
    )
    s.untracked = normdrop.BatchNorm(3, track_running_stats=False)
    s.channels = normdrop.Dropout2d(rng=1)
    return s


@pytest.mark.parametrize("name", FIXED)
def test_an_option_that_a_layer_was_made_with_is_read_only(things: SimpleNamespace, refused: Any, name: str) -> None:
    refused(things, lambda s: setattr(s.layer, name, False), AttributeError, f"{name} is fixed", "make a new BatchNorm")


@pytest.mark.parametrize(
    ("layer", "name"), [("drop", "shared_axes"), ("drop", "scaling"), ("channels", "channel_axis")]
)
def test_an_option_that_a_dropout_layer_was_made_with_is_read_only(
    things: SimpleNamespace, refused: Any, layer: str, name: str
) -> None:
    refused(
        things, lambda s: setattr(getattr(s, layer), name, 2), AttributeError, f"{name} is fixed", "make a new Drop"
    )


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("momentun", "momentum"),
        ("runing_mean", "running_mean"),
        ("trainning", "training"),
        ("zzz", ""),
        ("forward", ""),
    ],
)
def test_an_attribute_that_does_not_exist_is_refused_and_the_nearest_named(
    things: SimpleNamespace, refused: Any, name: str, close: str
) -> None:
    words = [f"no attribute '{name}'"] + ([f"did you mean '{close}'?"] if close else [])
    refused(things, lambda s: setattr(s.layer, name, 0.5), AttributeError, *words)
    refused(things, lambda s: setattr(s.drop, "P", 0.5), AttributeError, "no attribute 'P'", "'p'")


def test_options_that_may_be_set_work_and_are_checked() -> None:
    layer, x = normdrop.BatchNorm(3), _x(dtype=np.float64)
    layer.momentum, layer.eps, layer.unbiased, layer.on_nonfinite = 0.0, 0.5, False, "skip"
    layer(x)
    np.testing.assert_allclose(layer.running_var, x.var(axis=0), rtol=1e-12)
    drop = normdrop.Dropout(0.5, rng=1)
    drop.p = 1.0
    assert not drop(x).any()
    drop.stream = normdrop.MaskStream(2)
    assert drop.stream == normdrop.MaskStream(2)
    for each, name, value, word in [
        (layer, "training", 1, "training must be"),
        (layer, "unbiased", "yes", "unbiased must be"),
        (layer, "on_nonfinite", "no", "on_nonfinite must be"),
        (layer, "num_batches", -1, "num_batches must be"),
        (drop, "p", 2, "p must be"),
        (drop, "stream", 3, "stream must be"),
    ]:
        with pytest.raises((TypeError, ValueError), match=word):
            setattr(each, name, value)


@pytest.mark.parametrize("layer", ["layer", "bare", "untracked"])
@pytest.mark.parametrize("name", ["gamma", "beta", "running_mean", "running_var"])
def test_an_array_that_a_layer_has_cannot_become_none_nor_the_other_way_round(
    things: SimpleNamespace, refused: Any, layer: str, name: str
) -> None:
    it = getattr(things, layer)
    other = None if getattr(it, name) is not None else np.ones(3)
    word = "with" if other is None else "without"
    refused(things, lambda s: setattr(it, name, other), AttributeError, f"made {word} {name}", "make a new BatchNorm")


READ_ONLY = np.ones(3)
READ_ONLY.flags.writeable = False
WRONG = {
    "a list": ([1.0, 1.0, 1.0], TypeError, ("list", "np.asarray", "dtype=np.float64")),
    "a number": (1.0, TypeError, ("float 1.0",)),
    "two channels": (np.ones(2), ValueError, ("shape (3,)", "(2,)")),
    "ints": (np.ones(3, np.int64), TypeError, ("int64", "astype")),
    "read-only": (READ_ONLY, ValueError, ("read-only", "copy()")),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("name", ["gamma", "beta", "dgamma", "dbeta", "running_mean", "running_var"])
def test_an_array_that_does_not_fit_is_refused_when_it_is_set(
    things: SimpleNamespace, refused: Any, name: str, wrong: str
) -> None:
    value, error, words = WRONG[wrong]
    if name.startswith("d") and wrong == "read-only":
        pytest.skip("a gradient is only read")
    things.wide = normdrop.BatchNorm(3, dtype=np.float64)
    refused(things, lambda s: setattr(s.wide, name, value), error, name, *words)


def test_a_parameter_of_another_dtype_is_refused_when_it_is_set(things: SimpleNamespace, refused: Any) -> None:
    things.value = things.layer.gamma - np.float64(0.1)
    words = "gamma must have the layer's dtype, float32", "got float64", "astype('float32')"
    refused(things, lambda s: setattr(s.layer, "gamma", s.value), TypeError, *words)
    things.layer.gamma -= np.float64(0.1)
    assert things.layer.gamma.dtype == np.float32


def test_options_may_be_set_to_what_they_are(things: SimpleNamespace) -> None:
    for layer in (things.layer, things.untracked, things.channels):
        for name, value in vars(layer).items():
            setattr(layer, name, value)


def test_a_float32_running_mean_is_refused_when_it_is_set_with_the_remedy(
    things: SimpleNamespace, refused: Any
) -> None:
    value = np.ones(3, np.float32)
    words = "running_mean must have dtype float64", "astype(np.float64)"
    refused(things, lambda s: setattr(s.layer, "running_mean", value), TypeError, *words)


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


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Named(normdrop.Dropout):
        name = ""

        def __init__(self, name: str) -> None:
            super().__init__(0.5)
            self.name = name
            self._note = 1

    layer = Named("a")
    layer.name = "b"
    twin = copy.deepcopy(layer)
    assert (twin.name, twin._note) == ("b", 1)
    layer.history = []  # like none of the layer's
    with pytest.raises(AttributeError, match=r"did you mean 'training'.*A subclass that wants the name says so"):
        layer.trainig = False


def test_a_subclass_may_give_its_attributes_none_or_an_object_that_can_be_called() -> None:
    class Named(normdrop.Dropout):
        name = None
        activation = np.tanh
        owner: Any = None

        def __init__(self) -> None:
            super().__init__(0.5)
            self.name, self.activation, self.owner = "a", None, self

    layer = copy.deepcopy(Named())
    assert (layer.name, layer.activation) == ("a", None)
    assert layer.owner is layer
    with pytest.raises(AttributeError, match="did you mean 'training'"):
        layer.train = True


@pytest.mark.parametrize("kind", [normdrop.BatchNorm, normdrop.Dropout])
def test_a_layer_that_was_not_made_yet_lacks_its_attributes_as_any_object_does(kind: Any) -> None:
    layer = kind.__new__(kind)
    assert not hasattr(layer, "training")
    assert getattr(layer, "p", None) is None
    assert getattr(layer, "gamma", 1) == 1
    with pytest.raises(AttributeError, match="has no training before"):
        _ = layer.training


# Scale without shift, and the other way round.


@pytest.mark.parametrize(("scale", "shift"), [(True, False), (False, True), (True, None), (None, False)])
@pytest.mark.parametrize("affine", [True, False])
def test_scale_and_shift_are_options_of_their_own(affine: bool, scale: bool | None, shift: bool | None) -> None:
    layer = normdrop.BatchNorm(3, affine=affine, scale=scale, shift=shift, dtype=np.float64)
    has = affine if scale is None else scale, affine if shift is None else shift
    assert (layer.gamma is not None, layer.beta is not None) == (layer.scale, layer.shift) == has
    assert layer.affine == all(has)
    names = [name for name, there in zip(("gamma", "beta"), has, strict=True) if there]
    assert [name for name, _, _ in layer.parameters()] == names
    assert set(layer.state_dict()) == {*names, "running_mean", "running_var", "num_batches", "num_values"}
    x, dy = _x(dtype=np.float64), _x(seed=1, dtype=np.float64)
    y, dx = layer(x), layer.backward(dy)
    full = normdrop.BatchNorm(3, dtype=np.float64)
    np.testing.assert_array_equal(y, full(x))
    np.testing.assert_array_equal(dx, full.backward(dy))
    for name in ("gamma", "beta"):
        mine = getattr(layer, f"d{name}")
        assert (mine is not None) == (name in names)
        assert mine is None or np.array_equal(mine, getattr(full, f"d{name}"))
    twin = pickle.loads(pickle.dumps(layer))
    assert repr(twin) == repr(layer)
    assert (f"scale={has[0]}, shift={has[1]}" in repr(layer)) == (has[0] != has[1])


def test_repr_tells_dtype_mode_and_stream() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    assert "dtype=float64" in repr(layer)
    assert "training=True" in repr(layer)
    assert "training=False" in repr(layer.eval())
    drop = normdrop.Dropout2d(0.5, rng=1)
    assert repr(drop.stream) in repr(drop)
    assert "training=True" in repr(drop)
