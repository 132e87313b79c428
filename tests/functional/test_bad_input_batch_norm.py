"""Arguments of batch normalization that are refused, as in test_bad_input.py: an error that helps, nothing changes."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def things():
    s = SimpleNamespace(x=np.random.default_rng(0).normal(size=(4, 6, 5, 3)).astype(np.float32))
    s.gamma, s.var = np.ones((2, 6), np.float32)
    s.generator, s.stream = np.random.default_rng(1), MaskStream(1)
    s.layer, s.cumulative = normdrop.BatchNorm(6), normdrop.BatchNorm(6, momentum=None, dtype=np.float64)
    s.last = normdrop.BatchNorm(3, channel_axis=-1)
    for layer in (s.layer, s.cumulative, s.last):
        layer(s.x)
        layer.backward(s.x)
        layer(s.x)
    s.inference = normdrop.BatchNorm(6)
    s.inference(s.x)
    s.inference.forget()
    s.inference.eval()(s.x)
    return s


ROWS = []


def rows(name, values, *calls):
    """Add a row for each (value, error, words) and call."""
    for row, (value, error, *words) in enumerate(values):
        for n, call in enumerate(calls):
            label = f"{name} {row}, {type(value).__name__}, call {n}"
            ROWS.append(pytest.param(lambda s, c=call, v=value: c(s, v), error, words, id=label))


def make(s, **options):
    return normdrop.BatchNorm(6, gamma_init="uniform", rng=s.generator, **options)


rows(
    "num_features",
    [
        (0, ValueError, "num_features must be at least 1", "got 0"),
        (-3, ValueError, "num_features must be at least 1", "got -3"),
        (3.0, TypeError, "num_features must be an int", "float 3.0"),
        ("3", TypeError, "num_features must be an int", "str '3'"),
        (True, TypeError, "num_features must be an int", "bool True"),
        (None, TypeError, "num_features must be an int", "NoneType"),
        ((3,), TypeError, "num_features must be an int", "tuple (3,)"),
        (np.float32(3), TypeError, "num_features must be an int", "float32"),
    ],
    lambda s, n: normdrop.BatchNorm(n, gamma_init="uniform", rng=s.generator),
    lambda s, n: normdrop.BatchNorm2d(n, gamma_init="uniform", rng=s.stream),
)

MATCH = "x must have num_features", "got shape", "Pass such an array, or make the layer"
rows(
    "channels of x",
    [
        ((4, 5, 5, 3), ValueError, *MATCH, "num_features = 6", "channel_axis = 1", "(4, 5, 5, 3)"),
        ((4, 7), ValueError, *MATCH, "(4, 7)"),
        ((4, 0), ValueError, *MATCH, "(4, 0)"),
        ((4, 1, 6), ValueError, *MATCH, "(4, 1, 6)"),
        ((6,), ValueError, *MATCH, "(6,)"),
        ((), ValueError, *MATCH, "()"),
    ],
    lambda s, shape: s.layer(np.ones(shape, np.float32)),
    lambda s, shape: s.cumulative(np.ones(shape)),
    lambda s, shape: s.inference(np.ones(shape)),
    lambda s, shape: s.inference(np.ones(shape), keep_x=True),
)
rows(
    "channels last",
    [((3, 6), ValueError, *MATCH, "channel_axis = -1", "num_features = 3"), ((3,), ValueError, *MATCH)],
    lambda s, shape: s.last(np.ones(shape)),
)
rows(
    "channel_axis beyond x",
    [((2, 6, 3), ValueError, *MATCH, "channel_axis = 3", "(2, 6, 3)")],
    lambda s, shape: normdrop.BatchNorm(3, channel_axis=3)(np.ones(shape)),
)
rows(
    "one value per channel",
    [
        ((1, 6), ValueError, "x has one value per channel", "(1, 6", "larger batch"),
        ((1, 6, 1), ValueError, "x has one"),
    ],
    lambda s, shape: s.layer(np.ones(shape, np.float32)),
    lambda s, shape: s.cumulative(np.ones(shape)),
    lambda s, shape: functional.batch_norm(np.ones(shape)),
    lambda s, shape: normdrop.BatchNorm(6, track_running_stats=False)(np.ones(shape)),
)
rows(
    "x without channels",
    [((), ValueError, "x must have", "batch axis", "()"), ((6,), ValueError, "x must have", "channel axis", "(6,)")],
    lambda s, shape: functional.batch_norm(np.ones(shape)),
    lambda s, shape: functional.batch_norm_inference(np.ones(shape), s.gamma, s.var),
)
for name, ndims, shape in (
    ("BatchNorm1d", (2, 3), "(N, C) or (N, C, L)"),
    ("BatchNorm2d", (4,), "(N, C, H, W)"),
    ("BatchNorm3d", (5,), "(N, C, D, H, W)"),
):
    for ndim in {0, 1, 2, 3, 4, 5, 6} - {*ndims}:
        rows(
            name,
            [(ndim, ValueError, "x must have", f"axes for {name}", f"got {ndim}", shape, "BatchNorm takes any rank")],
            lambda s, n, name=name: getattr(normdrop, name)(2)(np.ones((2,) * n)),
            lambda s, n, name=name: getattr(normdrop, name)(2).eval()(np.ones((2,) * n)),
        )

EPS = "eps must be", "positive", "1e-5"
rows(
    "eps",
    [
        (0, ValueError, *EPS, "got 0"),
        (0.0, ValueError, *EPS, "got 0.0"),
        (-1e-5, ValueError, *EPS, "got -1e-05"),
        (INF, ValueError, *EPS, "inf"),
        (NAN, ValueError, *EPS, "nan"),
        ("1e-5", TypeError, *EPS, "str '1e-5'"),
        (True, TypeError, *EPS, "bool True"),
        (None, TypeError, *EPS, "NoneType"),
        (1e-5j, TypeError, *EPS, "complex"),
        (np.array([1e-5]), TypeError, *EPS, "ndarray"),
    ],
    lambda s, eps: make(s, eps=eps),
    lambda s, eps: setattr(s.layer, "eps", eps),
    lambda s, eps: functional.batch_norm(s.x, eps=eps),
    lambda s, eps: functional.batch_norm_inference(s.x, s.gamma, s.var, eps=eps),
)

MOMENTUM = "momentum must be", "weight of the old", "from 0 to 1", "None for the cumulative average"
rows(
    "momentum",
    [
        (-0.1, ValueError, *MOMENTUM, "got -0.1", "PyTorch"),
        (1.1, ValueError, *MOMENTUM, "got 1.1", "PyTorch"),
        (Fraction(-1, 2), ValueError, *MOMENTUM, "-1, 2"),
        (INF, ValueError, *MOMENTUM, "inf"),
        (NAN, ValueError, *MOMENTUM, "nan"),
        ("0.9", TypeError, *MOMENTUM, "str '0.9'"),
        (True, TypeError, *MOMENTUM, "bool True"),
        (np.True_, TypeError, *MOMENTUM, "bool"),
        (0.9j, TypeError, *MOMENTUM, "complex"),
        ([0.9], TypeError, *MOMENTUM, "list"),
    ],
    lambda s, momentum: make(s, momentum=momentum),
    lambda s, momentum: setattr(s.layer, "momentum", momentum),
)

for flag in ("affine", "track_running_stats", "unbiased"):
    rows(
        flag,
        [
            (1, TypeError, f"{flag} must be True or False", "int 1"),
            ("yes", TypeError, f"{flag} must be True or False", "str 'yes'"),
            (None, TypeError, f"{flag} must be True or False", "NoneType"),
        ],
        lambda s, value, name=flag: make(s, **{name: value}),
    )
rows(
    "keep_x",
    [(1, TypeError, "keep_x must be True or False", "int 1"), (None, TypeError, "keep_x must be", "NoneType")],
    lambda s, keep_x: s.layer(s.x, keep_x=keep_x),
    lambda s, keep_x: s.inference(s.x, keep_x=keep_x),
    lambda s, keep_x: functional.batch_norm_inference(s.x, s.gamma, s.var, keep_x=keep_x),
)

INIT = "gamma_init must be one of", "'ones', 'uniform'"
rows(
    "gamma_init",
    [
        ("zeros", ValueError, *INIT, "'zeros'"),
        (None, TypeError, *INIT, "NoneType"),
        (1, TypeError, *INIT, "int 1"),
        (True, TypeError, *INIT, "bool True"),
    ],
    lambda s, init: normdrop.BatchNorm(6, gamma_init=init, rng=s.generator),
)

NONFINITE = "on_nonfinite must be one of", "'propagate', 'raise', 'skip'"
rows(
    "on_nonfinite",
    [
        ("ignore", ValueError, *NONFINITE, "'ignore'"),
        ("Skip", ValueError, *NONFINITE, "'Skip'"),
        (None, TypeError, *NONFINITE, "NoneType"),
        (True, TypeError, *NONFINITE, "bool True"),
    ],
    lambda s, choice: make(s, on_nonfinite=choice),
    lambda s, choice: setattr(s.layer, "on_nonfinite", choice),
)

DTYPE = ("dtype must be float32 or float64",)
rows(
    "dtype",
    [
        (np.float16, TypeError, *DTYPE, "float16"),
        (np.longdouble, TypeError, *DTYPE, "longdouble"),
        (np.int32, TypeError, *DTYPE, "int32"),
        (int, TypeError, *DTYPE, "int"),
        (np.complex64, TypeError, *DTYPE, "complex64"),
        (object, TypeError, *DTYPE, "object"),
        (None, TypeError, *DTYPE, "None"),
        ("floating", TypeError, *DTYPE, "floating"),
        (np.dtype(np.float32).newbyteorder("S").str, TypeError, *DTYPE, "f4"),
    ],
    lambda s, dtype: make(s, dtype=dtype),
)


@pytest.mark.parametrize(("call", "error", "words"), ROWS)
def test_bad_input_is_refused_by_name_and_changes_nothing(things, refused, call, error, words):
    refused(things, call, error, *words)


def test_a_refused_batch_leaves_the_next_one_as_it_would_have_been(things):
    twin = normdrop.BatchNorm(6)
    twin.load_state_dict(things.layer.state_dict())
    for bad in (things.x[:, :5], things.x[:1, :, :1, :1], things.x.astype(np.int32)):
        with pytest.raises((TypeError, ValueError)):
            things.layer(bad)
    assert np.array_equal(things.layer(things.x), twin(things.x))
    assert things.layer.state_dict().keys() == twin.state_dict().keys()
    assert all(np.array_equal(a, twin.state_dict()[name]) for name, a in things.layer.state_dict().items())


def test_a_kernel_that_fails_changes_no_statistics(things, refused, monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(normdrop._backend.contracts, "select", fail)
    for name in ("layer", "cumulative", "inference"):
        refused(things, lambda s, layer=name: getattr(s, layer)(s.x), MemoryError, "no room")
        refused(things, lambda s, layer=name: getattr(s, layer).backward(s.x), MemoryError, "no room")
