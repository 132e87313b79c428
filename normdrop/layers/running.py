"""How the running statistics of a layer follow its batches, or do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from normdrop import _checks, _device, _overlap, _process, _state
from normdrop.functional import _as_one as as_one
from normdrop.functional import _of_batch as of_batch
from normdrop.functional import _running as running
from normdrop.layers.attributes import Attribute
from normdrop.layers.base import Array

Memory: TypeAlias = "tuple[Sequence[tuple[Array | None, Array | None]], Array | None]"
"""Inputs, each with what a context kept of it, a copy where `out` has overwritten it; and `out`."""


class Frozen(Attribute[bool]):
    """Whether training leaves the running statistics alone; never without them."""

    def __set__(self, layer: object, value: bool) -> None:
        value = _checks.flag(value, self._name)
        if value and vars(layer)["running_mean"] is None:
            raise ValueError("the layer has no running statistics to be frozen; make it with track_running_stats=True")
        vars(layer)[self._name] = value


def _give_back(inputs: Sequence[tuple[Array | None, Array | None]], out: Array | None) -> None:
    """Write back an input that `out` has overwritten."""
    for given, kept in inputs:
        if out is not None and kept is not None:
            target = _device.view(out)
            if _overlap.is_possible(target, _device.view(given)):
                target[...] = _device.view(kept)


class Running:
    """The methods of `BatchNorm` by which batches enter its running statistics, each all or nothing."""

    frozen = Frozen("Whether training uses the running statistics, too, and leaves them as they are.")

    if TYPE_CHECKING:
        num_features: int
        eps: float
        reduce: Callable[[Any], Any] | None
        _passes: Any

        def _keep(self, context: Any, *, asked: bool) -> None: ...

        def _checked_axis(self, x: Array) -> as_one.Axes: ...

        def _check_tracked(self) -> None: ...

        def _running_arrays(self) -> dict[str, Any]: ...

    def freeze(self) -> Self:
        """Normalize by the running statistics in training, too, and leave them as they are.

        `backward` then gives the gradients of that map, in which statistics are constants, `dgamma` and `dbeta`
        included. The layer stays frozen through ``train()``, copies and pickles, until `unfreeze`. Only training passes
        are frozen out: `fit`, `update_running_stats` and the like still do what they are called for.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        ValueError
            The layer has no running statistics.

        Examples
        --------
        >>> import numpy as np
        >>> import normdrop
        >>> layer = normdrop.BatchNorm(1, dtype=np.float64).freeze()
        >>> y = layer.train()(np.array([[1.0], [3.0]]))
        >>> y.round(3).ravel(), layer.num_batches
        (array([1., 3.]), 0)
        """
        self.frozen = True
        return self

    def unfreeze(self) -> Self:
        """Let training use and change the statistics as its mode says, after `freeze`.

        Returns
        -------
        BatchNorm
            The layer itself.
        """
        self.frozen = False
        return self

    def reset_running_stats(self) -> Self:
        """Set the running statistics to what they were at first, mean 0 and variance 1, and the counts to 0.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        ValueError
            The layer has no running statistics, or one of them is read-only; nothing has changed then.
        """
        self._check_tracked()
        n = self.num_features
        with _process.updating:
            values = {"running_mean": np.zeros(n), "running_var": np.ones(n)}
            _state.assign(self._running_arrays(), values, self, {"num_batches": 0, "num_values": 0})
        return self

    def update_running_stats(self, x: Array, *, mask: Array | None = None, weights: Array | None = None) -> Self:
        """Fold a batch into the running statistics as a training pass would, in any mode, without its output.

        Parameters
        ----------
        x : ndarray of floats
            Input of the layer, as for `forward`. If it is empty, or nothing counts in it, nothing changes.
        mask, weights : ndarray, optional
            Which positions count, and how often, as for `forward`.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As by a training pass, or the layer has no running statistics; the layer is then unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> import normdrop
        >>> layer = normdrop.BatchNorm(1, momentum=0.5).eval()
        >>> layer.update_running_stats(np.array([[1.0], [3.0]])).running_mean
        array([1.])
        """
        self._check_tracked()
        x = _checks.array(x, "x")
        axis = self._checked_axis(x)
        _checks.same_place(vars(self)["running_mean"], "the layer", x, "x")
        batch = of_batch.of(x, axis, self.eps, mask=mask, weights=weights, reduce=self.reduce)
        if batch.n:
            self._update(batch, ((), None), [], keep=False)
        return self

    def _how(self, n: float) -> running.How:
        """Return how n values per channel enter the running statistics."""
        own = vars(self)
        number = own["num_batches"] + 1 if own["debias"] else None
        how = running.how_of(own["momentum"], n, own["num_values"], number)
        return how._replace(unbiased=own["unbiased"], on_nonfinite=own["on_nonfinite"])

    def _update(self, context: Any, memory: Memory, done: list[bool], *, keep: bool) -> None:
        """Keep the context and fold the batch into the running statistics; all or nothing, whatever interrupts it.

        `done` has an element if it has happened, whether or not an exception was raised then.
        """
        own, passes, n = vars(self), self._passes, context.n
        mean, var = own["running_mean"], own["running_var"]
        with _process.updating:
            waiting, num_batches, num_values = passes.waiting, own["num_batches"], own["num_values"]
            saved = running.snapshot(mean, var)
            try:
                if keep:
                    self._keep(context, asked=True)
                if running.fold(mean, var, context.statistics, self._how(n)):
                    own.update(num_batches=num_batches + 1, num_values=round(num_values + n))
                done.append(True)
            except BaseException as error:
                done.clear()
                passes.waiting = waiting
                own.update(num_batches=num_batches, num_values=num_values)
                running.restore(mean, var, saved)
                if isinstance(error, Exception):
                    _give_back(*memory)
                raise
