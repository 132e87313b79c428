"""How the running statistics of a layer follow its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from normdrop import _device, _overlap, _process
from normdrop.functional import BatchNormContext
from normdrop.functional import _running as running
from normdrop.layers.base import Array

Memory: TypeAlias = "tuple[Sequence[tuple[Array | None, Array | None]], Array | None]"
"""Inputs, each with what a context kept of it, a copy where `out` has overwritten it; and `out`."""


def _give_back(inputs: Sequence[tuple[Array | None, Array | None]], out: Array | None) -> None:
    """Write back an input that `out` has overwritten."""
    for given, kept in inputs:
        if out is not None and kept is not None:
            target = _device.view(out)
            if _overlap.is_possible(target, _device.view(given)):
                target[...] = _device.view(kept)


def counts(context: BatchNormContext) -> bool:
    """Whether any position counts."""
    return context.positions is None or context.positions.total > 0


class Running:
    """The part of `BatchNorm` that folds batches into running statistics."""

    if TYPE_CHECKING:
        _passes: Any

        def _keep(self, context: Any, *, asked: bool) -> None: ...

    def _update(self, context: Any, memory: Memory, done: list[bool], *, keep: bool) -> None:
        """Keep the context and fold the batch into the running statistics; all or nothing, whatever interrupts it.

        `done` has an element if it has happened, whether or not an exception was raised then.
        """
        own, passes, n = vars(self), self._passes, context.n
        mean, var, old = own["running_mean"], own["running_var"], own["momentum"]
        with _process.updating:
            waiting, num_batches, num_values = passes.waiting, own["num_batches"], own["num_values"]
            if old is None:
                old = num_values / (num_values + n)
            saved = running.snapshot(mean, var)
            try:
                if keep:
                    self._keep(context, asked=True)
                if running.fold(mean, var, context.statistics, (old, n, own["unbiased"], own["on_nonfinite"])):
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
