"""Attributes of layers are checked when they are set, fixed, or refused if nothing would come of them."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop


def _x(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape or (8, 3)).astype(dtype)


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
