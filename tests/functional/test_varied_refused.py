"""A p that varies is refused where there is one number alone, with a sentence that says where it goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, convert, functional

pytestmark = pytest.mark.same

X = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
IMAGE = np.ones((3, 4))
CALLS = {
    "AlphaDropout": lambda p, rng: normdrop.AlphaDropout(p, rng=rng),
    "BatchNormAct": lambda p, rng: normdrop.BatchNormAct(3, p=p, rng=rng),
    "BatchNormAct.p": lambda p, rng: setattr(normdrop.BatchNormAct(3, rng=1), "p", p),
    "ConcreteDropout": lambda p, rng: normdrop.ConcreteDropout(p, rng=rng),
    "DropBlock2d": lambda p, rng: normdrop.DropBlock2d(p, 2, rng=rng),
    "DropConnect": lambda p, rng: normdrop.DropConnect(p, rng=rng),
    "FeatureAlphaDropout": lambda p, rng: normdrop.FeatureAlphaDropout(p, rng=rng),
    "GaussianDropout": lambda p, rng: normdrop.GaussianDropout(p, rng=rng),
    "act_dropout": lambda p, rng: functional.act_dropout(X, p=p, rng=rng),
    "alpha_dropout": lambda p, rng: functional.alpha_dropout(X, p, rng=rng),
    "batch_norm_act": lambda p, rng: functional.batch_norm_act(X, p=p, rng=rng),
    "drop_block": lambda p, rng: functional.drop_block(X, p, 2, rng=rng),
    "drop_connect": lambda p, rng: functional.drop_connect(IMAGE, IMAGE, p=p, rng=rng),
    "gaussian_dropout": lambda p, rng: functional.gaussian_dropout(X, p, rng=rng),
}
VARIED = {"array": np.full((3, 1, 1), 0.5), "array of one": np.array(0.5), "schedule": lambda step: 0.5}


@pytest.mark.parametrize("p", list(VARIED.values()), ids=list(VARIED))
@pytest.mark.parametrize("name", list(CALLS))
def test_an_array_or_a_schedule_is_refused_where_p_is_one_number(refused: Any, name: str, p: Any) -> None:
    words = "p must be one number here", "Arrays are for functional.dropout", "Dropout1d", "schedules for those layers"
    refused(SimpleNamespace(rng=MaskStream(1), x=X), lambda s: CALLS[name](p, s.rng), TypeError, *words)


@pytest.mark.parametrize("call", [functional.dropout, functional.dropout_inference])
def test_a_schedule_is_refused_where_nothing_counts_steps(call: Any) -> None:
    with pytest.raises(TypeError, match=r"p must be one number here.* schedules for those layers"):
        call(X, lambda step: 0.5)


@pytest.mark.parametrize("p", [np.full(3, 0.5), lambda step: 0.5], ids=["array", "schedule"])
@pytest.mark.parametrize("name", ["torch", "keras", "flax", "onnx"])
def test_a_layer_whose_p_varies_is_not_converted_and_the_error_says_what_to_set(
    refused: Any, name: str, p: Any
) -> None:
    options = {"arrays": True} if name in ("torch", "keras") else {}  # no library is imported for it
    layer = normdrop.Dropout(p, rng=1)
    kind = type(p).__name__.replace("ndarray", "array")
    words = "one number as p", kind, "Set layer.p to a number"
    refused(
        SimpleNamespace(layer=layer), lambda s: getattr(convert, f"to_{name}")(s.layer, **options), ValueError, *words
    )
    layer.p = 0.5
    assert isinstance(getattr(convert, f"to_{name}")(layer, **options), convert.Exported)


BAD_ARRAYS: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "nan": (np.array([[0.1], [np.nan], [0.1]]), ValueError, ("from 0 to 1", "nan at (1, 0)")),
    "below 0": (np.array([[[-1e-9]]]), ValueError, ("from 0 to 1", "-1e-09 at (0, 0, 0)", "np.clip")),
    "too many axes": (np.full((1, 2, 3, 4, 4), 0.5), ValueError, ("broadcastable", "(2, 3, 1, 4)", "p.reshape")),
    "shared axis": (np.full((3, 4, 4), 0.5), ValueError, ("broadcastable", "(2, 3, 1, 4)", "(3, 4, 4)")),
    "channels last": (np.full(3, 0.5), ValueError, ("broadcastable", "(2, 3, 1, 4)", "(3,)")),
    "integers": (np.zeros((3, 1, 1), int), TypeError, ("p must have dtype", "int64")),
    "bools": (np.zeros((3, 1, 1), bool), TypeError, ("p must have dtype", "bool")),
    "masked": (np.ma.masked_array(np.full((3, 1, 1), 0.5)), TypeError, ("p is a masked array", "p.filled")),
    "list": ([[0.5]], TypeError, ("p must be", "list")),
}


@pytest.mark.parametrize("case", list(BAD_ARRAYS))
def test_an_array_that_is_no_p_of_the_mask_is_refused_and_changes_nothing(refused: Any, case: str) -> None:
    p, error, words = BAD_ARRAYS[case]
    things = SimpleNamespace(x=X, out=X.copy(), rng=MaskStream(1))
    refused(things, lambda s: functional.dropout(s.x, p, shared_axes=2, rng=s.rng, out=s.out), error, *words)


@pytest.mark.parametrize(("make", "x"), [(normdrop.Dropout2d, X), (normdrop.Dropout1d, X[0])], ids=["2d", "1d"])
def test_one_number_for_each_channel_is_asked_for_by_their_number(refused: Any, make: Any, x: Any) -> None:
    layer = make(np.full(5, 0.5), rng=1)
    refused(
        SimpleNamespace(layer=layer),
        lambda s: s.layer(x),
        ValueError,
        f"{x.shape[1]} channels",
        "(5,)",
        "the axes of x",
    )


def test_the_array_of_a_layer_cannot_be_changed_in_place() -> None:
    layer = normdrop.Dropout(np.full(3, 0.5))
    with pytest.raises(ValueError, match="read-only"):
        layer.p[0] = 2.0
