"""Arguments that are refused: each row is a call, its error, and words of the message; nothing changes.

The words are the argument's name, what came, and what to do.
"""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

NAN, INF = float("nan"), float("inf")
ARRAY = np.array(0.5)


@pytest.fixture
def things():
    s = SimpleNamespace(x=np.random.default_rng(0).normal(size=(4, 6, 5, 3)).astype(np.float32))
    s.flat, s.row = s.x[:, :, 0, 0], s.x[:1, :, 0, 0]
    s.mask = np.ones(s.x.shape, np.bool_)
    s.generator, s.sequence, s.stream = np.random.default_rng(1), np.random.SeedSequence(1), MaskStream(1)
    s.new_dropout, s.new_batch_norm = normdrop.Dropout(rng=1), normdrop.BatchNorm(6)
    s.dropout = normdrop.Dropout(0.5, rng=1)
    s.shared = normdrop.Dropout(0.5, shared_axes=3, rng=1)
    s.channels = normdrop.Dropout2d(0.5, rng=1)
    s.batch_norm, s.last = normdrop.BatchNorm(6), normdrop.BatchNorm(3, channel_axis=3)
    for layer in (s.dropout, s.channels, s.batch_norm, s.last):
        layer(s.x)
        layer.backward(s.x)
        layer(s.x)
    s.used_dropout, s.used_batch_norm = normdrop.Dropout(rng=1), normdrop.BatchNorm(6)
    for layer in (s.used_dropout, s.used_batch_norm):
        layer(s.x)
        layer.backward(s.x)
    s.inference = normdrop.BatchNorm(6).eval()
    s.eval_dropout = normdrop.Dropout(rng=1).eval()
    return s


ROWS = []


def rows(name, values, *calls):
    """Add a row for each (value, error, words) and call."""
    for row, (value, error, *words) in enumerate(values):
        for n, call in enumerate(calls):
            label = f"{name} {row}, {type(value).__name__}, call {n}"
            ROWS.append(pytest.param(lambda s, c=call, v=value: c(s, v), error, words, id=label))


P = "probability of dropping", "from 0 to 1"
rows(
    "p",
    [
        (-1e-9, ValueError, "p must be", "-1e-09", *P),
        (1.0000001, ValueError, "p must be", "1.0000001", *P),
        (2, ValueError, "p must be", "2", *P),
        (INF, ValueError, "p must be", "inf", *P),
        (-INF, ValueError, "p must be", "-inf", *P),
        (NAN, ValueError, "p must be", "nan", *P),
        (np.float32(NAN), ValueError, "p must be", "nan", *P),
        (Fraction(3, 2), ValueError, "p must be", "3, 2", *P),
        (True, TypeError, "p must be", "bool True", *P),
        (np.False_, TypeError, "p must be", "bool", *P),
        ("0.5", TypeError, "p must be", "str '0.5'", *P),
        (None, TypeError, "p must be", "NoneType", *P),
        (0.5j, TypeError, "p must be", "complex", *P),
        ([0.5], TypeError, "p must be", "list", *P),
    ],
    lambda s, p: functional.dropout(s.x, p, rng=s.stream),
    lambda s, p: functional.dropout_inference(s.x, p),
    lambda s, p: normdrop.Dropout(p, rng=s.generator),
    lambda s, p: normdrop.Dropout2d(p, rng=s.generator),
    lambda s, p: setattr(s.dropout, "p", p),
)

AXIS = "shared_axes must be an axis of x", "from -4 to 3"
AXES = ("shared_axes must be",)
BAD_AXES = [
    (1.0, TypeError, *AXES, "float 1.0"),
    ("1", TypeError, *AXES, "str '1'"),
    (None, TypeError, *AXES, "NoneType"),
    (True, TypeError, *AXES, "bool True"),
    ((0, True), TypeError, *AXES, "bool True"),
    ((1.0,), TypeError, *AXES, "float 1.0"),
    (("a",), TypeError, *AXES, "str 'a'"),
    ([[0]], TypeError, *AXES, "list [0]"),
    (np.array([0.5]), TypeError, *AXES, "0.5"),
]
rows(
    "shared_axes",
    BAD_AXES,
    lambda s, axes: functional.dropout(s.x, 0.5, shared_axes=axes, rng=s.stream),
    lambda s, axes: normdrop.Dropout(0.5, shared_axes=axes, rng=s.generator),
)
rows(
    "shared_axes of x",
    [(4, ValueError, *AXIS, "got 4"), (-5, ValueError, *AXIS, "-5"), ((0, 9), ValueError, *AXIS, "9 for 4 axes")],
    lambda s, axes: functional.dropout(s.x, 0.5, shared_axes=axes, rng=s.stream),
    lambda s, axes: normdrop.Dropout(0.5, shared_axes=axes, rng=5)(s.x),
)
rows(
    "shared_axes of the layer",
    [((4, 6), ValueError, "shared_axes", "got 3 for 2 axes")],
    lambda s, _: s.shared(s.flat),
)

OPTIONS = "scaling must be one of", "'inverted', 'original'"
rows(
    "scaling",
    [
        ("inverse", ValueError, *OPTIONS, "got 'inverse'"),
        ("", ValueError, *OPTIONS, "got ''"),
        (None, TypeError, *OPTIONS, "NoneType"),
        (True, TypeError, *OPTIONS, "bool True"),
        (1, TypeError, *OPTIONS, "int 1"),
    ],
    lambda s, scaling: functional.dropout(s.x, 0.5, scaling=scaling, rng=s.stream),
    lambda s, scaling: functional.dropout_inference(s.x, 0.5, scaling=scaling),
    lambda s, scaling: normdrop.Dropout(0.5, scaling=scaling, rng=s.generator),
    lambda s, scaling: normdrop.Dropout3d(0.5, scaling=scaling, rng=s.generator),
)

RNG = "rng must be", "SeedSequence", "MaskStream"
BAD_RNG = [
    ("seed", TypeError, *RNG, "str 'seed'"),
    (1.5, TypeError, *RNG, "float 1.5"),
    (True, TypeError, *RNG, "bool True"),
    ([1, 2], TypeError, *RNG, "list [1, 2]"),
    (np.random, TypeError, *RNG, "module"),
    (np.random.RandomState(0), TypeError, *RNG, "RandomState"),
    (-1, ValueError, "rng must be", "-1", "at least 0"),
]
rows(
    "rng",
    BAD_RNG,
    lambda s, rng: MaskStream(rng),
    lambda s, rng: normdrop.Dropout(0.5, rng=rng),
    lambda s, rng: normdrop.Dropout1d(0.5, rng=rng),
    lambda s, rng: functional.dropout(s.x, 0.5, rng=rng),
    lambda s, rng: functional.dropout(s.x[:0], 0.5, rng=rng),
    lambda s, rng: normdrop.BatchNorm(3, gamma_init="uniform", rng=rng),
    lambda s, rng: normdrop.BatchNorm(3, rng=rng),
)
rows(
    "n",
    [
        (-1, ValueError, "n must be at least 0", "-1"),
        (1.5, TypeError, "n must be an int", "float 1.5"),
        ("1", TypeError, "n must be an int", "str '1'"),
        (True, TypeError, "n must be an int", "bool True"),
        ([1], TypeError, "n must be an int", "list [1]"),
    ],
    lambda s, n: normdrop.seed(n),
)
rows(
    "mask",
    [
        (np.ones((4, 6, 5, 3)), TypeError, "mask must be a boolean", "float64", "astype(bool)"),
        (np.ones((4, 6, 5, 3), np.uint8), TypeError, "mask must be a boolean", "uint8", "astype(bool)"),
        ([True], TypeError, "mask must be a boolean", "list", "np.asarray(mask, dtype=bool)"),
        (True, TypeError, "mask must be a boolean", "bool"),
        (np.ma.ones((4, 6, 5, 3), bool), TypeError, "mask must be a boolean", "masked"),
        (np.ones((4, 6, 5), bool), ValueError, "mask must have shape (4, 6, 5, 3)", "(4, 6, 5)"),
        (np.ones((4, 6, 1, 1), bool), ValueError, "mask must have shape (4, 6, 5, 3)", "(4, 6, 1, 1)", "shared axes"),
        (np.bool_(True), TypeError, "mask must be a boolean"),
        (np.array(True), ValueError, "mask must have shape (4, 6, 5, 3)", "()"),
    ],
    lambda s, mask: functional.dropout(s.x, 0.5, mask=mask),
    lambda s, mask: s.dropout(s.x, mask=mask),
)
rows(
    "mask and others",
    [("", ValueError, "mask and rng are both given", "leave out rng")],
    lambda s, _: functional.dropout(s.x, 0.5, mask=s.mask, rng=s.stream),
    lambda s, _: functional.dropout(s.x, 0.5, mask=s.mask, rng=3),
)
rows("mask, whole", [("", ValueError, "mask", "(4, 6, 5, 1)", "(4, 6, 5, 3)")], lambda s, _: s.shared(s.x, mask=s.mask))
rows("mask, inference", [("", ValueError, "mask", "train()")], lambda s, _: s.eval_dropout(s.x, mask=s.mask))

CHANNEL = "channel_axis must be an axis of x", "from -4 to 3"
rows(
    "channel_axis",
    [
        (1.0, TypeError, "channel_axis must be an int", "float 1.0"),
        ("1", TypeError, "channel_axis must be an int", "str '1'"),
        (True, TypeError, "channel_axis must be an int", "bool True"),
        (None, TypeError, "channel_axis must be an int", "NoneType"),
        ([1], TypeError, "channel_axis must be an int", "list"),
    ],
    lambda s, axis: normdrop.Dropout2d(0.5, channel_axis=axis, rng=s.generator),
    lambda s, axis: normdrop.BatchNorm(6, channel_axis=axis, gamma_init="uniform", rng=s.generator),
    lambda s, axis: functional.batch_norm(s.x, channel_axis=axis),
    lambda s, axis: functional.batch_norm_inference(s.x, s.batch_norm.gamma, s.batch_norm.gamma, channel_axis=axis),
)
rows(
    "channel_axis",
    [(4, ValueError, *CHANNEL, "got 4"), (-5, ValueError, *CHANNEL, "got -5")],
    lambda s, axis: normdrop.Dropout2d(0.5, channel_axis=axis, rng=s.generator),
    lambda s, axis: normdrop.Dropout2d(0.5, channel_axis=axis, rng=s.sequence),
    lambda s, axis: normdrop.Dropout2d(0.5, channel_axis=axis),
    lambda s, axis: functional.batch_norm(s.x, channel_axis=axis),
    lambda s, axis: functional.batch_norm_inference(s.x, s.batch_norm.gamma, s.batch_norm.gamma, channel_axis=axis),
)

RANKS = {"Dropout1d": "(N, C, L)", "Dropout2d": "(N, C, H, W)", "Dropout3d": "(N, C, D, H, W)"}
for number, (name, shape) in enumerate(RANKS.items(), start=3):
    for ndim in {0, 1, 2, 3, 4, 5, 6} - {number}:
        remedy = {3: "Dropout1d", 4: "Dropout2d", 5: "Dropout3d"}.get(ndim, "shared_axes")
        rows(
            name,
            [(ndim, ValueError, f"x must have {number} axes for {name}", f"got {ndim}", shape, "newaxis", remedy)],
            lambda s, n, name=name: getattr(normdrop, name)(rng=s.stream)(np.ones((2,) * n)),
            lambda s, n, name=name: getattr(normdrop, name)(rng=s.stream).eval()(np.ones((2,) * n)),
        )

BEFORE = "backward needs a forward pass before it", "serves one backward", "call the"
rows(
    "backward before forward or twice",
    [
        ("new_dropout", RuntimeError, *BEFORE, "Dropout layer first"),
        ("eval_dropout", RuntimeError, *BEFORE, "Dropout layer first"),
        ("used_dropout", RuntimeError, *BEFORE, "Dropout layer first"),
        ("new_batch_norm", RuntimeError, *BEFORE, "BatchNorm layer first"),
        ("inference", RuntimeError, *BEFORE, "BatchNorm layer first"),
        ("used_batch_norm", RuntimeError, *BEFORE, "BatchNorm layer first"),
    ],
    lambda s, layer: getattr(s, layer).backward(s.x),
)


@pytest.mark.parametrize(("call", "error", "words"), ROWS)
def test_bad_input_is_refused_by_name_and_changes_nothing(things, refused, call, error, words):
    refused(things, call, error, *words)


def test_an_argument_that_does_not_exist_is_refused(things, refused):
    for call in (
        lambda s: normdrop.Dropout(0.5, shared_axis=1),
        lambda s: normdrop.Dropout(0.5, 1),
        lambda s: normdrop.Dropout2d(0.5, shared_axes=1),
        lambda s: normdrop.BatchNorm(6, 1e-5),
        lambda s: s.dropout(s.x, keep_x=True),
        lambda s: s.batch_norm(s.x, masks=s.mask),
        lambda s: functional.dropout(s.x, 0.5, ()),
    ):
        refused(things, call, TypeError, "argument")
