"""Which connections of a dense layer a pass of DropConnect keeps, as launchers take it."""

from __future__ import annotations

from typing import NamedTuple


class Connections(NamedTuple):
    """The mask of the connections, of shape (N, out, in), or (out, in) if samples share it, and the scale."""

    key: tuple[int, int]
    """Key of the stream."""
    call: int
    """Call of the stream."""
    threshold: int
    """T of the mask law; with 0 everything is kept."""
    scale: float
    """Factor of the sums over kept connections."""
    shared: bool
    """Whether all samples of a batch have one mask."""

    @property
    def are_shared(self) -> bool:
        """Whether one weight serves all samples: there is one mask, or none that drops anything."""
        return self.shared or self.threshold == 0
