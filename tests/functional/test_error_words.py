"""What errors say of the object that came: nothing that is wrong, long, or slow to find out (law 2.7)."""

from __future__ import annotations

import numpy as np
import pytest

import normdrop
from normdrop import functional

VALUES = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


class Hostile:
    """Whatever is asked of it fails."""

    shape = dtype = property(lambda self: 1 / 0)

    def __repr__(self):
        raise RuntimeError("repr")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "NoneType None. Pass an array of dtype np.float32."),
        ("text", "str 'text'. Pass an array of dtype np.float32."),
        (np.str_("text"), "Pass an array of dtype np.float32."),
        (np.datetime64("2026-01-01"), "Pass an array of dtype np.float32."),
        (b"bytes", "Pass an array of dtype np.float32."),
        ({"x": VALUES}, "Pass an array of dtype np.float32."),
        (len, "Pass an array of dtype np.float32."),
        (Hostile(), "Hostile <Hostile instance at"),
        ([[1.0, 2.0], [3.0]], "numbers, in rows of one length: "),
        ([1.0, "a"], "numbers, in rows of one length: "),
        (functional.dropout(VALUES, 0.5, rng=0), "numbers, in rows of one length: "),
        (np.ones(3, "V4"), "Pass x.view(dtype) with the dtype that its bytes have."),
    ],
)
def test_where_nothing_can_be_converted_the_error_says_what_to_pass(value, words):
    with pytest.raises(TypeError, match=r"^x must") as caught:
        normdrop.Dropout(0.5)(value)
    assert words in str(caught.value)
    assert "Convert it" not in str(caught.value)


def test_a_tensor_without_values_is_not_converted():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="device meta has no values"):
        normdrop.Dropout(0.5)(torch.empty(3, device="meta"))


def test_for_pandas_na_the_error_says_to_pass_an_array():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="Pass an array"):
        normdrop.Dropout(0.5)(pandas.NA)


@pytest.mark.parametrize("value", [1, 1.5, np.float64(2), True])
def test_a_number_for_every_channel_is_written_out(value):
    with pytest.raises(
        TypeError, match=r"^gamma must.*one value per channel.*Use np\.full\(6, gamma, np\.float32\)\.$"
    ):
        functional.batch_norm(VALUES, value)
    assert functional.batch_norm(VALUES, np.full(6, value, np.float32))[0].shape == VALUES.shape


class Silent:
    """An array that must not be written out."""

    def __init__(self, shape=(1000, 1000)):
        self.shape, self.dtype = shape, "float99"

    def __repr__(self):
        raise AssertionError("a large array was written out")

    __str__ = __repr__


ARGUMENTS = {
    "x": lambda value: functional.dropout(value, 0.5),
    "p": lambda value: functional.dropout(VALUES, value),
    "mask": lambda value: functional.dropout(VALUES, 0.5, mask=value),
    "out": lambda value: functional.dropout(VALUES, 0.5, out=value),
    "rng": lambda value: functional.dropout(VALUES, 0.5, rng=value),
    "dy": lambda value: functional.dropout_backward(value, functional.dropout(VALUES, 0.5)[1]),
    "gamma": lambda value: functional.batch_norm(VALUES, value),
    "mean": lambda value: functional.batch_norm_inference(VALUES, value, VALUES[0]),
    "eps": lambda value: functional.batch_norm(VALUES, eps=value),
    "context": lambda value: functional.dropout_backward(VALUES, value),
}


@pytest.mark.parametrize("argument", list(ARGUMENTS))
def test_an_error_gives_shape_and_dtype_of_an_array_and_does_not_write_it_out(argument):
    with pytest.raises(TypeError, match=rf"^{argument} must") as caught:
        ARGUMENTS[argument](Silent())
    assert "Silent of shape (1000, 1000) and dtype float99" in str(caught.value)


def test_an_error_does_not_write_out_what_it_will_not_show_of_a_list():
    class Item:
        def __repr__(self):
            raise AssertionError("an item that is not shown was written out")

    with pytest.raises(TypeError, match=r"^p must.*got list \[0, 0, 0, 0, 0, 0, \.\.\.\]"):
        functional.dropout(VALUES, [0] * 6 + [Item()] * 1000)


def test_advice_imports_no_library(in_subprocess):
    code = """
    import sys
    import numpy as np
    import normdrop
    x, drop, refused = np.ones(3, np.float32), normdrop.Dropout(0.5, rng=0), 0
    for value in ([1], [[1], [1, 2]], 1.0, "a", np.arange(3), np.ones(3, object)):
        for call in (drop, lambda out: drop(x, out=out), lambda mask: drop(x, mask=mask)):
            try:
                call(value)
            except TypeError:
                refused += 1
    names = "torch pandas dask xarray jax scipy sparse awkward ml_dtypes numba".split()
    print(refused, [name for name in names if name in sys.modules])
    """
    assert in_subprocess(code).strip() == "18 []"
