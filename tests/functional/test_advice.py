"""The expression that an error advises is right: applied to what came, the call succeeds (law 2.7).

The real libraries are used where they are installed.
"""

from __future__ import annotations

import array
import re
from decimal import Decimal

import ml_dtypes
import numpy as np
import numpy.lib.recfunctions
import pytest

import normdrop
from normdrop import functional

VALUES = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
WHOLE = np.arange(36.0, dtype=np.float32).reshape(6, 6)  # exact in every dtype but bool


def torch_tensor(make):
    return lambda: make(pytest.importorskip("torch"), pytest.importorskip("torch").tensor(WHOLE.tolist()))


def of(library, make):
    return lambda: make(pytest.importorskip(library))


def missing(values=WHOLE):
    """The values but for one, as rows."""
    rows = values.tolist()
    rows[1][2] = None
    return rows


def text(pandas, frame):
    """Text as pandas before version 3 has it."""
    return frame.assign(name=pandas.Series(["a"] * 6, dtype=object))


def dates(pandas, frame):
    return frame.assign(day=pandas.Timestamp(0), category=pandas.Categorical(["a"] * 6))


class Duck:
    """An array of a library that nobody has heard of."""

    def __init__(self, dtype):
        self.values, self.shape = WHOLE.astype(dtype), WHOLE.shape
        self.dtype = self.values.dtype

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.dtype)


RECORD = [(name, "i4") for name in "abcdef"]
FOREIGN = np.dtype(np.float32).newbyteorder("S")
MAKERS = {
    "list of floats": WHOLE.tolist,
    "list of ints": WHOLE.astype(int).tolist,
    "list of complex": (WHOLE + 1j).tolist,
    "list of Decimal": lambda: [[Decimal(int(v)) for v in row] for row in WHOLE],
    "list of rows": lambda: list(WHOLE),
    "tuple": lambda: tuple(map(tuple, WHOLE.tolist())),
    "list with None": missing,
    "list of str": WHOLE.astype(str).tolist,
    "generator": lambda: (row for row in WHOLE),
    "range": lambda: range(36),
    "array.array": lambda: array.array("d", WHOLE.ravel()),
    "memoryview": lambda: memoryview(WHOLE.astype(np.int16)),
    "number": lambda: 3,
    "complex number": lambda: 3 + 1j,
    "NumPy's number": lambda: np.int64(3),
    "duck of float32": lambda: Duck(np.float32),
    "duck of int64": lambda: Duck(np.int64),
    "int64": lambda: WHOLE.astype(np.int64),
    "bool": lambda: WHOLE > 3,
    "longdouble": lambda: WHOLE.astype(np.longdouble),
    "object": lambda: WHOLE.astype(object),
    "str": lambda: WHOLE.astype(str),
    "complex64": lambda: (WHOLE + 1j).astype(np.complex64),
    "clongdouble": lambda: (WHOLE + 1j).astype(np.clongdouble),
    "float8": lambda: (WHOLE % 8).astype(ml_dtypes.float8_e4m3fn),
    "foreign bytes": lambda: WHOLE.astype(FOREIGN),
    "foreign complex": lambda: (WHOLE + 1j).astype(np.dtype(np.complex128).newbyteorder("S")),
    "records": lambda: np.array([tuple(row) for row in WHOLE], RECORD),
    "bytes of bfloat16": lambda: WHOLE.astype(ml_dtypes.bfloat16).view("V2"),
    "torch float32": torch_tensor(lambda torch, t: t),
    "torch float64": torch_tensor(lambda torch, t: t.double()),
    "torch float16": torch_tensor(lambda torch, t: t.half()),
    "torch bfloat16": torch_tensor(lambda torch, t: t.bfloat16()),
    "torch float8": torch_tensor(lambda torch, t: (t % 8).to(torch.float8_e4m3fn)),
    "torch int64": torch_tensor(lambda torch, t: t.long()),
    "torch bool": torch_tensor(lambda torch, t: t > 3),
    "torch complex64": torch_tensor(lambda torch, t: torch.complex(t, t)),
    "torch complex128, conjugate": torch_tensor(lambda torch, t: torch.complex(t, t).to(torch.complex128).conj()),
    "torch imaginary part of a conjugate": torch_tensor(lambda torch, t: torch.complex(t, t).conj().imag),
    "torch that requires grad": torch_tensor(lambda torch, t: t.requires_grad_()),
    "torch of an operation": torch_tensor(lambda torch, t: t.requires_grad_() * 2),
    "torch parameter": torch_tensor(lambda torch, t: torch.nn.Parameter(t)),
    "torch bfloat16 that requires grad": torch_tensor(lambda torch, t: t.bfloat16().requires_grad_()),
    "torch sparse": torch_tensor(lambda torch, t: t.to_sparse()),
    "torch sparse that requires grad": torch_tensor(lambda torch, t: t.to_sparse().requires_grad_()),
    "torch size": torch_tensor(lambda torch, t: t.shape),
    "list of torch": torch_tensor(lambda torch, t: list(t.bfloat16().requires_grad_())),
    "pandas float32": of("pandas", lambda pandas: pandas.DataFrame(WHOLE)),
    "pandas float64": of("pandas", lambda pandas: pandas.DataFrame(WHOLE.astype(float))),
    "pandas int64": of("pandas", lambda pandas: pandas.DataFrame(WHOLE.astype(int))),
    "pandas mixed": of("pandas", lambda pandas: pandas.DataFrame(WHOLE).astype({0: int, 1: float})),
    "pandas nullable": of("pandas", lambda pandas: pandas.DataFrame(missing()).astype("Int64")),
    "pandas one nullable": of("pandas", lambda pandas: pandas.DataFrame(missing()).astype({2: "Float32", 3: "Int8"})),
    "pandas objects": of("pandas", lambda pandas: pandas.DataFrame(missing(), dtype=object)),
    "pandas objects, NA": of("pandas", lambda pandas: pandas.DataFrame(missing()).astype("Int64").astype(object)),
    "pandas with text": of("pandas", lambda pandas: pandas.DataFrame(WHOLE).assign(name="a", kind="b")),
    "pandas with text as objects": of("pandas", lambda pandas: text(pandas, pandas.DataFrame(missing(), dtype=object))),
    "pandas with dates": of("pandas", lambda pandas: dates(pandas, pandas.DataFrame(WHOLE))),
    "pandas nullable series": of("pandas", lambda pandas: pandas.Series([1, 2, None], dtype="Int64")),
    "pandas boolean series": of("pandas", lambda pandas: pandas.Series([True, False, None], dtype="boolean")),
    "pandas sparse series": of("pandas", lambda pandas: pandas.Series([0.0, 2, 0], dtype="Sparse[float]")),
    "pandas text series": of("pandas", lambda pandas: pandas.Series(["1", "0", "2"])),
    "pandas text series of objects": of("pandas", lambda pandas: pandas.Series(["1", "0"], dtype=object)),
    "pandas Arrow": of("pyarrow", lambda _: MAKERS["pandas nullable"]().astype("int64[pyarrow]")),
    "pandas Arrow, mixed": of("pyarrow", lambda _: MAKERS["pandas nullable"]().astype({1: "double[pyarrow]"})),
    "pandas Arrow, bool": of("pyarrow", lambda _: MAKERS["pandas boolean series"]().astype("bool[pyarrow]")),
    "pandas Decimals": of("pandas", lambda pandas: pandas.DataFrame(MAKERS["list of Decimal"]())),
    "pandas index": of("pandas", lambda pandas: pandas.Index([1, 2, 3])),
    "pandas array": of("pandas", lambda pandas: pandas.array([1, 2, None], dtype="Int64")),
    "scipy csr matrix": of("scipy.sparse", lambda sparse: sparse.csr_matrix(WHOLE)),
    "scipy coo array": of("scipy.sparse", lambda sparse: sparse.coo_array(WHOLE.astype(int))),
    "scipy float64": of("scipy.sparse", lambda sparse: sparse.csc_array(WHOLE.astype(float))),
    "sparse": of("sparse", lambda sparse: sparse.COO.from_numpy(WHOLE.astype(int))),
    "xarray": of("xarray", lambda xarray: xarray.DataArray(WHOLE, dims=("time", "site"))),
    "xarray int": of("xarray", lambda xarray: xarray.DataArray(WHOLE.astype(int))),
    "xarray variable": of("xarray", lambda xarray: xarray.Variable(("a", "b"), WHOLE)),
    "xarray dataset": of("xarray", lambda xarray: xarray.Dataset({"a": ("t", WHOLE[0]), "b": ("t", WHOLE[1])})),
    "dask": of("dask.array", lambda dask: dask.from_array(WHOLE, chunks=3)),
    "dask int": of("dask.array", lambda dask: dask.from_array(WHOLE.astype(int), chunks=3)),
    "dask delayed": of("dask", lambda dask: dask.delayed(WHOLE.tolist())),
    "awkward": of("awkward", lambda awkward: awkward.Array(WHOLE.astype(int))),
    "polars": of("polars", lambda polars: polars.DataFrame(WHOLE.astype(int))),
    "polars series with null": of("polars", lambda polars: polars.Series([1, None, 2])),
}
TEXTS = ["str", "list of str", "pandas text series", "pandas text series of objects"]


def advised(call, value, name):
    """The expression in the error that a call raises, and the error."""
    with pytest.raises(TypeError) as caught:
        call(value)
    message = str(caught.value)
    assert len(message) < 500, message
    assert message.startswith(name), message
    found = re.search(r"(?:Convert it with|Use) (.+?)(?:; .*)?\.$", message)
    assert found, message
    return found[1], message


def applied(expression, value, name):
    names = {"np": np, "numpy": numpy, "ml_dtypes": ml_dtypes, name: value}
    if "torch." in expression:
        names["torch"] = pytest.importorskip("torch")
    result = eval(expression, names)
    assert type(result) is np.ndarray, expression
    return result


@pytest.fixture(autouse=True)
def _no_threads_of_dask():
    try:
        import dask
    except ImportError:
        yield
        return
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("kind", list(MAKERS))
def test_what_the_error_advises_makes_an_x_that_is_taken(kind):
    expression, message = advised(normdrop.Dropout(0.0), MAKERS[kind](), "x")
    x = applied(expression, MAKERS[kind](), "x")
    y = functional.dropout(x, 0.0)[0]
    assert y.dtype == x.dtype, message
    if x.shape == WHOLE.shape:
        expected = WHOLE % 8 if "float8" in kind else WHOLE > 3 if kind.endswith("bool") else WHOLE
        expected = 2 * WHOLE if "operation" in kind else -WHOLE if "imaginary" in kind else expected
        given = ~np.isnan(y)
        assert np.count_nonzero(~given) <= 1
        assert np.array_equal(y[given], expected[given]), message


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", list(MAKERS))
def test_what_the_error_advises_makes_a_dy_of_the_dtype_of_x(kind, dtype):
    context = functional.dropout(np.zeros(WHOLE.shape, dtype), 0.0)[1]
    expression, message = advised(lambda dy: functional.dropout_backward(dy, context), MAKERS[kind](), "dy")
    dy = applied(expression, MAKERS[kind](), "dy")
    assert dy.dtype == dtype, message


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ["bool", *TEXTS]])
def test_what_the_error_advises_makes_a_mask_that_is_taken(kind):
    """True where a number is not 0, False where none is given."""
    expression, message = advised(lambda mask: functional.dropout(VALUES, 0.5, mask=mask), MAKERS[kind](), "mask")
    mask = applied(expression, MAKERS[kind](), "mask")
    assert mask.dtype == bool, message
    functional.dropout(np.zeros(mask.shape, np.float32), 0.5, mask=mask)
    x = applied(advised(normdrop.Dropout(0.0), MAKERS[kind](), "x")[0], MAKERS[kind](), "x")
    assert np.array_equal(mask, (x != 0) & ~np.isnan(x)), message


@pytest.mark.parametrize("kind", TEXTS)
def test_no_mask_is_made_of_text(kind):
    """NumPy makes True of "0" and of "False"."""
    with pytest.raises(TypeError, match=r"Pass an array of dtype bool; of text, everything .* would be True\.$"):
        functional.dropout(VALUES, 0.5, mask=MAKERS[kind]())


@pytest.mark.parametrize(
    "make", ["jnp.ones(4)", "jnp.arange(4)", "jnp.ones(4, jnp.bfloat16)", "[jnp.ones(4), jnp.zeros(4)]"]
)
def test_what_the_error_advises_converts_arrays_of_jax(in_subprocess, make):
    """In a process of its own: JAX starts threads, and warns of every fork from then on."""
    pytest.importorskip("jax")
    code = f"""
    import re, warnings
    import numpy as np
    import normdrop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax.numpy as jnp
    x = {make}
    try:
        normdrop.Dropout(0.0)(x)
    except TypeError as error:
        found = re.search(r"Convert it with (.+)\\.$", str(error))
        x = eval(found[1])
    assert type(x) is np.ndarray
    print(type(normdrop.Dropout(0.0)(x)).__name__)
    """
    assert in_subprocess(code, JAX_PLATFORMS="cpu").strip() == "ndarray"


def test_arrays_of_jax_are_told_by_their_module_and_what_is_traced_by_its_type():
    class Array(Duck):
        __module__ = "jaxlib._jax"

    class JaxprTracer(Duck):
        __module__ = "jax._src.interpreters"

    expression, _ = advised(normdrop.Dropout(0.0), Array(np.int64), "x")
    assert expression == "np.asarray(x, dtype=np.float32)"
    with pytest.raises(TypeError, match=r"no values: call through jax\.pure_callback"):
        normdrop.Dropout(0.0)(JaxprTracer(np.float32))


def test_within_jit_the_error_names_pure_callback(in_subprocess):
    pytest.importorskip("jax")
    code = """
    import warnings
    import normdrop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
    try:
        jax.jit(normdrop.Dropout(0.0))(1.0)
    except TypeError as error:
        print(error)
    """
    assert "jax.pure_callback" in in_subprocess(code, JAX_PLATFORMS="cpu")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float32, requires grad"])
def test_an_out_that_is_a_tensor_is_written_through_its_memory(dtype):
    torch = pytest.importorskip("torch")
    name, *grad = dtype.split(", ")
    x = VALUES.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    tensor = torch.zeros(x.shape, dtype=getattr(torch, name), requires_grad=bool(grad))
    expression, message = advised(lambda out: functional.dropout(x, 0.0, out=out), tensor, "out")
    assert f"Tensor of shape (6, 6) and dtype torch.{name}." in message
    functional.dropout(x, 0.0, out=applied(expression, tensor, "out"))
    assert np.array_equal(tensor.detach().float().numpy(), x.astype(np.float32))


@pytest.mark.parametrize(
    "kind", ["list of floats", "torch float64", "torch sparse", "pandas float32", "dask", "xarray"]
)
def test_for_another_out_that_is_no_array_the_error_says_how_to_make_one(kind):
    def call(out):
        return functional.dropout(VALUES, 0.0, out=out)

    expression, _ = advised(call, MAKERS[kind](), "out")
    assert expression == "np.empty((6, 6), np.float32)"
    call(applied(expression, None, "out"))
