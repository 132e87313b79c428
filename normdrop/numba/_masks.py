"""Dropout in compiled code, and the mask law element by element."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.numba import _kinds as kinds
from normdrop.numba._law import element_bits, element_kept
from normdrop.numba._loops import drop
from normdrop.random import Key, MaskStream

Array: TypeAlias = npt.NDArray[Any]

_LAST = 2**63 - 1


def bits(key: Key, call: int, index: int) -> Any:
    """Return the 32-bit random number by which the mask law decides about an element.

    The element is kept where this number is at least T = round(p * 2**32).

    Parameters
    ----------
    key : tuple of two int
        Key of a stream, as ``stream.key``.
    call : int
        Call of the stream, from 0 to 2**63 - 1.
    index : int
        Index of the element in C order, from 0.

    Returns
    -------
    uint32
        Uniform over all 32-bit numbers.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or range.

    See Also
    --------
    keep : the decision itself, which mostly needs half of the bits and of the time.

    Examples
    --------
    >>> from normdrop.numba import bits
    >>> hex(bits((0, 0), 0, 0))
    '0xe8d5d022'
    """
    key0, key1, call = _law(key, call)
    return element_bits(key0, key1, call, _checks.integer(index, "index", 0, _LAST))


@kinds.compiled(bits)
def _bits(key: Any, call: Any, index: Any) -> Any:
    kinds.law(key, call)
    kinds.integer("index", index)

    def run(key: Any, call: Any, index: Any) -> Any:
        return element_bits(np.int64(key[0]), np.int64(key[1]), np.int64(call), np.int64(index))

    return run


def keep(key: Key, call: int, index: int, p: float) -> Any:
    """Return whether the mask law keeps an element.

    Parameters
    ----------
    key : tuple of two int
        Key of a stream, as ``stream.key``.
    call : int
        Call of the stream, from 0 to 2**63 - 1.
    index : int
        Index of the element in C order, from 0.
    p : float
        Probability of dropping an element, from 0 to 1.

    Returns
    -------
    bool
        True = kept.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or range.

    See Also
    --------
    dropout_into : whole arrays, of which 256 elements are decided at once.

    Examples
    --------
    >>> from normdrop.numba import keep
    >>> "".join("01"[int(keep((0, 0), 0, i, 0.5))] for i in range(16))
    '1111110010111010'
    """
    key0, key1, call = _law(key, call)
    return bool(element_kept(key0, key1, call, _checks.integer(index, "index", 0, _LAST), _checks.probability(p)))


@kinds.compiled(keep)
def _keep(key: Any, call: Any, index: Any, p: Any) -> Any:
    kinds.law(key, call)
    kinds.integer("index", index)
    kinds.number("p", p)

    def run(key: Any, call: Any, index: Any, p: Any) -> Any:
        words = np.int64(key[0]), np.int64(key[1])
        return element_kept(words[0], words[1], np.int64(call), np.int64(index), np.float64(p))

    return run


def dropout(x: Array, p: float, key: Key, call: int) -> Array:
    """Drop each element with probability `p` and scale the others, as `functional.dropout` with this key and call.

    Parameters
    ----------
    x : ndarray of float32 or float64, C-contiguous
        Input; not modified.
    p : float
        Probability of dropping an element, from 0 to 1.
    key : tuple of two int
        Key of a stream, as ``stream.key``.
    call : int
        Call of the stream, which moves on by itself nowhere: take one for each pass.

    Returns
    -------
    ndarray
        New array of the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, layout or range; in compiled code, types are refused while it is compiled.

    See Also
    --------
    normdrop.functional.dropout : the same in Python, for arrays of any layout and on threads.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from normdrop.numba import dropout
    >>> @njit
    ... def total(x, p, key, call):
    ...     return dropout(x, p, key, call).sum()
    >>> float(total(np.ones(8), 0.5, (0, 0), 0))
    12.0
    """
    return functional.dropout(x, p, rng=MaskStream.from_key(key, call))[0]


@kinds.compiled(dropout)
def _dropout(x: Any, p: Any, key: Any, call: Any) -> Any:
    kinds.array("x", x)
    kinds.number("p", p)
    kinds.law(key, call)

    def run(x: Any, p: Any, key: Any, call: Any) -> Any:
        y = np.empty(x.shape, x.dtype)
        drop(y, x, np.float64(p), np.int64(key[0]), np.int64(key[1]), np.int64(call))
        return y

    return run


def dropout_into(y: Array, x: Array, p: float, key: Key, call: int) -> None:
    """Write what `dropout` returns.

    Parameters
    ----------
    y : ndarray, shape and dtype of `x`, C-contiguous
        Where the result is written. It may be `x`, or else must not overlap it.
    x : ndarray of float32 or float64, C-contiguous
        Input.
    p : float
        Probability of dropping an element, from 0 to 1.
    key : tuple of two int
        Key of a stream, as ``stream.key``.
    call : int
        Call of the stream.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or `y` does not fit; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import dropout_into
    >>> y = np.ones(16)
    >>> dropout_into(y, y, 0.5, (0, 0), 0)
    >>> y[:8].tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    """
    functional.dropout(x, p, rng=MaskStream.from_key(key, call), out=y)


@kinds.compiled(dropout_into)
def _dropout_into(y: Any, x: Any, p: Any, key: Any, call: Any) -> Any:
    kinds.array("x", x)
    kinds.like("y", y, x, written=True)
    kinds.number("p", p)
    kinds.law(key, call)

    def run(y: Any, x: Any, p: Any, key: Any, call: Any) -> None:
        drop(y, x, np.float64(p), np.int64(key[0]), np.int64(key[1]), np.int64(call))

    return run


def dropout_backward_into(dx: Array, dy: Array, p: float, key: Key, call: int) -> None:
    """Write the gradient of dropout with respect to its input: mask and scale of the forward pass, applied to `dy`.

    Parameters
    ----------
    dx : ndarray, shape and dtype of `dy`, C-contiguous
        Where the gradient is written. It may be `dy`, or else must not overlap it.
    dy : ndarray of float32 or float64, C-contiguous
        Gradient with respect to the output.
    p : float
        That of the forward pass.
    key : tuple of two int
        That of the forward pass.
    call : int
        That of the forward pass.

    Raises
    ------
    TypeError, ValueError
        As `dropout_into`; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.numba import dropout_backward_into
    >>> dx = np.empty(16)
    >>> dropout_backward_into(dx, np.ones(16), 0.5, (0, 0), 0)
    >>> dx[:8].tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    """
    functional.dropout(dy, p, rng=MaskStream.from_key(key, call), out=dx)


@kinds.compiled(dropout_backward_into)
def _dropout_backward_into(dx: Any, dy: Any, p: Any, key: Any, call: Any) -> Any:
    kinds.array("dy", dy)
    kinds.like("dx", dx, dy, written=True)
    kinds.number("p", p)
    kinds.law(key, call)

    def run(dx: Any, dy: Any, p: Any, key: Any, call: Any) -> None:
        drop(dx, dy, np.float64(p), np.int64(key[0]), np.int64(key[1]), np.int64(call))

    return run


def _law(key: Key, call: int) -> tuple[int, int, int]:
    stream = MaskStream.from_key(key, call)
    return *stream.key, stream.call
