"""A weight beside a batch normalization in inference: both as one map, and whether that map is right."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional

Array = npt.NDArray[Any]

_PRECISIONS = {"float16": (11, -24), "bfloat16": (8, -133), "float32": (24, -149), "float64": (53, -1074)}
"""Bits of a significand, and the exponent of the smallest number above 0."""
_N = 16  # random inputs


class Weight(NamedTuple):
    """A weight, its outputs on the first axis and its inputs on the second; one of them is divided among groups."""

    values: Array
    groups: int
    transposed: bool
    """Whether it is that of a transposed convolution, whose outputs are divided, not its inputs."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of inputs and of outputs of the layer."""
        n_out, n_in = self.values.shape[:2]
        return (n_in, n_out * self.groups) if self.transposed else (n_in * self.groups, n_out)

    def channels(self, of_inputs: bool) -> Array:
        """Return which input or output of the layer an element has, broadcast against the first two axes."""
        n_out, n_in = self.values.shape[:2]
        out, inp = np.arange(n_out)[:, np.newaxis], np.arange(n_in)
        if of_inputs:
            return inp if self.transposed else out // (n_out // self.groups) * n_in + inp
        return inp // (n_in // self.groups) * n_out + out if self.transposed else out

    def apply(self, x: Array, values: Array, bias: Array) -> Array:
        """Return the outputs, (N, outputs), of inputs, (N, inputs, kernel), with other values in the weight."""
        n_out = values.shape[0]
        if self.transposed:
            matrices = values.reshape(n_out, self.groups, -1).swapaxes(0, 1)
        else:
            matrices = values.reshape(self.groups, n_out // self.groups, -1)
        y = x.reshape(len(x), self.groups, -1).swapaxes(0, 1) @ matrices.swapaxes(1, 2)
        return y.swapaxes(0, 1).reshape(len(x), -1) + bias


class Normalization(NamedTuple):
    """A batch normalization in inference, float64, shape (C,): y = (x - mean) * gamma / std + beta."""

    mean: Array
    var: Array
    gamma: Array
    beta: Array
    std: Array
    """The square root of var + eps."""

    @property
    def scale(self) -> Array:
        return self.gamma / self.std

    @property
    def shift(self) -> Array:
        return self.beta - self.mean * self.scale  # type: ignore[no-any-return]


def fold(weight: Weight, bias: Array, norm: Normalization, before: bool) -> tuple[Array, Array]:
    """Return values and bias of the one layer; a norm before a transposed convolution must not shift."""
    values, channels = weight.values, weight.channels(of_inputs=before)
    folded = values * norm.scale[channels].reshape(channels.shape + (1,) * (values.ndim - 2))
    if not before:
        return folded, norm.beta + (bias - norm.mean) * norm.scale
    if weight.transposed:
        return folded, bias
    kernels = values.sum(axis=tuple(range(2, values.ndim)))
    return folded, bias + (kernels * norm.shift[channels]).sum(axis=1)


def rounded(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Round float64 to the nearest of a dtype, once."""
    with np.errstate(over="ignore"):
        result: Array = (_to_odd(values) if _checks.is_bfloat16(dtype) else values).astype(dtype)
    if not np.isfinite(result.astype(np.float64)).all():
        raise ValueError(f"{name} would get values beyond {dtype}, {np.abs(values).max()}; pass it in a wider dtype")
    return result


def _to_odd(values: Array) -> Array:
    """Round to float32, what is not exact to an odd last bit: then rounding that to bfloat16 is as rounding once."""
    near = values.astype(np.float32)
    is_wrong = (near != values) & (near.view(np.uint32) % 2 == 0)
    beyond = np.where(values > near, np.float32(np.inf), np.float32(-np.inf))
    return np.where(is_wrong, np.nextafter(near, beyond), near)


def verify(
    weight: Weight,
    bias: Array,
    norm: Normalization,
    eps: float,
    before: bool,
    exact: tuple[Array, Array],
    result: tuple[Array, Array],
) -> float:
    """Return the largest difference of a result from the two steps on random inputs; raise if it is too large.

    The result may differ from what it was rounded from, `exact`, by half a unit in the last place of each number, and
    float64 may lose a unit for each term of a sum, and for each operation of the normalization.
    """
    values, n_terms = weight.values, weight.values[0].size + 16
    x = np.random.default_rng(0).standard_normal((_N, weight.sizes[0], values[0, 0].size))
    if before:  # as it comes to the norm
        x = norm.mean[:, np.newaxis] + norm.std[:, np.newaxis] * x
        wanted = weight.apply(_normalized(x, norm, eps), values, bias)
        terms = weight.apply(_terms(np.abs(x), norm), np.abs(values), np.abs(bias))
    else:
        wanted = _normalized(weight.apply(x, values, bias), norm, eps)
        terms = _terms(weight.apply(np.abs(x), np.abs(values), np.abs(bias)), norm)
    found = weight.apply(x, result[0].astype(np.float64), result[1].astype(np.float64))
    errors = [np.abs(part) * unit + tiny for part, (unit, tiny) in zip(exact, map(_precision, result), strict=True)]
    bound = weight.apply(np.abs(x), errors[0], errors[1]) + n_terms * 2.0**-52 * terms
    difference = np.abs(found - wanted)
    if not (difference <= bound).all():
        raise ArithmeticError(
            f"the folded layer differs from the two by {difference.max()}; rounding explains {bound.max()} at most"
        )
    return float(difference.max())


def _normalized(x: Array, norm: Normalization, eps: float) -> Array:
    return functional.batch_norm_inference(x, norm.mean, norm.var, norm.gamma, norm.beta, eps=eps)[0]


def _terms(x: Array, norm: Normalization) -> Array:
    """Return what the terms of a normalization amount to without signs."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    mean, scale, beta = (np.abs(v).reshape(shape) for v in (norm.mean, norm.scale, norm.beta))
    return (x + mean) * scale + beta


def _precision(values: Array) -> tuple[float, float]:
    """Return half a unit in the last place of 1, and the smallest number above 0."""
    bits, exponent = _PRECISIONS[values.dtype.name]
    return 2.0**-bits, 2.0**exponent
