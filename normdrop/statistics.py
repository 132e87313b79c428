"""Statistics of data in pieces: count, mean and sum of squares of each channel, which merge to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _merging, _state
from normdrop._passes import Reading
from normdrop.functional import _per_channel as per_channel

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Self = TypeVar("Self", bound="ChannelStatistics")

__all__ = ["ChannelStatistics"]


class ChannelStatistics:
    """Number of values, mean and sum of squares about it of each channel, in float64.

    Those of parts, from files, processes or machines, merge to those of the whole: ``a + b``, ``a += b``,
    ``sum(parts)``.

    Parameters
    ----------
    num_channels : int
        Number of channels C. The new object has no values; merged with another, it changes nothing.

    See Also
    --------
    BatchNorm.fit : running statistics of data in pieces.

    Notes
    -----
    Parts merge by Chan's formula [1]_, with the mean in two float64, so that many of them lose no digits. Bits depend
    on how the data are divided and on the order of merging, and on nothing else: the same parts, merged in the same
    order, give the same bits whatever merged them.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
       recommendations", The American Statistician 37 (1983) 242-247.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
    >>> parts = [normdrop.ChannelStatistics.of(x[:1]), normdrop.ChannelStatistics.of(x[1:])]
    >>> whole = sum(parts)
    >>> whole
    ChannelStatistics of 2 channels, n = 3: mean 3 to 20, sd 1.63 to 8.16
    >>> whole.mean, whole.var(ddof=1)
    (array([ 3., 20.]), array([  4., 100.]))
    """

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __init__(self, num_channels: int) -> None:
        self._block: Array = np.zeros((4, _checks.integer(num_channels, "num_channels", 1)))

    @classmethod
    def of(
        cls: type[Self],
        x: Array,
        channel_axis: int = 1,
        *,
        mask: Array | None = None,
        weights: Array | None = None,
    ) -> Self:
        """Return the statistics of a batch.

        Parameters
        ----------
        x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
            Values; any strides, also with no samples.
        channel_axis : int, default 1
            Axis of the channels.
        mask : ndarray of bool, optional
            Which values count: True. Of the shape of `x`, or one that broadcasts to it.
        weights : ndarray of floats, optional
            How often each value counts, zero or more; shape as of `mask`.

        Returns
        -------
        ChannelStatistics
            Of float64, whatever the dtype of `x`. A value that does not count is not looked at: it may be a NaN.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong type, dtype or shape, or a weight is negative or not finite.

        Notes
        -----
        Without `mask` and `weights`, the kernels of batch normalization compute, with their accuracy and their bits.
        With them, NumPy does, block by block in float64: as accurate, slower, and only for arrays on the host.
        """
        x = _checks.array(x, "x")
        axis = per_channel.axis(x, channel_axis)
        n_channels = x.shape[axis]
        if n_channels == 0:
            raise ValueError(f"x has no channels (shape {x.shape}); pass an array with one or more on channel_axis")
        statistics = cls(n_channels)
        if mask is None and weights is None:
            n = math.prod(x.shape) // n_channels
            computed = per_channel.empty(3, n_channels, x)
            if n:
                _backend.moments(computed, Reading(x, axis).x)
            statistics._block = _merging.of_batch(n, _device.to_host(computed))
        else:
            counted = _merging.counted(x, mask, weights)
            reading = Reading(x, axis)
            statistics._block = _merging.weighted(reading.x, reading.beside(counted))
        return statistics

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return int(self._block.shape[1])

    @property
    def n(self) -> Vector:
        """Number of values, or sum of the weights, of each channel, shape (C,)."""
        n: Vector = self._block[0].copy()
        return n

    @property
    def mean(self) -> Vector:
        """Mean of each channel, shape (C,); NaN where there are no values."""
        return np.where(self._block[0] > 0.0, self._block[1], np.nan)

    def var(self, ddof: float = 0) -> Vector:
        """Return the variance of each channel: squares about the mean, divided by n - ddof.

        Parameters
        ----------
        ddof : float, default 0
            0 gives the biased variance, 1 the unbiased one, if n counts values.

        Returns
        -------
        ndarray of float64, shape (C,)
            NaN where n is not above `ddof`.
        """
        ddof = _checks.real(ddof, "ddof", "what is subtracted from n, such as 0 or 1")
        n = self._block[0] - ddof
        with np.errstate(all="ignore"):
            return np.where((n > 0.0) & (self._block[0] > 0.0), self._block[3] / n, np.nan)

    def std(self, ddof: float = 0) -> Vector:
        """Return the standard deviation of each channel, the square root of `var`.

        Parameters
        ----------
        ddof : float, default 0
            As for `var`.

        Returns
        -------
        ndarray of float64, shape (C,)
            NaN where n is not above `ddof`.
        """
        return np.sqrt(self.var(ddof))

    def inv_std(self, eps: float = 1e-5) -> Vector:
        """Return 1 / sqrt(var + eps) of each channel, with the biased variance.

        Parameters
        ----------
        eps : float, default 1e-5
            Added to the variance. Positive.

        Returns
        -------
        ndarray of float64, shape (C,)
            NaN where there are no values.
        """
        return 1.0 / np.sqrt(self.var() + _checks.eps(eps))

    def merge(self: Self, other: ChannelStatistics) -> Self:
        """Return the statistics of both parts together; neither changes.

        Parameters
        ----------
        other : ChannelStatistics
            Statistics of other values of the same channels.

        Returns
        -------
        ChannelStatistics
            The same as ``self + other``.

        Raises
        ------
        TypeError, ValueError
            `other` is something else, or has another number of channels.
        """
        if not isinstance(other, ChannelStatistics):
            raise TypeError(
                f"other must be a ChannelStatistics; got {_checks.kind(other)}. Use ChannelStatistics.of()."
            )
        if other.num_channels != self.num_channels:
            raise ValueError(
                f"other must have {self.num_channels} channels as this one; got {other.num_channels}. Merge statistics "
                "of the same channels."
            )
        return self._with(_merging.merge(self._block, other._block))

    def __add__(self: Self, other: object) -> Self:
        return self.merge(other) if isinstance(other, ChannelStatistics) else NotImplemented

    def __radd__(self: Self, other: object) -> Self:
        return self.copy() if type(other) is int and other == 0 else NotImplemented  # what sum() starts with

    def __iadd__(self: Self, other: object) -> Self:
        if not isinstance(other, ChannelStatistics):
            return NotImplemented
        self._block = self.merge(other)._block
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelStatistics):
            return NotImplemented
        return np.array_equal(self._block, other._block, equal_nan=True)

    def copy(self: Self) -> Self:
        """Return a copy."""
        return self._with(self._block)

    def _with(self: Self, block: Array) -> Self:
        twin = type(self).__new__(type(self))
        twin._block = block  # shared: no block is ever written to
        return twin

    def to_array(self) -> Array:
        """Return all there is in one contiguous array, to be sent: rows n, mean, rest of the mean, squares about it.

        Returns
        -------
        ndarray of float64, shape (4, C)
            A copy.
        """
        return self._block.copy()

    @classmethod
    def from_array(cls: type[Self], array: Array) -> Self:
        """Make statistics of what `to_array` returned.

        Parameters
        ----------
        array : ndarray of float64, shape (4, C)
            It is copied.

        Returns
        -------
        ChannelStatistics
            Equal to that which gave the array.

        Raises
        ------
        TypeError, ValueError
            It is something else, or has a negative number of values or a negative sum of squares.
        """
        kind = getattr(array, "dtype", None) or _checks.kind(array)
        if kind != np.float64:
            raise TypeError(f"array must be a float64 array as to_array() returns it; got {kind}")
        if array.ndim != 2 or array.shape[0] != 4 or array.shape[1] == 0:
            raise ValueError(f"array must have shape (4, C) as to_array() returns it; got {array.shape}")
        if not (np.isfinite(array[0]) & (array[0] >= 0.0)).all():
            raise ValueError("array[0] must be numbers of values, zero or more; pass what to_array() returned")
        _checks.not_negative(array[3], "array[3]")
        statistics = cls(array.shape[1])
        statistics._block = np.array(array, np.float64, order="C")
        return statistics

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_array, (self._block,)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of everything by name.

        Returns
        -------
        dict
            ``n``, ``mean``, ``rest`` and ``m2``, float64 of shape (C,).
        """
        return {name: row.copy() for name, row in zip(_merging.NAMES, self._block, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            Exactly the entries of a `state_dict` of as many channels.

        Raises
        ------
        TypeError, ValueError
            Missing, extra or misshapen entries; nothing has changed then.
        """
        _state.check_keys(state, _merging.NAMES)
        rows = [_state.entry(state, name, (self.num_channels,), "f") for name in _merging.NAMES]
        self._block = type(self).from_array(np.stack(rows).astype(np.float64))._block

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {_merging.summary(self.n, self.mean, self.std())}"
