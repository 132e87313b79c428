"""Passes of any shape, strides, dtype, axes, `out` and numbers agree with the formulas, and touch nothing else."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normdrop import BatchNorm, MaskStream, _reference, functional

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ["float16", "float32", "float64"] + ["bfloat16"] * (importlib.util.find_spec("ml_dtypes") is not None)
ULP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
THOROUGH = settings(max_examples=1500)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """An array of this shape and the memory in which it lies: any order, gaps, reversed, offset by part of an item."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2, 3])) for _ in shape]
    lengths = [shape[axis] * abs(steps[axis]) for axis in order]
    offset = draw(st.sampled_from([0, 0, 0, 1, dtype.itemsize, 3 * dtype.itemsize]))
    memory = np.full(math.prod(lengths) * dtype.itemsize + offset, 0xAB, np.uint8)
    base = memory[offset:].view(dtype).reshape(lengths).transpose(np.argsort(order))
    view = base[(..., *(slice(None, None, step) for step in steps))]
    return view[(..., *(slice(0, n) for n in shape))], memory


@st.composite
def inputs(draw: st.DrawFn, min_dims: int) -> tuple[Array, Array, str]:
    """An array of values, the memory in which it lies and the name of its dtype; axes may also be broadcast."""
    name = draw(st.sampled_from(DTYPES))
    dtype = _dtype(name)
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 4, 5, 7, 17]), min_size=min_dims, max_size=6)))
    while math.prod(shape) > 5000:
        shape = tuple((n + 1) // 2 for n in shape)
    x, memory = draw(views(shape, dtype))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(draw(st.sampled_from([0.0, 9.0])), 2.0, shape)
    x[...] = values.astype(dtype)
    kind = draw(st.sampled_from(["as it is", "as it is", "repeated", "overlapping"]))
    if kind == "repeated" and x.ndim:
        axis = draw(st.integers(0, x.ndim - 1))
        if shape[axis]:
            x = np.broadcast_to(x.take([0], axis), shape)
    elif kind == "overlapping" and x.ndim > 1 and x.size and shape[-1] == 1:
        flat = np.resize(values, 2 * x.size).astype(dtype)
        x = np.lib.stride_tricks.as_strided(flat, shape, (dtype.itemsize,) * x.ndim, writeable=False)
    return x, memory, name


def _out(data: st.DataObject, x: Array) -> tuple[Array | None, Array | None]:
    """Nothing, the input itself, or another array and its memory."""
    kind = data.draw(st.sampled_from(["none", "itself", "another"]))
    if kind == "itself" and x.flags.writeable:
        return x, None
    return (None, None) if kind == "none" else data.draw(views(x.shape, x.dtype))


def _beside(out: Array, memory: Array) -> bytes:
    """What lies in the memory beside an array."""
    copy = out.copy()
    out[...] = 0
    rest = memory.tobytes()
    out[...] = copy
    return rest


def _dropout_of_anything(data: st.DataObject) -> None:
    x, _, _ = data.draw(inputs(0))
    p = data.draw(st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1))
    shared = data.draw(st.sets(st.integers(0, x.ndim - 1))) if x.ndim else set()
    stream = MaskStream.from_key((1, 2), data.draw(st.integers(0, 2**63 - 2)))
    start = stream.call
    out, memory = _out(data, x)
    rest = None if out is None or memory is None else _beside(out, memory)
    given_x = x.copy()
    y, context, mask = functional.dropout(x, p, shared_axes=tuple(shared), rng=stream, out=out, return_mask=True)
    assert stream.call == start + (x.size > 0)
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    threshold = round(p * 2**32)
    kept = np.full(math.prod(shape), threshold == 0 or x.size == 0)
    if 0 < threshold < 1 << 32 and x.size:
        _reference.keep_mask(kept, (1, 2), start, threshold)
    assert np.array_equal(mask, kept.reshape(shape))
    expected = np.empty(x.shape, x.dtype)
    scale = 1.0 / (1.0 - threshold / 2**32) if threshold < 1 << 32 else 0.0
    with np.errstate(all="ignore"):
        expected[...] = np.where(mask, _reference.rounding.scaled(given_x, scale), 0)
    assert y.tobytes() == expected.tobytes()
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    if out is not x:
        assert x.tobytes() == given_x.tobytes()
        assert not np.may_share_memory(x, y)
    if out is not None:
        assert y is out
    if rest is not None:
        assert _beside(out, memory) == rest
    assert functional.dropout_backward(given_x, context).tobytes() == expected.tobytes()


def _batch_norm_of_anything(data: st.DataObject) -> None:
    x, _, name = data.draw(inputs(2))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    n_channels = x.shape[axis]
    if x.size == n_channels > 0:
        with pytest.raises(ValueError, match="one value per channel"):
            functional.batch_norm(x, channel_axis=axis)
        return
    eps = data.draw(st.sampled_from([1e-5, 1e-3, 1.0]))
    momentum = data.draw(st.none() | st.floats(0, 1))
    layer = BatchNorm(max(n_channels, 1), eps=eps, momentum=momentum, channel_axis=axis, dtype=np.float64)
    if n_channels == 0:
        y, _ = functional.batch_norm(x, channel_axis=axis)
        assert y.shape == x.shape
        return
    rng = np.random.default_rng(0)
    layer.gamma[:], layer.beta[:] = rng.normal(1, 0.2, (2, n_channels))
    before = layer.state_dict()
    out, memory = _out(data, x)
    rest = None if out is None or memory is None else _beside(out, memory)
    given_x = x.copy()
    y = layer.forward(x, out=out)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    if out is not x:
        assert x.tobytes() == given_x.tobytes()
    if rest is not None:
        assert _beside(out, memory) == rest
    if not x.size:
        assert all(np.array_equal(value, before[key]) for key, value in layer.state_dict().items())
        return

    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    column = tuple(n_channels if a == axis % x.ndim else 1 for a in range(x.ndim))
    wide = given_x.astype(np.float64)
    mean = wide.mean(axis=axes, keepdims=True)
    var = np.square(wide - mean).mean(axis=axes, keepdims=True)
    gamma, beta = layer.gamma.reshape(column), layer.beta.reshape(column)
    x_hat = (wide - mean) / np.sqrt(var + eps)
    close = {"rtol": 4 * ULP[name] + 1e-9, "atol": 4 * ULP[name] + 1e-9}
    np.testing.assert_allclose(y.astype(np.float64), gamma * x_hat + beta, **close)
    n = x.size // n_channels
    weight = 0.0 if momentum is None else momentum
    np.testing.assert_allclose(layer.running_mean, (1 - weight) * mean.ravel(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layer.running_var, weight + (1 - weight) * var.ravel() * n / (n - 1), 1e-9, 1e-9)

    dy, _ = data.draw(views(x.shape, x.dtype))
    dy[...] = rng.normal(size=x.shape).astype(x.dtype)
    given_dy = dy.copy().astype(np.float64)
    dx = layer.backward(dy)
    dbeta, dgamma = given_dy.sum(axes, keepdims=True), (given_dy * x_hat).sum(axes, keepdims=True)
    slope = gamma / np.sqrt(var + eps)
    expected = slope * (given_dy - (dbeta + x_hat * dgamma) / n)
    scale = float(np.abs(slope).max() * (np.abs(given_dy).max() + 1)) + 1
    np.testing.assert_allclose(dx.astype(np.float64), expected, rtol=4 * ULP[name] + 1e-9, atol=scale * 1e-8)
    np.testing.assert_allclose(layer.dbeta, dbeta.ravel(), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(layer.dgamma, dgamma.ravel(), rtol=1e-9, atol=1e-8 * n)


@given(data=st.data())
def test_dropout_of_anything_is_the_mask_law_applied(backend: Any, data: st.DataObject) -> None:
    _dropout_of_anything(data)


@given(data=st.data())
def test_batch_norm_of_anything_is_its_formula(backend: Any, data: st.DataObject) -> None:
    _batch_norm_of_anything(data)


@pytest.mark.slow
@pytest.mark.matrix
@THOROUGH
@given(data=st.data())
def test_dropout_of_very_many_things_is_the_mask_law_applied(backend: Any, data: st.DataObject) -> None:
    _dropout_of_anything(data)


@pytest.mark.slow
@pytest.mark.matrix
@THOROUGH
@given(data=st.data())
def test_batch_norm_of_very_many_things_is_its_formula(backend: Any, data: st.DataObject) -> None:
    _batch_norm_of_anything(data)
