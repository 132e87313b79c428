"""Arrays that are refused: dtype, byte order, masked arrays, and every wrong `out`; nothing changes (law 2.7)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import functional

SHAPE = (6, 6)


@pytest.fixture
def things():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(4, 7, 6)).astype(np.float32)
    s = SimpleNamespace(whole_x=values[0], whole_dy=values[1], x=values[0, :6], dy=values[1, :6])
    s.gamma, s.beta, s.mean, s.var = generator.random((4, 6)).astype(np.float32)
    s.dropout, s.batch_norm = normdrop.Dropout(0.5, rng=1), normdrop.BatchNorm(6)
    s.inference = normdrop.BatchNorm(6)
    for layer in (s.dropout, s.batch_norm, s.inference):
        layer(s.x)
        layer.backward(s.dy)
        layer(s.x)
    s.inference.forget()
    s.inference.eval()(s.x, keep_x=True)
    s.eval_dropout = normdrop.Dropout(0.5, scaling="original", rng=1).eval()
    s.eval_dropout(s.x)
    s.stream = normdrop.MaskStream(3)
    s.dropout_context = functional.dropout(s.x, 0.5, rng=3)[1]
    s.batch_norm_context = functional.batch_norm(s.x, s.gamma, s.beta)[1]
    s.inference_context = functional.batch_norm_inference(s.x, s.mean, s.var, s.gamma, keep_x=True)[1]
    return s


# name: (argument, the call with another array for that argument)
ENTRIES = {
    "dropout": ("x", lambda s, a, **o: functional.dropout(a, 0.5, rng=s.stream, **o)),
    "dropout_inference": ("x", lambda s, a, **o: functional.dropout_inference(a, 0.5, **o)),
    "dropout_backward": ("dy", lambda s, a, **o: functional.dropout_backward(a, s.dropout_context, **o)),
    "Dropout.forward": ("x", lambda s, a, **o: s.dropout(a, **o)),
    "Dropout.forward, inference": ("x", lambda s, a, **o: s.eval_dropout(a, **o)),
    "Dropout.backward": ("dy", lambda s, a, **o: s.dropout.backward(a, **o)),
    "Dropout.backward, inference": ("dy", lambda s, a, **o: s.eval_dropout.backward(a, **o)),
    "batch_norm": ("x", lambda s, a, **o: functional.batch_norm(a, s.gamma, s.beta, **o)),
    "batch_norm_backward": ("dy", lambda s, a, **o: functional.batch_norm_backward(a, s.batch_norm_context, **o)),
    "batch_norm_inference": ("x", lambda s, a, **o: functional.batch_norm_inference(a, s.mean, s.var, **o)),
    "batch_norm_inference_backward": (
        "dy",
        lambda s, a, **o: functional.batch_norm_inference_backward(a, s.inference_context, **o),
    ),
    "BatchNorm.forward": ("x", lambda s, a, **o: s.batch_norm(a, **o)),
    "BatchNorm.forward, inference": ("x", lambda s, a, **o: s.inference(a, **o)),
    "BatchNorm.backward": ("dy", lambda s, a, **o: s.batch_norm.backward(a, **o)),
    "BatchNorm.backward, inference": ("dy", lambda s, a, **o: s.inference.backward(a, **o)),
}
VECTORS = {
    "batch_norm, gamma": ("gamma", lambda s, a: functional.batch_norm(s.x, a)),
    "batch_norm, beta": ("beta", lambda s, a: functional.batch_norm(s.x, None, a)),
    "batch_norm_inference, mean": ("mean", lambda s, a: functional.batch_norm_inference(s.x, a, s.var)),
    "batch_norm_inference, var": ("var", lambda s, a: functional.batch_norm_inference(s.x, s.mean, a)),
    "batch_norm_inference, gamma": ("gamma", lambda s, a: functional.batch_norm_inference(s.x, s.mean, s.var, a)),
    "batch_norm_inference, beta": ("beta", lambda s, a: functional.batch_norm_inference(s.x, s.mean, s.var, None, a)),
}
FOREIGN = np.dtype(np.float32).newbyteorder("S")

# name: (the wrong array, words of the message)
WRONG = {
    "list": (np.ndarray.tolist, ("list", "np.asarray", "dtype=np.float32")),
    "tuple": (lambda a: tuple(a.ravel()), ("tuple", "np.asarray", "dtype=np.float32")),
    "number": (lambda a: 1.0, ("float 1.0", "np.", "np.float32)")),
    "longdouble": (lambda a: a.astype(np.longdouble), (np.dtype(np.longdouble).name, "float64", "astype")),
    "int64": (lambda a: a.astype(np.int64), ("int64", "float32", "astype")),
    "uint8": (lambda a: np.abs(a).astype(np.uint8), ("uint8", "float32", "astype")),
    "bool": (lambda a: a > 0, ("bool", "float32", "astype")),
    "complex64": (lambda a: a.astype(np.complex64), ("complex64", "float32", ".real", ".imag")),
    "object": (lambda a: a.astype(object), ("object", "float32", "astype")),
    "str": (lambda a: a.astype(str), ("<U", "float32", "astype")),
    "foreign float32": (lambda a: a.astype(FOREIGN), (FOREIGN.str, "byte order", "newbyteorder")),
    "foreign float16": (lambda a: a.astype(np.dtype(np.float16).newbyteorder("S")), ("byte order", "astype")),
    "two bytes": (lambda a: np.zeros(a.shape, "V2"), ("V2", "float32", "view(ml_dtypes.bfloat16)")),
    "foreign float64": (lambda a: a.astype(np.dtype(">f8" if FOREIGN.str[0] == ">" else "<f8")), ("byte order",)),
    "masked": (np.ma.masked_array, ("masked array", "filled")),
    "masked with a mask": (lambda a: np.ma.masked_array(a, a > 0), ("masked array", "filled")),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("entry", list(ENTRIES))
def test_what_is_no_native_float_array_is_refused(things, refused, entry, wrong):
    argument, call = ENTRIES[entry]
    make, words = WRONG[wrong]
    things.wrong = make(things.x if argument == "x" else things.dy)
    refused(things, lambda s: call(s, s.wrong), TypeError, argument, *words)


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("entry", list(VECTORS))
def test_vectors_that_are_no_native_float_arrays_are_refused(things, refused, entry, wrong):
    argument, call = VECTORS[entry]
    make, words = WRONG[wrong]
    things.wrong = make(things.var)
    refused(things, lambda s: call(s, s.wrong), TypeError, argument, *words)


@pytest.mark.parametrize("shape", [(5,), (7,), (0,), (), (1, 6), (6, 1), (1,)])
@pytest.mark.parametrize("entry", list(VECTORS))
def test_vectors_without_one_value_per_channel_are_refused(things, refused, entry, shape):
    argument, call = VECTORS[entry]
    things.wrong = np.ones(shape, np.float32)
    refused(things, lambda s: call(s, s.wrong), ValueError, argument, "(6,)", str(shape), "one value per channel")


@pytest.mark.parametrize("values", [[1, 1, -1e-9, 1, 1, 1], [np.nan, 1, 1, 1, 1, -1], [1, 1, 1, 1, 1, -np.inf]])
def test_a_negative_variance_is_refused(things, refused, values):
    things.wrong = np.array(values)
    refused(
        things,
        lambda s: functional.batch_norm_inference(s.x, s.mean, s.wrong),
        ValueError,
        "var must not be negative",
        "Pass",
    )


def self_overlapping(like):
    whole = np.zeros(40, like.dtype)
    return np.lib.stride_tricks.as_strided(whole, SHAPE, (whole.itemsize, whole.itemsize))


def read_only(like):
    copy = like.copy()
    copy.flags.writeable = False
    return copy


# name: (the wrong out for an input and the whole array that it lies in, error, words of the message)
WRONG_OUT = {
    "list": (lambda a, whole: a.tolist(), TypeError, ("must be a NumPy array", "list", "(6, 6)", "float32")),
    "True": (lambda a, whole: True, TypeError, ("must be a NumPy array", "bool")),
    "shape": (lambda a, whole: np.zeros((6, 5), a.dtype), ValueError, ("shape", "(6, 6)", "(6, 5)")),
    "rank": (lambda a, whole: np.zeros((1, 6, 6), a.dtype), ValueError, ("shape", "(6, 6)", "(1, 6, 6)")),
    "float64": (lambda a, whole: np.zeros(SHAPE), TypeError, ("dtype", "float32", "f8")),
    "float16": (lambda a, whole: np.zeros(SHAPE, np.float16), TypeError, ("dtype", "float32", "f2")),
    "int32": (lambda a, whole: np.zeros(SHAPE, np.int32), TypeError, ("dtype", "float32", "i4")),
    "byte order": (lambda a, whole: np.zeros(SHAPE, FOREIGN), TypeError, ("dtype", "float32", FOREIGN.str)),
    "masked": (lambda a, whole: np.ma.zeros(SHAPE, a.dtype), TypeError, ("masked array", "out.data")),
    "read-only": (lambda a, whole: read_only(a), ValueError, ("read-only", "writable")),
    "one row later": (lambda a, whole: whole[1:], ValueError, ("overlaps", "pass")),
    "transposed": (lambda a, whole: a.T, ValueError, ("overlaps", "pass")),
    "reversed": (lambda a, whole: a[::-1], ValueError, ("overlaps", "pass")),
    "overlapping itself": (lambda a, whole: self_overlapping(a), ValueError, ("share memory", "own memory")),
    "one value": (
        lambda a, whole: np.lib.stride_tricks.as_strided(np.zeros(1, a.dtype), SHAPE, (0, 0)),
        ValueError,
        ("share memory", "own memory"),
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG_OUT))
@pytest.mark.parametrize("entry", list(ENTRIES))
def test_a_wrong_out_is_refused(things, refused, entry, wrong):
    argument, call = ENTRIES[entry]
    make, error, words = WRONG_OUT[wrong]
    given, whole = (things.x, things.whole_x) if argument == "x" else (things.dy, things.whole_dy)
    things.wrong = make(given, whole)
    more = (argument,) if "overlaps" in words else ()
    refused(things, lambda s: call(s, given, out=s.wrong), error, "out", *words, *more)


def test_an_out_that_overlaps_the_mask_is_refused(things, refused):
    things.out = np.zeros(SHAPE, np.float32)
    things.mask = things.out.view(np.bool_)[:, :6]
    words = (ValueError, "out", "overlaps mask", "pass")
    refused(things, lambda s: functional.dropout(s.x, 0.5, mask=s.mask, out=s.out), *words)
    refused(things, lambda s: s.dropout(s.x, mask=s.mask, out=s.out), *words)
    context = functional.dropout(things.x, 0.5, mask=things.mask)[1]
    refused(things, lambda s: functional.dropout_backward(s.dy, context, out=s.out), *words)


def test_an_out_that_overlaps_the_x_kept_for_backward_is_refused(things, refused):
    out = things.whole_x[1:]
    for call in ("batch_norm_backward", "batch_norm_inference_backward", "BatchNorm.backward"):
        refused(things, lambda s, run=ENTRIES[call][1]: run(s, s.dy, out=out), ValueError, "out", "overlaps x", "pass")


BACKWARDS = [name for name, (argument, _) in ENTRIES.items() if argument == "dy"]


@pytest.mark.parametrize("shape", [(6,), (6, 5), (5, 6), (6, 6, 1), (1, 6), (0, 6), ()])
@pytest.mark.parametrize("entry", BACKWARDS)
def test_a_dy_of_another_shape_is_refused(things, refused, entry, shape):
    things.wrong = np.ones(shape, np.float32)
    refused(things, lambda s: ENTRIES[entry][1](s, s.wrong), ValueError, "dy", "(6, 6)", str(shape), "must have")


@pytest.mark.parametrize("entry", BACKWARDS)
def test_a_dy_of_another_dtype_is_refused(things, refused, entry):
    things.wrong = np.ones(SHAPE)
    refused(things, lambda s: ENTRIES[entry][1](s, s.wrong), TypeError, "dy", "float32", "float64", "astype")


@pytest.mark.parametrize("layer", ["dropout", "eval_dropout", "batch_norm", "inference"])
def test_backward_can_be_called_again_after_it_was_refused(things, layer):
    layer = getattr(things, layer)
    with pytest.raises(ValueError, match="dy"):
        layer.backward(np.ones(3, np.float32))
    assert layer.backward(things.dy).shape == SHAPE


@pytest.mark.parametrize("entry", ["dropout", "batch_norm", "batch_norm_inference"])
@pytest.mark.parametrize("wrong", [None, (), "context", 1])
def test_a_context_that_no_forward_pass_returned_is_refused(things, refused, entry, wrong):
    backward = getattr(functional, f"{entry}_backward")
    refused(things, lambda s: backward(s.dy, wrong), TypeError, "context", f"{entry}()", type(wrong).__name__)


def test_a_context_of_another_pass_is_refused(things, refused):
    contexts = {
        "dropout": things.dropout_context,
        "batch_norm": things.batch_norm_context,
        "batch_norm_inference": things.inference_context,
    }
    for entry in contexts:
        backward = getattr(functional, f"{entry}_backward")
        for other in set(contexts) - {entry}:
            refused(things, lambda s, run=backward, c=contexts[other]: run(s.dy, c), TypeError, "context", f"{entry}()")
