"""Batch renormalization layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from normdrop import _checks, functional
from normdrop.functional import BatchRenormContext
from normdrop.functional._batch_renorm import limit
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array
from normdrop.layers.batch_norm import BatchNorm

Bound: TypeAlias = "float | Callable[[int], float]"


def _bound(name: str, least: float) -> Callable[[Any], Bound]:
    return lambda value: value if callable(value) else limit(value, name, least)


class BatchRenorm(BatchNorm):
    r"""Normalize each channel by the statistics of the batch, corrected towards the running ones.

    .. math:: y = \gamma_c \left(\frac{x - \mu_c}{\sigma_B} r_c + d_c\right) + \beta_c

    with r and d between bounds that let training and inference agree where batches are small or their samples depend on
    each other; see `functional.batch_renorm` for the formulas.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    r_max, d_max : float or callable, default 3.0 and 5.0
        Bounds of r, at least 1, and of d, at least 0; or functions that give them for the number of batches so far, 0
        at first. With 1 and 0, training is that of `BatchNorm`, as it should be at first: running statistics of 0 and 1
        are no statistics yet.
    **options : optional
        As of `BatchNorm`; there are always running statistics.

    See Also
    --------
    normdrop.functional.batch_renorm : the same without state.
    BatchNorm : options, attributes, modes.

    Notes
    -----
    r and d are made of the running statistics from before the batch, which then enters them as in `BatchNorm`: mean and
    variance, where the paper averages the standard deviation. Inference is that of `BatchNorm`.

    References
    ----------
    .. [1] S. Ioffe, "Batch renormalization: towards reducing minibatch dependence in batch-normalized models", NIPS
       2017, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> def r_max(n):  # from 1 after 100 batches to 3 after 400
    ...     return min(max(1.0, 1.0 + (n - 100) / 150), 3.0)
    >>> layer = normdrop.BatchRenorm(2, r_max=r_max, d_max=0.0)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], np.float32)
    >>> bool((layer(x) == normdrop.BatchNorm(2)(x)).all())
    True
    """

    _of_any_rank = "BatchRenorm"

    def __init__(self, num_features: int, *, r_max: Bound = 3.0, d_max: Bound = 5.0, **options: Any) -> None:
        if not _checks.flag(options.get("track_running_stats", True), "track_running_stats"):
            raise ValueError("track_running_stats must be True: batch renormalization is made of running statistics")
        self.r_max, self.d_max = r_max, d_max
        super().__init__(num_features, **options)

    r_max = Option(_bound("r_max", 1.0), "Bound of r, or a function that gives it for a number of batches.")
    d_max = Option(_bound("d_max", 0.0), "Bound of d, or a function that gives it for a number of batches.")

    def _normalized(self, x: Array, options: dict[str, Any]) -> tuple[Array, Any]:
        own = vars(self)
        r_max, d_max = (v(own["num_batches"]) if callable(v) else v for v in (own["r_max"], own["d_max"]))
        vectors = own["running_mean"], own["running_var"], own["gamma"], own["beta"]
        return functional.batch_renorm(x, *vectors, r_max=r_max, d_max=d_max, **options)

    def _gradients(self, dy: Array, context: Any, out: Array | None) -> tuple[Any, Array | None, Array | None]:
        if not isinstance(context, BatchRenormContext):
            return super()._gradients(dy, context, out)
        reduce = None if context.n_shared is None else self.reduce
        return functional.batch_renorm_backward(dy, context, reduce=reduce, out=out)

    def _checked(self, context: Any) -> Any:
        if isinstance(context, BatchRenormContext):
            super()._checked(context.norm)
            return context
        return super()._checked(context)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, r_max={self.r_max}, d_max={self.d_max})"
