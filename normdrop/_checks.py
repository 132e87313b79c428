"""Argument checks. Each error names the argument, what came and what to do."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from normdrop import _advice, _device, _overlap

Array: TypeAlias = npt.NDArray[Any]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_NATIVE = (*_FLOATS, np.dtype(np.float16))
_NAMES = "float32, float64, float16 or bfloat16"

kind = _advice.kind


def integer(value: object, name: str, low: int, high: int | None = None) -> int:
    """Return `value` as an int in [low, high]."""
    if type(value) is int and low <= value and (high is None or value <= high):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int; got {kind(value)}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}; got {value}")
    return int(value)


def real(value: object, name: str, remedy: str) -> float:
    """Return `value` as a float; bools, strings and NaN are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, {remedy}; got {kind(value)}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a real number, {remedy}; got nan")
    return number


def no_array_of_p(p: object) -> None:
    """Refuse a p that varies where it cannot."""
    if isinstance(p, np.ndarray) or callable(p) or bool(getattr(p, "ndim", 0)):  # of any library
        raise TypeError(
            f"p must be one number here, the probability of dropping an element, from 0 to 1; got {kind(p)}. Arrays "
            "are for functional.dropout and for the layers Dropout, Dropout1d and so on, schedules for those layers."
        )


def probability(p: object) -> float:
    """Return the dropout probability as a float in [0, 1]."""
    if type(p) is not float:
        no_array_of_p(p)
    number = p if type(p) is float else real(p, "p", "the probability of dropping an element, from 0 to 1")
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"p must be the probability of dropping an element, from 0 to 1; got {p!r}")
    return number


def eps(value: object) -> float:
    """Return eps as a positive finite float."""
    if type(value) is float and 0.0 < value < math.inf:
        return value
    number = real(value, "eps", "positive, for example 1e-5")
    if not 0.0 < number < math.inf:
        raise ValueError(f"eps must be positive and finite, for example 1e-5; got {value!r}")
    return number


def momentum(value: object) -> float | Literal["population"] | None:
    """Return the weight of the old running value, None for the cumulative average, or "population"."""
    if value is None:
        return None
    if isinstance(value, str) and value == "population":
        return "population"
    number = real(
        value, "momentum", "the weight of the old value, from 0 to 1, None for the cumulative average or 'population'"
    )
    if not 0.0 <= number <= 1.0:
        raise ValueError(
            f"momentum must be the weight of the old running value, from 0 to 1, None for the cumulative average "
            f"or 'population' for all values; got {value!r} (PyTorch's momentum m is 1 - m here)"
        )
    return number


def flag(value: object, name: str) -> bool:
    """Return a bool; nothing else is taken for one."""
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False; got {kind(value)}")
    return bool(value)


def choice(value: object, name: str, options: Sequence[str]) -> str:
    """Return one of the named options."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, options))}; got {kind(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}")
    return value


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is the bfloat16 of ml_dtypes, which is not imported for it."""
    return dtype.itemsize == 2 and dtype.name == "bfloat16" and dtype.kind == "V"


def array(x: object, name: str, wanted: np.dtype[Any] | None = None) -> Array:
    """Return `x` as a base ndarray after checking that it is of a native dtype that is taken.

    `wanted` is the dtype that is advised where it is not, if only one will do.
    """
    if type(x) is np.ndarray and x.dtype in _NATIVE:
        return x
    if not isinstance(x, np.ndarray):
        if _device.is_device_array(x):
            return _of_float_dtype(_device.view(x), name, wanted)
        raise TypeError(f"{name} must be a NumPy array; got {kind(x)}. {_advice.conversion(x, name, wanted)}")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass {name}.filled(value) instead")
    return np.asarray(_of_float_dtype(x, name, wanted))


def _of_float_dtype(x: Array, name: str, wanted: np.dtype[Any] | None) -> Array:
    dtype = x.dtype
    if dtype.char not in "fde" and not is_bfloat16(dtype):
        raise TypeError(f"{name} must have dtype {_NAMES}; got {dtype}. {_advice.cast(dtype, name, wanted)}")
    if not dtype.isnative:
        native = f"Use {name}.astype({name}.dtype.newbyteorder('='))."
        advice = native if wanted is None or wanted == dtype.newbyteorder("=") else _advice.cast(dtype, name, wanted)
        raise TypeError(f"{name} has dtype {dtype.str!r} in foreign byte order. {advice}")
    return x


def same_place(values: Array, name: str, x: Array, like: str) -> None:
    """Check that two arrays are both on the host, or both on the same GPU."""
    if type(values) is type(x) is np.ndarray:
        return
    here, there = _device.place(_device.view(values)), _device.place(_device.view(x))
    if here != there:
        raise TypeError(
            f"{name} is {here}, but {like} is {there}; move one of them, a layer with its to_device() or to_host()"
        )


def same_shape(x: Array, shape: tuple[int, ...], name: str, like: str) -> None:
    """Check that `x` has the shape of another array, called `like` in the message."""
    if x.shape != shape:
        raise ValueError(f"{name} must have the shape of {like}, {shape}; got {x.shape}")


def gradient(dy: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `dy` after checking that it matches the forward pass."""
    dy = array(dy, "dy", dtype)
    same_shape(dy, shape, "dy", "the forward pass's x")
    if dy.dtype != dtype:
        advice = _advice.cast(dy.dtype, "dy", dtype)
        raise TypeError(f"dy must have the dtype of the forward pass's x, {dtype}; got {dy.dtype}. {advice}")
    return dy


def out(target: Any, x: Array, inputs: Iterable[tuple[str, Array]]) -> Array:
    """Check that `target` can take a result of the shape and dtype of `x`.

    It may occupy exactly the memory of an input (in place), never a part of it.
    """
    plain = type(target) is type(x) is np.ndarray and target.flags.carray
    if plain and target.shape == x.shape and target.dtype == x.dtype:
        for _, values in inputs:
            if values is not target and _overlap.is_possible(target, values):
                break
        else:
            return target  # type: ignore[no-any-return]
    target = _taken_out(target, x)
    same_place(target, "out", x, "x")
    if target.dtype != x.dtype or not target.dtype.isnative:
        raise TypeError(f"out must have the dtype of x, {x.dtype}; got {target.dtype.str!r}")
    if isinstance(target, np.ma.MaskedArray):
        raise TypeError("out is a masked array, whose mask would be ignored; pass out.data")
    if target.shape != x.shape:
        raise ValueError(f"out must have the shape of x, {x.shape}; got {target.shape}")
    if not target.flags.writeable:
        raise ValueError("out is read-only; pass a writable array, or none to have one allocated")
    if _overlap.of_itself(target):
        raise ValueError(
            f"out has elements that share memory (strides {target.strides}); pass an array with its own memory"
        )
    for name, values in inputs:
        if _overlap.is_partial(target, values):
            raise ValueError(f"out overlaps {name} in memory without being {name} itself; pass {name} or another array")
    return np.asarray(target) if isinstance(target, np.ndarray) else target


def _taken_out(target: Any, x: Array) -> Any:
    if not _device.on_host(target) and not _device.is_device_array(target):
        wanted = f"of shape {x.shape} and dtype {x.dtype}"
        advice = f" {_advice.memory(target, x.shape, x.dtype)}" if _device.on_host(x) else ""
        raise TypeError(f"out must be a NumPy array {wanted}; got {kind(target)}.{advice}")
    return _device.view(target)


def mask(values: Any, shape: tuple[int, ...], x: Array) -> npt.NDArray[np.bool_]:
    """Return a caller's mask for `x` after checking dtype, shape and place."""
    taken = isinstance(values, np.ndarray)
    if not taken and _device.is_device_array(values):
        values, taken = _device.view(values), True
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("mask must be a boolean NumPy array; got a masked array. Use mask.filled(False).")
    if not taken or values.dtype != np.bool_:
        what, boolean = values.dtype if taken else kind(values), np.dtype(np.bool_)
        advice = _advice.cast(values.dtype, "mask", boolean) if taken else _advice.conversion(values, "mask", boolean)
        raise TypeError(f"mask must be a boolean NumPy array, True = kept; got {what}. {advice}")
    if values.shape != shape:
        raise ValueError(f"mask must have shape {shape}: the shape of x with 1 on the shared axes; got {values.shape}")
    same_place(values, "mask", x, "x")
    return cast(npt.NDArray[np.bool_], values)


def axis(value: object, name: str, ndim: int) -> int:
    """Return `value` as an axis from 0 to ndim - 1."""
    index = integer(value, name, -(2**31))
    if not -ndim <= index < ndim:
        raise ValueError(f"{name} must be an axis of x, from {-ndim} to {ndim - 1}; got {index} for {ndim} axes")
    return index % ndim


def channel_axis(x: Array, value: int) -> int:
    """Return the axis of the channels as one from 0 to ndim - 1, after checks."""
    if type(value) is int and 0 <= value < x.ndim >= 2:
        return value
    if x.ndim < 2:
        raise ValueError(f"x must have at least two axes, a batch axis and a channel axis; got shape {x.shape}")
    return axis(value, "channel_axis", x.ndim)


def axes(value: object) -> tuple[int, ...]:
    """Return `shared_axes` as a tuple of ints; its range is checked when x is known."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return (int(value),)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"shared_axes must be an int or a tuple of ints; got {kind(value)}")
    return tuple(integer(item, "shared_axes", -(2**31)) for item in value)


def rank(x: Array, ranks: tuple[int, ...], name: str, hint: str) -> None:
    """Check the number of axes of a layer's input."""
    if x.ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ValueError(f"x must have {wanted} axes for {name}; got {x.ndim} (shape {x.shape}). {hint}")


def channels(values: object, name: str, n_channels: int, x: Array) -> Array:
    """Return a per-channel vector of a native float dtype, where `x` is."""
    if type(values) is type(x) is np.ndarray and values.dtype in _NATIVE and values.shape == (n_channels,):
        return values
    if isinstance(values, numbers.Real):
        raise TypeError(
            f"{name} must be a NumPy array, one value per channel of x; got {kind(values)}. "
            f"Use np.full({n_channels}, {name}, np.float32)."
        )
    vector = array(values, name)
    same_place(vector, name, x, "x")
    if vector.shape != (n_channels,):
        raise ValueError(f"{name} must have shape ({n_channels},), one value per channel of x; got {vector.shape}")
    return vector


def not_negative(values: Array, name: str) -> None:
    """Check a variance; a NaN is let pass, because it says that the data had one. On a GPU it would wait: no check."""
    if not _device.on_host(values):
        return
    if values.size and not values.item(values.argmin()) >= 0 and (values < 0).any():
        raise ValueError(
            f"{name} must not be negative; got {np.nanmin(values)}. Pass a variance, not a logarithm or a mean."
        )


def float_dtype(value: object) -> np.dtype[Any]:
    """Return `value` as the dtype float32 or float64."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64; got {kind(value)}") from error
    if value is None or dtype not in _FLOATS or not dtype.isnative:
        raise TypeError(f"dtype must be float32 or float64; got {value!r}")
    return _FLOATS[_FLOATS.index(dtype)]


def input_dtype(value: object, name: str) -> np.dtype[Any]:
    """Return `value` as a dtype that inputs may have."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)  # type: ignore[call-overload]
    except TypeError as error:
        raise TypeError(f"{name} must be {_NAMES}; got {kind(value)}") from error
    if value is None or not dtype.isnative or not (dtype.char in "fde" or is_bfloat16(dtype)):
        raise TypeError(f"{name} must be {_NAMES}; got {value!r}")
    return dtype
