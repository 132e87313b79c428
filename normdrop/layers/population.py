"""Running statistics that are those of a whole population of values, not of the last batches."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from normdrop import _checks, _device, _process, _progress, _state
from normdrop.functional import _as_one as as_one
from normdrop.functional import _running as running
from normdrop.layers.base import Array
from normdrop.statistics import ChannelStatistics


class Population:
    """The methods of `BatchNorm` that set running statistics from data, each all or nothing."""

    if TYPE_CHECKING:
        num_features: int
        track_running_stats: bool
        on_nonfinite: str
        unbiased: bool
        num_batches: int
        num_values: int

        def _checked_axis(self, x: Array) -> as_one.Axes: ...

    def fit(self, chunks: Iterable[Array], *, progress: bool | None = None) -> Self:
        """Set the running statistics to the mean and variance of all values in the chunks.

        The chunks weigh by their numbers of values and may differ as they like; what was there before is forgotten.
        Parameters, mode and momentum stay as they are. An average over batches of training (momentum) leans to the
        last of them, and lacks what their means differ by.

        Parameters
        ----------
        chunks : iterable of ndarray
            Inputs of the layer, as for `forward`; those without values are passed over.
        progress : bool, optional
            Whether to show a progress bar on standard error; by default if that is a terminal. It needs the package
            rich.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        TypeError, ValueError
            A chunk does not fit, there are no values at all, or the layer has no running statistics. Whatever is
            raised, here or by the iterable, the layer is unchanged.
        FloatingPointError
            A chunk is not finite, and the layer was made with ``on_nonfinite="raise"``; with ``"skip"``, it is left
            out.

        Examples
        --------
        >>> import numpy as np
        >>> import normdrop
        >>> chunks = [np.zeros((1000, 1)), np.full((2, 1), 10.0)]
        >>> layer = normdrop.BatchNorm(1).fit(chunks)
        >>> layer.running_mean.round(3), layer.running_var.round(3), layer.num_values
        (array([0.02]), array([0.199]), 1002)
        """
        self._check_tracked()
        if isinstance(chunks, np.ndarray) or not isinstance(chunks, Iterable):
            raise TypeError(
                f"chunks must be an iterable of batches; got {_checks.kind(chunks)}. Pass [x] for one batch."
            )
        population, n_chunks = ChannelStatistics(self.num_features), 0
        with _progress.bar(progress, "statistics", len(chunks) if isinstance(chunks, Sized) else None) as advance:
            for x in chunks:
                part = self._statistics(x)
                if self._is_taken(part):
                    population += part
                    n_chunks += 1
                advance()
        self._set(population, n_chunks)
        return self

    def partial_fit(self, x: Array) -> Self:
        """Add a batch to the population whose mean and variance the running statistics are.

        They are taken for those of the `num_values` values so far: begin with a new layer, or after `fit`.

        Parameters
        ----------
        x : ndarray of floats
            Input of the layer, as for `forward`. Without values, it changes nothing.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As for `fit`; the layer is then unchanged.
        """
        self._check_tracked()
        part = self._statistics(x)
        if self._is_taken(part):
            with _process.updating:
                self._set(self._population() + part, self.num_batches + 1)
        return self

    def set_statistics(self, statistics: ChannelStatistics) -> Self:
        """Set the running statistics to those of data in pieces, from wherever they come.

        Parameters
        ----------
        statistics : ChannelStatistics
            Of as many channels as the layer has, each with values. They count as one batch, and `num_values` becomes
            the smallest number of values of a channel.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        TypeError, ValueError
            They do not fit, or the layer has no running statistics; the layer is then unchanged.
        FloatingPointError
            They are not finite, and the layer was made with ``on_nonfinite="raise"``.
        """
        self._check_tracked()
        if not isinstance(statistics, ChannelStatistics):
            raise TypeError(f"statistics must be a ChannelStatistics; got {_checks.kind(statistics)}")
        if statistics.num_channels != self.num_features:
            raise ValueError(
                f"statistics must have num_features = {self.num_features} channels; got {statistics.num_channels}"
            )
        if self._is_taken(statistics):
            self._set(statistics, 1)
        return self

    def _check_tracked(self) -> None:
        if not self.track_running_stats:
            raise ValueError("the layer has no running statistics to set; make it with track_running_stats=True")

    def _statistics(self, x: Array) -> ChannelStatistics:
        x = _checks.array(x, "x")
        return ChannelStatistics.of(*as_one.merged(x, self._checked_axis(x)))

    def _is_taken(self, statistics: ChannelStatistics) -> bool:
        """Whether there are values, and such as `on_nonfinite` lets in."""
        if not statistics.n.any():
            return False
        if self.on_nonfinite == "propagate":
            return True
        batch = np.stack([statistics.mean, statistics.var()])
        channels = np.flatnonzero(~np.isfinite(batch).all(axis=0) & (statistics.n > 0))
        if channels.size and self.on_nonfinite == "raise":
            raise FloatingPointError(running.nonfinite_message(channels, batch))
        return channels.size == 0

    def _population(self) -> ChannelStatistics:
        """Return the statistics of `num_values` values per channel whose mean and variance the running ones are."""
        n, arrays = self.num_values, self._running_arrays()
        if n == 0:
            return ChannelStatistics(self.num_features)
        mean, var = (_device.to_host(values) for values in arrays.values())
        return ChannelStatistics.from_array(running.moments(mean, var, n, self.unbiased))

    def _running_arrays(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("running_mean", "running_var")}

    def _set(self, statistics: ChannelStatistics, n_batches: int) -> None:
        """Set running statistics and counts; if that fails or is interrupted, nothing has changed."""
        n = statistics.n
        if not n.all():
            channel = int(np.flatnonzero(n == 0)[0])
            raise ValueError(f"channel {channel} has no values, whose mean and variance would be none; pass some")
        var = statistics.var()
        if self.unbiased:
            var = np.where(n > 1, statistics.var(ddof=1), var)
        values = {"running_mean": statistics.mean, "running_var": var}
        with _process.updating:
            counts = {"num_batches": n_batches, "num_values": int(n.min())}
            _state.assign(self._running_arrays(), values, self, counts)
