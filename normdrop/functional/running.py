"""Running statistics: folding a batch into them, and undoing it."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = npt.NDArray[np.float64]


def snapshot(mean: Any, var: Any) -> tuple[Array, Array] | None:
    """Return copies, or None for arrays on a GPU, whose queue is not interrupted."""
    return (mean.copy(), var.copy()) if isinstance(mean, np.ndarray) else None


def restore(mean: Array, var: Array, saved: tuple[Array, Array] | None) -> None:
    """Set the running statistics to what they were; what is read-only has not changed."""
    if saved is not None:
        for values, before in zip((mean, var), saved, strict=True):
            if values.flags.writeable:
                values[...] = before


def update(
    mean: Array, var: Array, statistics: Vectors, momentum: float, n: int, unbiased: bool, on_nonfinite: str
) -> bool:
    """Fold a batch of `n` values per channel into the running ones, in place; return whether `on_nonfinite` let it."""
    correction = n / (n - 1) if unbiased else 1.0
    statistics = _checks.array(statistics, "statistics")
    n_channels = statistics.shape[1]
    mean = _checks.channels(mean, "running_mean", n_channels, statistics)
    var = _checks.channels(var, "running_var", n_channels, statistics)
    if on_nonfinite != "propagate":
        batch = _device.to_host(statistics)[:2]  # of a GPU, whose work is waited for
        channels = _nonfinite_channels(batch, correction, np.result_type(mean.dtype, var.dtype))
        if channels.size and on_nonfinite == "skip":
            return False
        if channels.size:
            raise FloatingPointError(_nonfinite_message(channels, batch, mean.dtype))
    backend = _backend.select(mean)
    if mean.flags.carray and var.flags.carray and mean.dtype == var.dtype:
        backend.update_running(mean, var, statistics, momentum, correction)
    else:
        copies = mean.astype(np.float64), var.astype(np.float64)
        backend.update_running(*copies, statistics, momentum, correction)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, in silence as in the kernel
            mean[...], var[...] = copies
    return True


def _nonfinite_channels(batch: Vectors, correction: float, dtype: np.dtype[Any]) -> Array:
    """Channels whose mean or variance is not finite, or would not be in `dtype`; batch = [mean, var]."""
    with np.errstate(over="ignore"):
        batch = (batch * np.array([[1.0], [correction]])).astype(dtype)
    return cast(Array, np.flatnonzero(~np.isfinite(batch).all(axis=0)))


def _nonfinite_message(channels: Array, batch: Vectors, dtype: np.dtype[Any]) -> str:
    c, more = channels[0], f" and {channels.size - 1} more" if channels.size > 1 else ""
    return (
        f"the batch has no finite mean and variance in {dtype} in channel {c}{more} "
        f"(mean {batch[0, c]:.6g}, variance {batch[1, c]:.6g}); the layer is unchanged. Look for a NaN, an "
        "infinity or a huge value in x, or pass on_nonfinite='skip' to leave such batches out of the running statistics"
    )
