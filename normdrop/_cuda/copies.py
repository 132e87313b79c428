"""Copies between any strides and dtypes, and filling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normdrop._cuda.launch import THREADS, Kernel, cuda, helper, n_blocks
from normdrop._cuda.memory import as_value, load, store

if TYPE_CHECKING:
    from normdrop._cuda.arrays import DeviceArray

_AXES = 4  # of a kernel; more are looped over on the host
_LETTERS = {"float16": "h", "bfloat16": "g", "float32": "s", "float64": "d", "bool": "b"}


@helper
def _offset(i: Any, sizes: Any, strides: Any) -> Any:
    """Offset of element i, counted in C order, of an array with four axes."""
    at = i % sizes[3] * strides[3]
    i //= sizes[3]
    at += i % sizes[2] * strides[2]
    i //= sizes[2]
    return at + i % sizes[1] * strides[1] + i // sizes[1] * strides[0]


def _copy(
    y: Any, x: Any, n0: Any, n1: Any, n2: Any, n3: Any, y0: Any, y1: Any, y2: Any, y3: Any, y_start: Any,
    x0: Any, x1: Any, x2: Any, x3: Any, x_start: Any,
) -> None:  # fmt: skip
    """y[...] = x[...], flat memory of two arrays with four axes, offsets in elements. A thread per element."""
    sizes = n0, n1, n2, n3
    for i in range(cuda.grid(1), n0 * n1 * n2 * n3, cuda.gridsize(1)):
        value = load(x, x_start + _offset(i, sizes, (x0, x1, x2, x3)))
        store(y, y_start + _offset(i, sizes, (y0, y1, y2, y3)), value)


def _fill(
    y: Any, n0: Any, n1: Any, n2: Any, n3: Any, y0: Any, y1: Any, y2: Any, y3: Any, y_start: Any, value: Any
) -> None:
    """y[...] = value, as of `_copy`."""
    for i in range(cuda.grid(1), n0 * n1 * n2 * n3, cuda.gridsize(1)):
        store(y, y_start + _offset(i, (n0, n1, n2, n3), (y0, y1, y2, y3)), as_value(y, value))


copying = {letter: Kernel(_copy, f"x{letter}{'n' * 14}") for letter in _LETTERS.values()}
filling = Kernel(_fill, f"x{'n' * 9}f")


def _memory(x: DeviceArray) -> tuple[DeviceArray, int]:
    """Return all memory between the first and the last element as a flat array, and the place of element 0 in it."""
    low, high = x.extent
    if any(s % x.itemsize for s in (low, *x.strides)):
        raise ValueError(f"an array's elements must lie at multiples of their size; got strides {x.strides}")
    shape = ((high - low) // x.itemsize,)
    flat = type(x)((low, shape, (x.itemsize,), x.dtype, x.readonly), x.kind, None, x.owner)
    return flat, (x.address - low) // x.itemsize


def _steps(x: DeviceArray, shape: tuple[int, ...]) -> list[int]:
    return [s // x.itemsize for s in x.strides] if x.shape == shape else [0] * len(shape)


def _collapsed(shape: tuple[int, ...], *strides: list[int]) -> tuple[list[int], list[list[int]]]:
    """Join axes that lie in all arrays as one, and drop those of length 1."""
    lengths: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, n in enumerate(shape):
        steps = [s[axis] for s in strides]
        if n == 1:
            continue
        if lengths and all(k[-1] == n * step for k, step in zip(kept, steps, strict=True)):
            lengths[-1] *= n
            for k, step in zip(kept, steps, strict=True):
                k[-1] = step
        else:
            lengths.append(n)
            for k, step in zip(kept, steps, strict=True):
                k.append(step)
    return lengths, kept


def _launches(lengths: list[int], strides: list[list[int]], starts: list[int]) -> Any:
    """Yield (four lengths, four strides per array, starts) for each launch."""
    if len(lengths) <= _AXES:
        pad = _AXES - len(lengths)
        yield [1] * pad + lengths, [[0] * pad + s for s in strides], starts
        return
    for i in range(lengths[0]):
        inner = [start + i * s[0] for start, s in zip(starts, strides, strict=True)]
        yield from _launches(lengths[1:], [s[1:] for s in strides], inner)


def copy(y: DeviceArray, x: DeviceArray) -> None:
    """y[...] = x, of any strides and dtypes; they do not overlap, or are the same."""
    if not y.size:
        return
    if x.shape != y.shape:
        x = x.broadcast(y.shape)
    (to, y_start), (source, x_start) = _memory(y), _memory(x)
    lengths, strides = _collapsed(y.shape, _steps(y, y.shape), _steps(x, y.shape))
    kernel = copying[_LETTERS[x.dtype.name]]
    for n, (y_steps, x_steps), (y_first, x_first) in _launches(lengths, strides, [y_start, x_start]):
        blocks = n_blocks(int(np.prod(n)), THREADS)
        kernel(y.dtype, blocks, to, source, *n, *y_steps, y_first, *x_steps, x_first)


def fill(y: DeviceArray, value: float) -> None:
    """y[...] = value."""
    if not y.size:
        return
    to, start = _memory(y)
    lengths, strides = _collapsed(y.shape, _steps(y, y.shape))
    for n, (steps,), (first,) in _launches(lengths, strides, [start]):
        filling(y.dtype, n_blocks(int(np.prod(n)), THREADS), to, *n, *steps, first, value)
