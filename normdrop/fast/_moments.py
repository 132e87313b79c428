"""Means and variances as the passes take and give them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Moments(NamedTuple):
    """Means and variances of independent values.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> fast.Moments(np.array([1.0, 2.0])).var is None  # the values are known
    True
    >>> moments = fast.Moments(np.zeros(1), np.ones(1))
    >>> fast.activation(moments, "relu")[0].mean.round(4)
    array([0.3989])
    """

    mean: Array
    """Means, float32 or float64."""
    var: Array | None = None
    """Variances, shape and dtype of the means; None where the values are known, that is 0."""


class Gradients(NamedTuple):
    """Gradients of a loss with respect to means and variances.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import fast
    >>> _, gradients = fast.cross_entropy(fast.Moments(np.array([[2.0, 0.0]])), np.array([0]))
    >>> gradients.mean.round(3).tolist(), gradients.var.shape
    ([[-0.119, 0.119]], (1, 2))
    """

    mean: Array
    """With respect to the means."""
    var: Array
    """With respect to the variances."""


class Wide(NamedTuple):
    """Moments in float64, after checks."""

    mean: Vector
    var: Vector | None
    dtype: np.dtype[Any]

    @property
    def spread(self) -> Vector:
        """The variances, also where they are all 0."""
        return np.zeros_like(self.mean) if self.var is None else self.var


def array(x: object, name: str) -> Array:
    """Return a NumPy array of float32 or float64, after checks."""
    values = _checks.array(x, name)
    if not _device.on_host(values):
        raise TypeError(f"{name} must be a NumPy array; got one on a GPU. Copy it to the host first.")
    if values.dtype not in _FLOATS:
        raise TypeError(f"{name} must have dtype float32 or float64; got {values.dtype}. Use {name}.astype('float32').")
    return values


def widened(moments: object) -> Wide:
    """Return the moments that came in, in float64."""
    if not isinstance(moments, tuple) or len(moments) != 2:
        raise TypeError(f"moments must be fast.Moments(mean, var); got {_checks.kind(moments)}. Use fast.Moments(x).")
    mean = array(moments[0], "moments.mean")
    if moments[1] is None:
        return Wide(mean.astype(np.float64), None, mean.dtype)
    var = array(moments[1], "moments.var")
    _checks.same_shape(var, mean.shape, "moments.var", "moments.mean")
    if var.dtype != mean.dtype:
        raise TypeError(f"moments.var must have the dtype of moments.mean, {mean.dtype}; got {var.dtype}")
    _checks.not_negative(var, "moments.var")
    return Wide(mean.astype(np.float64), var.astype(np.float64), mean.dtype)


def rounded(mean: Vector, var: Vector, dtype: np.dtype[Any]) -> Moments:
    """Return moments in the dtype of the input; a variance that rounding made negative is 0."""
    return Moments(mean.astype(dtype, copy=False), np.maximum(var, 0.0).astype(dtype, copy=False))


def gradients(d_mean: object, d_var: object, shape: tuple[int, ...]) -> tuple[Vector, Vector]:
    """Return the gradients with respect to an output's moments in float64; None stands for 0."""
    both = []
    for values, name in ((d_mean, "d_mean"), (d_var, "d_var")):
        if values is None:
            both.append(np.zeros(shape))
        else:
            checked = array(values, name)
            _checks.same_shape(checked, shape, name, "the forward pass's result")
            both.append(checked.astype(np.float64, copy=False))
    return both[0], both[1]


def context_of(context: object, kind: type, name: str) -> None:
    """Check that a context came from the forward pass of the function called `name`."""
    if not isinstance(context, kind):
        raise TypeError(f"context must be what fast.{name}() returned; got {_checks.kind(context)}")
