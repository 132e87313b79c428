"""Running statistics: folding a batch into them, all or nothing."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device, _merging, _overlap
from normdrop.functional._batch_norm import BatchNormContext

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float64]
OnNonfinite: TypeAlias = Literal["propagate", "raise", "skip"]

ON_NONFINITE = ("propagate", "raise", "skip")
_FLOAT64 = np.dtype(np.float64)


class How(NamedTuple):
    """How a batch enters the running statistics."""

    momentum: float
    """Weight of the old values."""
    n: float
    """Number of values per channel in the batch."""
    unbiased: bool
    on_nonfinite: str
    population: int | None = None
    """Number of values whose mean and variance the old ones are, where those of all values follow; None: averages."""


def update_running(
    running_mean: Vector,
    running_var: Vector,
    context: BatchNormContext,
    *,
    momentum: float | Literal["population"] | None = 0.9,
    num_values: int = 0,
    unbiased: bool = True,
    on_nonfinite: OnNonfinite = "propagate",
) -> bool:
    r"""Fold the statistics of a batch into running ones, in place.

    .. math:: \mathrm{running} = m \cdot \mathrm{running} + (1 - m) \cdot \mathrm{batch}

    Parameters
    ----------
    running_mean, running_var : ndarray of float64, shape (C,)
        Running statistics; changed in place, both or neither.
    context : BatchNormContext
        What `batch_norm` returned for the batch.
    momentum : float, None or "population", default 0.9
        Weight m of the **old** value, from 0 to 1; PyTorch's momentum is ``1 - m``. ``None`` is the average over all
        batches, each weighted by its number of values: m is ``num_values / (num_values + context.n)``.
        ``"population"``: the running ones become mean and variance of all values so far, also across batches.
    num_values : int, default 0
        Number of values per channel that are in the running statistics so far; not read if `momentum` is a number.
    unbiased : bool, default True
        Whether `running_var` takes n/(n - 1) times the variance of the batch (the paper, PyTorch), or that itself.
    on_nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What a batch does whose mean or variance is not finite: it makes the running ones NaN or infinite; an error,
        which changes nothing; or nothing.

    Returns
    -------
    bool
        Whether the batch was taken: not if it is empty, or skipped.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then.
    FloatingPointError
        The statistics of the batch are not finite, with ``on_nonfinite="raise"``.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.1 and Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> running_mean, running_var = np.zeros(1), np.ones(1)
    >>> y, context = functional.batch_norm(np.array([[1.0], [3.0]]))
    >>> functional.update_running(running_mean, running_var, context, momentum=0.5)
    True
    >>> running_mean, running_var
    (array([1.]), array([1.5]))
    """
    if not isinstance(context, BatchNormContext):
        raise TypeError(f"context must be what batch_norm() returned; got {_checks.kind(context)}")
    weight = _checks.momentum(momentum)
    num_values = _checks.integer(num_values, "num_values", 0)
    unbiased = _checks.flag(unbiased, "unbiased")
    _checks.choice(on_nonfinite, "on_nonfinite", ON_NONFINITE)
    statistics = _checks.array(context.statistics, "context.statistics", _FLOAT64)
    x = _checks.array(context.x, "context.x")
    n_channels = x.shape[_checks.channel_axis(x, context.channel_axis)]
    if statistics.shape != (3, n_channels):
        raise ValueError(
            f"context.statistics must have shape {(3, n_channels)} for x of shape {x.shape} with channel_axis = "
            f"{context.channel_axis}; got {statistics.shape}. Pass the context as batch_norm() returned it."
        )
    for name, values in (("running_mean", running_mean), ("running_var", running_var)):
        check(values, name, n_channels)
        _checks.same_place(values, name, statistics, "context.statistics")
    if _overlap.is_possible(_checks.array(running_mean, "running_mean"), _checks.array(running_var, "running_var")):
        raise ValueError("running_mean and running_var share memory; pass two arrays")
    n = context.n
    if n == 0:
        return False
    how = how_of(weight, n, num_values)._replace(unbiased=unbiased, on_nonfinite=on_nonfinite)
    saved = snapshot(running_mean, running_var)
    try:
        return fold(running_mean, running_var, statistics, how)
    except BaseException:
        restore(running_mean, running_var, saved)
        raise


def check(values: Any, name: str, n_channels: int) -> Array:
    """Return a view of running statistics after checking that a batch can be folded into them."""
    vector = _checks.array(values, name, _FLOAT64)
    if vector.dtype != _FLOAT64:
        raise TypeError(f"{name} must have dtype float64; got {vector.dtype}. Use {name}.astype(np.float64).")
    if vector.shape != (n_channels,):
        raise ValueError(f"{name} must have shape ({n_channels},), one value per channel; got {vector.shape}")
    if not vector.flags.writeable:
        raise ValueError(f"{name} is read-only and could not be updated; use {name}.copy()")
    return vector


def snapshot(mean: Any, var: Any) -> tuple[Array, Array] | None:
    """Return copies, or None for arrays on a GPU, whose queue is not interrupted."""
    return (mean.copy(), var.copy()) if isinstance(mean, np.ndarray) else None


def restore(mean: Array, var: Array, saved: tuple[Array, Array] | None) -> None:
    """Set the running statistics to what they were; what is read-only has not changed."""
    if saved is not None:
        for values, before in zip((mean, var), saved, strict=True):
            if values.flags.writeable:
                values[...] = before


def how_of(momentum: float | str | None, n: float, num_values: int, debiased_at: int | None = None) -> How:
    """Return how n values enter the running statistics, unbiased and whether finite or not.

    `debiased_at` is the number of the batch, from 1, if the average is to have no bias toward its start.
    """
    if momentum == "population":
        return How(0.0, n, True, "propagate", num_values)
    if isinstance(momentum, str) or momentum is None:
        return How(num_values / (num_values + n), n, True, "propagate")
    if debiased_at is not None and 0.0 < momentum < 1.0:
        log = math.log(momentum)  # (m - m**t) / (1 - m**t), without its cancellation
        momentum *= math.expm1((debiased_at - 1) * log) / math.expm1(debiased_at * log)
    return How(momentum, n, True, "propagate")


def moments(mean: Vector, var: Vector, n: float, unbiased: bool) -> _merging.Moments:
    """Return the moments of n values whose mean and variance these are."""
    m2 = var * (n - 1 if unbiased and n > 1 else n)
    return np.stack([np.full_like(mean, n), mean, np.zeros_like(mean), m2])


def fold(mean: Array, var: Array, statistics: Vectors, how: How) -> bool:
    """Fold a batch into the running ones, in place; return whether it was taken."""
    momentum, n, unbiased, on_nonfinite, population = how
    correction = n / (n - 1) if unbiased and n > 1 else 1.0
    statistics = _checks.array(statistics, "context.statistics")
    if on_nonfinite != "propagate":
        batch = _device.to_host(statistics)[:2]  # of a GPU, whose work is waited for
        channels = np.flatnonzero(~np.isfinite(batch).all(axis=0))
        if channels.size and on_nonfinite == "skip":
            return False
        if channels.size:
            raise FloatingPointError(nonfinite_message(channels, batch))
    if population is not None:
        _merge(mean, var, _device.to_host(statistics), how)
        return True
    if type(mean) is type(var) is np.ndarray and mean.flags.carray and var.flags.carray:
        try:
            _backend.update_running(mean, var, statistics, momentum, correction)
            return True
        except (TypeError, ValueError):  # what does not fit is named below
            pass
    n_channels = statistics.shape[-1]
    mean, var = check(mean, "running_mean", n_channels), check(var, "running_var", n_channels)
    copies = mean.copy(), var.copy()
    _backend.update_running(*copies, statistics, momentum, correction)
    mean[...], var[...] = copies
    return True


def _merge(mean: Array, var: Array, batch: Vectors, how: How) -> None:
    """Set mean and variance to those of the values that they are of, and of a batch."""
    n_channels, n_old = batch.shape[-1], how.population or 0
    mean, var = check(mean, "running_mean", n_channels), check(var, "running_var", n_channels)
    old = moments(_device.to_host(mean), _device.to_host(var), n_old, how.unbiased)
    new = moments(batch[0], batch[1], how.n, unbiased=False)
    both = _merging.merge(old if n_old else _merging.empty(n_channels), new)
    n = n_old + how.n
    _device.assign(mean, both[1])
    _device.assign(var, both[3] / (n - 1 if how.unbiased and n > 1 else n))


def nonfinite_message(channels: npt.NDArray[np.intp], batch: Vectors) -> str:
    """Say which channels of a batch, [mean, variance], are not finite."""
    c, more = channels[0], f" and {channels.size - 1} more" if channels.size > 1 else ""
    return (
        f"the batch has no finite mean and variance in channel {c}{more} "
        f"(mean {batch[0, c]:.6g}, variance {batch[1, c]:.6g}); the running statistics are unchanged. Look for a NaN, "
        "an infinity or a huge value in x, or pass on_nonfinite='skip' to leave such batches out of them"
    )
