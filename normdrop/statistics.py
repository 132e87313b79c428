"""Statistics of data in pieces: count, mean and sum of squares of each channel, which merge to those of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _exact, _merging, _moments, _state

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]

__all__ = ["ChannelStatistics"]


class ChannelStatistics:
    """Number of values, mean and sum of squares about it of each channel, in float64.

    Those of parts, from files, processes or machines, merge to those of the whole: ``a + b``, ``a += b``,
    ``sum(parts)``.

    Parameters
    ----------
    num_channels : int
        Number of channels C. The new object has no values; merged with another, it changes nothing.
    exact : bool, default False
        Whether sums are kept without rounding.

    See Also
    --------
    BatchNorm.fit : running statistics of data in pieces.

    Notes
    -----
    Parts merge by Chan's formula [1]_, with the mean in two float64, so that many of them lose no digits. Bits depend
    on how the data are divided and on the order of merging, and on nothing else: the same parts, merged in the same
    order, give the same bits whatever merged them.

    With ``exact=True``, sums of values and of squares are integers, as large as it takes, and are rounded once, when
    mean or variance are asked for. They are the float64 nearest to those of the data, and the same bits for any
    division into parts and any order of merging. That takes a few times as long, 20 to 40 times for float64 and
    for values that are far from each other; and 0.3 KB for a channel, or 1.6 KB if there are float64 values.

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

    def __init__(self, num_channels: int, *, exact: bool = False) -> None:
        num_channels = _checks.integer(num_channels, "num_channels", 1)
        self._block: Array = (_exact if _checks.flag(exact, "exact") else _merging).empty(num_channels)

    @property
    def _law(self) -> ModuleType:
        """The arithmetic of the block."""
        return _exact if self._block.dtype == np.int64 else _merging

    @classmethod
    def of(
        cls,
        x: Array,
        channel_axis: int = 1,
        *,
        mask: Array | None = None,
        weights: Array | None = None,
        exact: bool = False,
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
            How often each value counts, zero or more; shape as of `mask`. Not with ``exact=True``.
        exact : bool, default False
            Whether sums are kept without rounding; see the notes of the class.

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
        With them, so do kernels where all channels share the mask and the weights, and those are float32. Otherwise
        NumPy does, block by block in float64: as accurate, slower. `x` is on the host then.
        """
        x = _checks.array(x, "x")
        axis = _checks.channel_axis(x, channel_axis)
        if x.shape[axis] == 0:
            raise ValueError(f"x has no channels (shape {x.shape}); pass an array with one or more on channel_axis")
        statistics = cls.__new__(cls)
        law = _moments.exact if _checks.flag(exact, "exact") else _moments.rounded
        statistics._block = law(x, axis, mask, weights)
        return statistics

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return int(self._law.n(self._block).size)

    @property
    def exact(self) -> bool:
        """Whether sums are kept without rounding."""
        return self._law is _exact

    @property
    def n(self) -> Vector:
        """Number of values, or sum of the weights, of each channel, shape (C,)."""
        return cast(Vector, self._law.n(self._block))

    @property
    def mean(self) -> Vector:
        """Mean of each channel, shape (C,); NaN where there are no values."""
        return cast(Vector, self._law.mean(self._block))

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
        return cast(Vector, self._law.var(self._block, ddof))

    def std(self, ddof: float = 0) -> Vector:
        """Return the standard deviation of each channel, the square root of ``var(ddof)``."""
        return np.sqrt(self.var(ddof))

    def inv_std(self, eps: float = 1e-5) -> Vector:
        """Return 1 / sqrt(var + eps) of each channel, with the biased variance and a positive eps."""
        return 1.0 / np.sqrt(self.var() + _checks.eps(eps))

    def merge(self, other: ChannelStatistics) -> Self:
        """Return the statistics of both parts together; neither changes.

        Parameters
        ----------
        other : ChannelStatistics
            Of other values of the same channels.

        Returns
        -------
        ChannelStatistics
            The same as ``self + other``.

        Raises
        ------
        TypeError, ValueError
            `other` is something else, has another number of channels, or is exact where this one is not.
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
        if other.exact != self.exact:
            raise ValueError(
                f"other must have exact={self.exact} as this one; got {other.exact}. Make all parts with the same "
                "exact: what was rounded once does not become exact."
            )
        return self._with(self._law.merge(self._block, other._block))

    def __add__(self, other: object) -> Self:
        return self.merge(other) if isinstance(other, ChannelStatistics) else NotImplemented

    def __radd__(self, other: object) -> Self:
        return self.copy() if type(other) is int and other == 0 else NotImplemented  # what sum() starts with

    def __iadd__(self, other: object) -> Self:
        if not isinstance(other, ChannelStatistics):
            return NotImplemented
        self._block = self.merge(other)._block
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelStatistics):
            return NotImplemented
        return self.exact == other.exact and self._law.equal(self._block, other._block)

    def copy(self) -> Self:
        """Return a copy."""
        return self._with(self._block)

    def _with(self, block: Array) -> Self:
        twin = type(self).__new__(type(self))
        twin._block = block  # shared: no block is ever written to
        return twin

    def to_array(self) -> Array:
        """Return all there is in one contiguous array, to be sent.

        Returns
        -------
        ndarray, float64 of shape (4, C), or int64 of shape (C, W) of exact statistics
            A copy: rows n, mean, rest of the mean and squares about it; or for each channel n, two sums in limbs of 32
            bits, and three counts. Exact ones of one shape may be added as arrays, as by ``MPI.SUM``.
        """
        return self._block.copy()

    @classmethod
    def from_array(cls, array: Array) -> Self:
        """Make statistics of what `to_array` returned, or of the sum of such arrays of exact ones.

        Parameters
        ----------
        array : ndarray
            It is copied.

        Returns
        -------
        ChannelStatistics
            Equal to what gave the array.

        Raises
        ------
        TypeError, ValueError
            It is something else, or has a negative number of values or a negative sum of squares.
        """
        dtype = getattr(array, "dtype", None) or _checks.kind(array)
        if dtype not in (np.float64, np.int64):
            raise TypeError(f"array must be float64 or int64 as to_array() returns it; got {dtype}")
        statistics = cls.__new__(cls)
        statistics._block = (_exact if dtype == np.int64 else _merging).checked(np.array(array, dtype, order="C"))
        return statistics

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_array, (self._block,)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of everything by name: ``statistics``, what `to_array` returns."""
        return {"statistics": self._block.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; on an error, nothing has changed.

        Parameters
        ----------
        state : mapping
            The entry of a `state_dict` of as many channels, exact if this one is.
        """
        _state.check_keys(state, ["statistics"])
        loaded = type(self).from_array(np.asarray(state["statistics"]))
        if (loaded.exact, loaded.num_channels) != (self.exact, self.num_channels):
            raise ValueError(
                f"state must be of {self.num_channels} channels with exact={self.exact}; got one of "
                f"{loaded.num_channels} with exact={loaded.exact}. Make a ChannelStatistics as the one that was saved."
            )
        self._block = loaded._block

    def __repr__(self) -> str:
        name = f"exact {type(self).__name__}" if self.exact else type(self).__name__
        return f"{name} of {_moments.summary(self.n, self.mean, self.std())}"


def beside(parts: Sequence[ChannelStatistics]) -> ChannelStatistics:
    """Return the statistics of the channels of all parts, one part's after the other's."""
    blocks = [part.to_array() for part in parts]
    return ChannelStatistics.from_array(np.concatenate(blocks, axis=0 if parts[0].exact else 1))
