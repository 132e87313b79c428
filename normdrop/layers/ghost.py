"""Ghost batch normalization layer."""

from __future__ import annotations

from typing import Any

from normdrop import _checks, functional
from normdrop.functional import GhostBatchNormContext
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array
from normdrop.layers.batch_norm import BatchNorm


def _reduce(value: object) -> None:
    if value is not None:
        raise ValueError(
            f"reduce must be None for ghost batches, which are parts of one process's batch; got {_checks.kind(value)}"
        )


class GhostBatchNorm(BatchNorm):
    """Normalize groups of consecutive samples of a batch, each by its own statistics.

    Large batches are then normalized as noisily as small ones. The groups are those of `functional.ghost_batch_norm`:
    the last one has what is left, and a last group of one value per channel joins the one before.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    ghost_size : int
        Samples in a group, at least 1; it need not divide the batch.
    **options : optional
        As of `BatchNorm`, but for ``reduce``; the channel axis is not axis 0.

    See Also
    --------
    normdrop.functional.ghost_batch_norm : the same without state.
    BatchNorm : options, attributes, modes.

    Notes
    -----
    A batch enters the running statistics once, with mean and variance of the whole, merged of its groups', as if
    `BatchNorm` had seen it: what inference normalizes by does not depend on the groups. The paper instead lets the
    groups enter one after the other, and tf-keras averages their variances, which lack what their means differ by.
    Inference is that of `BatchNorm`.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization gap in large
       batch training of neural networks", NIPS 2017, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.GhostBatchNorm(1, ghost_size=2, momentum=0.0, dtype=np.float64)
    >>> x = np.array([[1.0], [3.0], [10.0], [30.0]])
    >>> layer(x).round(3).ravel()
    array([-1.,  1., -1.,  1.])
    >>> layer.running_mean
    array([11.])
    """

    _of_any_rank = "GhostBatchNorm"

    def __init__(self, num_features: int, ghost_size: int, **options: Any) -> None:
        self.ghost_size = ghost_size
        super().__init__(num_features, **options)
        _checks.integer(self.channel_axis, "channel_axis", -(2**31))

    ghost_size = Option(lambda value: _checks.integer(value, "ghost_size", 1), "Samples in a group.")
    reduce = Option(_reduce, "None: ghost batches are parts of one process's batch.")

    def _normalized(self, x: Array, options: dict[str, Any]) -> tuple[Array, Any]:
        own = vars(self)
        taken = {name: value for name, value in options.items() if name != "reduce"}
        return functional.ghost_batch_norm(x, own["gamma"], own["beta"], ghost_size=own["ghost_size"], **taken)

    def _gradients(self, dy: Array, context: Any, out: Array | None) -> tuple[Any, Array | None, Array | None]:
        if not isinstance(context, GhostBatchNormContext):
            return super()._gradients(dy, context, out)
        return functional.ghost_batch_norm_backward(dy, context, out=out)

    def _checked(self, context: Any) -> Any:
        if isinstance(context, GhostBatchNormContext):
            for group in context.groups:
                super()._checked(group)
            return context
        return super()._checked(context)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, ghost_size={self.ghost_size})"
