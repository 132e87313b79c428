"""What a fused pass does after batch norm, or without it: an activation, then dropout, as launchers take it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

OPERATIONS = ("batch_norm_act", "act_dropout")  # the passes that take them


class Steps(NamedTuple):
    """An activation and the mask of dropout."""

    activation: str
    """Name of the activation."""
    parameter: float = 0.0
    """Its parameter, if it has one."""
    threshold: int = 0
    """T of the mask law, below 2**32; with 0 and without a mask, nothing is dropped."""
    scale: float = 1.0
    """Factor of the kept elements."""
    key: tuple[int, int] = (0, 0)
    """Key of the stream."""
    call: int = 0
    """Call of the stream."""
    mask: npt.NDArray[np.bool_] | Any = None
    """A given mask, shape (A, B); element (a, s, b) of the arrays, in memory order, has its element (a, b)."""
    fold: tuple[int, int] = (1, 1)
    """(S, B) of a given mask."""

    @property
    def drops(self) -> bool:
        """Whether there is dropout."""
        return self.threshold > 0 or self.mask is not None
