"""What an error says of the object that came, and how to make of it the array that was asked for.

No library is imported for it: kinds are told by the module and the methods of a type. What stands between "Convert it
with" or "Use" and the next ";" or the full stop is an expression that can be pasted into the call.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

DType: TypeAlias = np.dtype[Any]
Advice: TypeAlias = tuple[str, str]  # an expression, or "" where there is none, and a remark

_NO_NUMBERS = (str, bytes, bytearray, dict, np.flexible, np.datetime64, np.timedelta64)
_TEXT_AS_MASK = "Pass an array of dtype bool; of text, everything that is not empty would be True."
_FLOAT32 = np.dtype(np.float32)
_TENSOR_METHODS = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat16", "bool": "bool"}
_REAL_PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}

_short = reprlib.Repr()  # of a long list, what lies beyond its first items is not even looked at
_short.maxstring = _short.maxother = 60


def kind(value: object) -> str:
    """Describe a value for an error message: type and a short form of the value, of an array its shape and dtype."""
    name = type(value).__name__
    shape, dtype = _attribute(value, "shape"), _attribute(value, "dtype")
    if isinstance(shape, tuple) and not isinstance(value, np.generic):
        return f"{name} of shape {tuple(shape)}" + ("" if dtype is None else f" and dtype {dtype}")
    text = " ".join(_short.repr(value).split())
    return f"{name} {text if len(text) <= 60 else text[:57] + '...'}"


def conversion(value: object, name: str, wanted: DType | None = None) -> str:
    """Return how to make an array of what is none, of the dtype `wanted`, or else of one that is taken."""
    expression, remark = _advice(value, name, wanted)
    if not expression:
        return remark
    return f"Convert it with {expression}{'; ' if remark else ''}{remark}."


def cast(dtype: DType, name: str, wanted: DType | None = None) -> str:
    """Return how to convert an array that has another dtype."""
    target = _written(wanted)
    if dtype.names is not None:
        structured = f"numpy.lib.recfunctions.structured_to_unstructured({name}, dtype=DTYPE)"
        return f"Use {_in_dtype(structured, wanted)}."
    if dtype.type is np.void and dtype.itemsize == 2:  # as np.load returns bfloat16, which it does not know
        then = "" if wanted is None or wanted.name == "bfloat16" else f".astype({target})"
        return f"Use {name}.view(ml_dtypes.bfloat16){then}; or the view in another dtype, if another was stored."
    if dtype.type is np.void:
        return f"Pass {name}.view(dtype) with the dtype that its bytes have."
    if dtype.kind == "c":
        then = "" if _fits(np.dtype(dtype.char.lower()).newbyteorder(dtype.byteorder), wanted) else f".astype({target})"
        return f"Use {name}.real{then}; what {name}.imag holds can be passed as further channels."
    if dtype.kind == "O":
        converted = _in_dtype(f"{name}.astype(DTYPE)", wanted)
        return f"Use {converted}; where pandas made it, to_numpy(dtype={target}, na_value=np.nan)."
    if dtype.kind in "SUT":
        if _is_bool(wanted):
            return _TEXT_AS_MASK
        return f"Use {_in_dtype(f'{name}.astype(DTYPE)', wanted)}."
    return f"Use {name}.astype({'np.float64' if wanted is None and dtype.char == 'g' else target})."


def memory(value: Any, shape: tuple[int, ...], dtype: DType) -> str:
    """Return what to pass as `out`, in which results are wanted."""
    if is_of(value, "torch", "detach") and str(value.dtype) == f"torch.{dtype.name}":
        plain = str(value.layout) == "torch.strided" and value.device.type == "cpu" and not value.is_neg()
        if plain and tuple(value.shape) == shape:
            tensor = "out.detach()" if value.requires_grad else "out"
            return f"Use {_of_tensor(tensor, dtype.name)}; it is the same memory."
    return f"Use np.empty({shape}, {_written(dtype)})."


def _advice(value: Any, name: str, wanted: DType | None) -> Advice:
    for library, method, advice in _KINDS:
        if is_of(value, library, method):
            return advice(value, name, wanted)
    for method in ("toarray", "todense"):  # sparse arrays of SciPy, of the package sparse
        if _has(value, method):
            return f"{name}.{method}(){'' if _fits(_dtype(value), wanted) else f'.astype({_written(wanted)})'}", ""
    if isinstance(value, (list, tuple)):
        return _sequence(value, name, wanted)
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        return _in_dtype(f"np.asarray({name}.real, dtype=DTYPE)", wanted), ""
    if not isinstance(value, _NO_NUMBERS):
        if isinstance(value, (numbers.Number, range)) or _has(value, "__array__") or _has_buffer(value):
            return _array(value, name, wanted)
        if isinstance(value, Iterable):
            return _in_dtype(f"np.asarray(list({name}), dtype=DTYPE)", wanted), ""
    return "", f"Pass an array of dtype {_written(wanted)}."


def _tensor(value: Any, name: str, wanted: DType | None) -> Advice:
    """A tensor of PyTorch, whose own method for this refuses gradients, other devices and layouts, and bfloat16."""
    if value.device.type == "meta":
        return "", "A tensor on the device meta has no values."
    dtype = str(value.dtype).removeprefix("torch.")
    steps = name
    steps += ".detach()" if value.requires_grad else ""
    steps += ".to_dense()" if str(value.layout) != "torch.strided" else ""
    steps += ".cpu()" if value.device.type != "cpu" else ""
    steps += ".real" if value.is_complex() else ""
    steps += ".resolve_neg()" if value.is_neg() else ""
    dtype = _REAL_PARTS.get(dtype, dtype)
    if wanted is None and dtype == "bfloat16":
        return f"{steps}.float().numpy()", f"{_of_tensor(steps, dtype)} keeps its two bytes"
    target = wanted.name if wanted is not None else dtype if dtype in ("float64", "float16") else "float32"
    return _of_tensor(steps if dtype == target else f"{steps}.{_TENSOR_METHODS[target]}()", target), ""


def _of_tensor(tensor: str, dtype: str) -> str:
    """Write the array of a tensor; NumPy knows bfloat16 only through ml_dtypes."""
    return (
        f"{tensor}.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)" if dtype == "bfloat16" else f"{tensor}.numpy()"
    )


def _frame(value: Any, name: str, wanted: DType | None) -> Advice:
    """A data frame, series, index or array of pandas, of which np.asarray makes objects if it is nullable or mixed."""
    dtypes = _column_dtypes(value)
    if all(isinstance(dtype, np.dtype) and dtype == dtypes[0] for dtype in dtypes) and _fits(dtypes[0], wanted):
        return f"{name}.to_numpy()", ""
    steps = name
    if any(dtype == np.dtype(object) for dtype in dtypes) and _has(value, "convert_dtypes"):
        steps += ".convert_dtypes()"
        dtypes = _column_dtypes(value.convert_dtypes())
    if any(not _is_number(dtype) for dtype in dtypes):
        if _has(value, "select_dtypes"):
            steps += '.select_dtypes(["number", "bool"])'
        elif _is_bool(wanted):
            return "", _TEXT_AS_MASK
    if not _is_bool(wanted):
        return _in_dtype(f"{steps}.to_numpy(dtype=DTYPE, na_value=np.nan)", wanted), ""
    if all(dtype.kind == "b" for dtype in dtypes):
        return f"{steps}.to_numpy(dtype=bool, na_value=False)", ""
    numbers_only = f"{steps}.to_numpy(dtype=float, na_value=np.nan)"  # columns of Arrow's ints take no False
    return f"np.nan_to_num({numbers_only}).astype(bool)", ""


def _column_dtypes(value: Any) -> list[Any]:
    return list(value.dtypes) if _has(value, "select_dtypes") else [value.dtype]


def _is_number(dtype: Any) -> bool:
    """Whether a column may be one of numbers; one of pandas' own dtypes for text has the kind of objects, too."""
    return dtype.kind in "biuf" or dtype == np.dtype(object)


def _polars(value: Any, name: str, wanted: DType | None) -> Advice:
    """A data frame or series of polars, which makes NaN of what is missing; as a mask, that would be True."""
    return _array(value, f"{name}.cast(bool).fill_null(False)" if _is_bool(wanted) else name, wanted)


def _dask(value: Any, name: str, wanted: DType | None) -> Advice:
    if _dtype(value) is None:  # something delayed, a data frame
        return _in_dtype(f"np.asarray({name}.compute(), dtype=DTYPE)", wanted), ""
    return _array(value, name, wanted)[0], 'for one piece at a time, see "Other libraries" in the docs'


def _labeled(value: Any, name: str, wanted: DType | None) -> Advice:
    """An array, variable or set of arrays of xarray."""
    if _has(value, "to_dataarray"):
        return _in_dtype(f"np.asarray({name}.to_dataarray(), dtype=DTYPE)", wanted), ""
    return _array(value, name, wanted)[0], 'to keep its labels, see "Other libraries" in the docs'


def _traced(value: Any, name: str, wanted: DType | None) -> Advice:
    """An array of JAX, or what stands for one while JAX traces a function."""
    if "Tracer" in type(value).__name__:
        return "", 'Within jit, grad or vmap it has no values: call through jax.pure_callback, see "Other libraries".'
    return _array(value, name, wanted)


def _sequence(value: Any, name: str, wanted: DType | None) -> Advice:
    """A list or tuple, of numbers or of arrays of any kind."""
    if len(value) and any(is_of(value[0], library, method) for library, method, _ in _KINDS):
        part, remark = _advice(value[0], "part", wanted)
        return (f"np.stack([{part} for part in {name}])", "") if part else ("", remark)
    return _rows(value, name, wanted)


def _rows(value: Any, name: str, wanted: DType | None) -> Advice:
    """What may have rows of several lengths or parts that are no numbers: NumPy says whether it has."""
    try:
        values = np.asarray(value)
        if values.dtype.kind == "c":
            return f"np.asarray({name}).real.astype({_written(wanted)})", ""
        if values.dtype.kind in "SU" and _is_bool(wanted):
            return "", _TEXT_AS_MASK
        with np.errstate(all="ignore"):
            values.astype(_FLOAT32)
    except Exception as error:
        return "", f"Its parts must be numbers, in rows of one length: {error}"
    return _in_dtype(f"np.asarray({name}, dtype=DTYPE)", wanted), ""


def _array(value: Any, name: str, wanted: DType | None) -> Advice:
    if _fits(_dtype(value), wanted):
        return f"np.asarray({name})", ""
    return _in_dtype(f"np.asarray({name}, dtype=DTYPE)", wanted), ""


# What must be known before the methods that any object may have: library, a method of the type, advice.
_KINDS: tuple[tuple[str, str, Callable[[Any, str, DType | None], Advice]], ...] = (
    ("torch", "detach", _tensor),
    ("pandas", "to_numpy", _frame),
    ("polars", "to_numpy", _polars),
    ("dask", "compute", _dask),
    ("xarray", "dims", _labeled),
    ("jax", "__array__", _traced),
    ("jaxlib", "__array__", _traced),
    ("awkward", "__array__", _rows),
)


def is_of(value: object, library: str, method: str) -> bool:
    return _has(value, method) and any(base.__module__.partition(".")[0] == library for base in type(value).__mro__)


def _has(value: object, method: str) -> bool:
    """Whether the type has a method: instances may claim to have any."""
    return hasattr(type(value), method)


def _has_buffer(value: Any) -> bool:
    try:
        return memoryview(value).format is not None
    except TypeError:
        return False


def _attribute(value: object, name: str) -> Any:
    """Return an attribute or None, also where asking for it fails."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _dtype(value: Any) -> DType | None:
    """Return the dtype of an array of another library, if NumPy knows it."""
    try:
        return None if value.dtype is None else np.dtype(value.dtype)
    except Exception:
        return None


def _is_bool(wanted: DType | None) -> bool:
    return wanted is not None and wanted.kind == "b"


def _fits(dtype: DType | None, wanted: DType | None) -> bool:
    """Whether an array may keep its dtype."""
    if dtype is None or wanted is not None:
        return dtype is not None and dtype == wanted
    return dtype.isnative and (dtype.char in "fde" or dtype.name == "bfloat16")


def _in_dtype(expression: str, wanted: DType | None) -> str:
    """Write a dtype into an expression; to bfloat16, objects and text come by way of float32."""
    if wanted is not None and wanted.name == "bfloat16":
        return f"{expression.replace('DTYPE', 'np.float32')}.astype({_written(wanted)})"
    return expression.replace("DTYPE", _written(wanted))


def _written(dtype: DType | None) -> str:
    """Return a dtype as it is written in code."""
    name = _FLOAT32.name if dtype is None else dtype.name
    return name if name == "bool" else f"ml_dtypes.{name}" if name == "bfloat16" else f"np.{name}"
