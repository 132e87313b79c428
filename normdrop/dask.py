"""Statistics and normalization of Dask arrays, chunk by chunk; needs ``normdrop[dask]``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop import ChannelStatistics, _checks, functional
from normdrop.statistics import beside

Array = npt.NDArray[Any]

__all__ = ["batch_norm", "statistics"]

_AT_ONCE = 8  # parts that one task merges


def statistics(array: Any, channel_axis: int = 1, *, exact: bool = False) -> Any:
    """Return the statistics of a Dask array, to be computed: a tree over its chunks, which stay where they are.

    Parameters
    ----------
    array : dask.array.Array of floats
        Values, with chunks along any axes.
    channel_axis : int, default 1
        Axis of the channels.
    exact : bool, default False
        Whether sums are kept without rounding; the result then does not depend on the chunks, to the bit.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` gives a `normdrop.ChannelStatistics`.

    Raises
    ------
    ImportError
        There is no Dask.
    TypeError, ValueError
        It is no Dask array, or has no such axis.

    Examples
    --------
    >>> import dask.array
    >>> import normdrop.dask
    >>> x = dask.array.arange(12.0, chunks=6).reshape(6, 2)
    >>> whole = normdrop.dask.statistics(x).compute(scheduler="synchronous")
    >>> whole.n, whole.mean
    (array([6., 6.]), array([5., 6.]))
    """
    delayed, axis = _checked(array, channel_axis)
    of, merged, joined = delayed(ChannelStatistics.of), delayed(_merged), delayed(beside)
    channels = []
    for chunks in np.moveaxis(array.to_delayed(), axis, 0):
        parts = [of(chunk, axis, exact=exact) for chunk in chunks.reshape(-1)]
        while len(parts) > 1:
            parts = [merged(parts[k : k + _AT_ONCE]) for k in range(0, len(parts), _AT_ONCE)]
        channels += parts
    return joined(channels)


def batch_norm(
    array: Any,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-5,
    channel_axis: int = 1,
    whole: Any = None,
) -> Any:
    """Return a Dask array whose channels are normalized by the statistics of all chunks.

    Parameters
    ----------
    array : dask.array.Array of floats
        Values, with chunks along any axes.
    gamma, beta : ndarray of floats, shape (C,), optional
        Scale and shift; ``None`` means ones and zeros.
    eps : float, default 1e-5
        Added to the variance. Positive.
    channel_axis : int, default 1
        Axis of the channels.
    whole : ChannelStatistics or Delayed, optional
        Other statistics than those of the array.

    Returns
    -------
    dask.array.Array
        Shape, dtype and chunks of ``array``. Each chunk is read twice, for the statistics and for the result.

    Raises
    ------
    ImportError
        There is no Dask.
    TypeError, ValueError
        An argument does not fit.

    Examples
    --------
    >>> import dask.array
    >>> import normdrop.dask
    >>> x = dask.array.arange(12.0, chunks=6).reshape(6, 2)
    >>> y = normdrop.dask.batch_norm(x)
    >>> y.chunks, y.compute(scheduler="synchronous").mean(axis=0).round(6)
    (((3, 3), (2,)), array([0., 0.]))
    """
    _, axis = _checked(array, channel_axis)
    _checks.eps(eps)
    if whole is None:
        whole = statistics(array, axis)
    options = {"whole": whole, "affine": (gamma, beta), "eps": eps, "axis": axis}
    return array.map_blocks(_normalized, dtype=array.dtype, meta=array._meta, **options)


def _checked(array: Any, channel_axis: int) -> tuple[Any, int]:
    """Return what makes functions lazy, and the axis."""
    try:
        import dask
        import dask.array
    except ImportError as error:
        raise ImportError(f"normdrop.dask needs dask; pip install 'normdrop[dask]' ({error})") from error
    if not isinstance(array, dask.array.Array):
        raise TypeError(f"array must be a Dask array; got {_checks.kind(array)}.")
    _checks.input_dtype(array.dtype, "array.dtype")
    if array.ndim < 2:
        raise ValueError(f"array must have at least two axes, of samples and of channels; got shape {array.shape}")
    return dask.delayed, _checks.axis(channel_axis, "channel_axis", array.ndim)


def _merged(parts: list[ChannelStatistics]) -> ChannelStatistics:
    return sum(parts[1:], start=parts[0])


def _normalized(
    chunk: Array, *, whole: ChannelStatistics, affine: Any, eps: float, axis: int, block_info: Any = None
) -> Array:
    first, end = block_info[0]["array-location"][axis]
    gamma, beta = (None if v is None else v[first:end] for v in affine)
    mean, var = whole.mean[first:end], whole.var()[first:end]
    y, _ = functional.batch_norm_inference(chunk, mean, var, gamma, beta, eps=eps, channel_axis=axis)
    return y
