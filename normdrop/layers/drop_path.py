"""Stochastic depth: whole samples, or the whole batch, are dropped at once."""

from __future__ import annotations

from typing import Literal, TypeAlias

from normdrop import _checks
from normdrop.functional._masking import Scaling
from normdrop.layers.attributes import Fixed
from normdrop.layers.base import Array
from normdrop.layers.dropout import Dropout
from normdrop.layers.given_p import Probability
from normdrop.random import RNG

Mode: TypeAlias = Literal["row", "batch"]

_MODES = ("row", "batch")


class DropPath(Dropout):
    r"""Drop the branch of a residual block while training, for each sample or for the batch: stochastic depth.

    .. math:: y_n = \frac{m_n x_n}{1 - p}, \qquad m_n \sim \mathrm{Bernoulli}(1 - p)

    with one m for each sample n, or with ``mode="batch"`` for all, and without 1/(1 - p) with ``scaling="original"``.
    In ``x + drop(branch(x))`` the block is the identity where its branch is dropped.

    Parameters
    ----------
    p : float, ndarray of floats, or callable, default 0.5
        Probability of dropping the branch, from 0 to 1. The paper has it grow linearly over the blocks, from 0 at the
        input to 0.5: ``np.linspace(0, 0.5, n_blocks + 1)[1:]``. An array of shape (N, 1, ..., 1) is one of each sample,
        and a callable is a schedule, as for `Dropout`.
    mode : {"row", "batch"}, default "row"
        ``"row"``: each sample along axis 0 has a mask element of its own. ``"batch"``: all elements have the same, as
        in the paper.
    scaling : {"inverted", "original"}, default "inverted"
        ``"inverted"``: training multiplies what is kept by 1/(1 - p), inference is the identity. ``"original"``, as in
        the paper: training only masks, inference multiplies by 1 - p.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    Dropout : modes, streams, a mask of one's own; ``shared_axes`` is there what ``mode`` is here.

    Notes
    -----
    The branch is computed before it is dropped, so that no time is saved.

    References
    ----------
    .. [1] G. Huang, Y. Sun, Z. Liu, D. Sedra and K. Q. Weinberger, "Deep networks with stochastic depth", ECCV 2016,
       section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> drop = normdrop.DropPath(0.5, rng=0)
    >>> x, branch = np.zeros((6, 4, 4)), np.ones((6, 4, 4))
    >>> y = x + drop(branch)
    >>> bool(np.all((y == 0).all((1, 2)) | (y == 2).all((1, 2))))
    True
    """

    def __init__(
        self, p: Probability = 0.5, *, mode: Mode = "row", scaling: Scaling = "inverted", rng: RNG = None
    ) -> None:
        chosen = _checks.choice(mode, "mode", _MODES)
        super().__init__(p, scaling=scaling, rng=rng)
        vars(self)["mode"] = chosen

    mode = Fixed[Mode]('What is dropped at once: "row" or "batch".')

    def _axes(self, x: Array) -> tuple[int, ...]:
        if self.mode == "batch":
            return tuple(range(x.ndim))
        if x.ndim == 0:
            raise ValueError("x must have samples along axis 0, and has no axis; use x[np.newaxis]")
        return tuple(range(1, x.ndim))

    def _without_ids(self) -> str:
        return "this layer drops all samples at once (mode='batch'); use one with mode='row'" * (self.mode == "batch")

    def _options(self) -> str:
        return f", mode={self.mode!r}"
