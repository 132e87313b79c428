"""Compiling kernels before they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _process, _progress, _steps
from normdrop._activations import ACTIVATIONS

_OPERATIONS = ("dropout", "channel_dropout", "batch_norm")
_OTHERS = (
    "alpha_dropout",
    "concrete_dropout",
    "drop_block",
    "drop_connect",
    "gaussian_dropout",
    "gaussian_noise",
    "masked_batch_norm",
    "sample_dropout",
    "shared_batch_norm",
    "statistics",
    "varied_dropout",
)


def warmup(
    operations: str | Iterable[str] = _OPERATIONS,
    dtypes: npt.DTypeLike | Iterable[npt.DTypeLike] = np.float32,
    *,
    activations: str | Iterable[str] = "relu",
    parallel: bool = True,
    progress: bool | None = None,
) -> int:
    """Compile the kernels that a program will need, or take them from the disk cache.

    A kernel is otherwise compiled in the first call that needs it, which takes from one to a few seconds each; it is
    then in the disk cache of that user on that machine. In the recipe of a container image, this fills the cache.

    Parameters
    ----------
    operations : str or iterable of str, default ("dropout", "channel_dropout", "batch_norm")
        What will be called, forward, backward and in inference; also "alpha_dropout", "concrete_dropout",
        "drop_block", "drop_connect", "gaussian_dropout", "gaussian_noise", "batch_norm_act", "act_dropout"; for dropout
        with `sample_ids`, "sample_dropout", with an array as p, "varied_dropout"; for batch norm with a mask or
        weights, "masked_batch_norm", with `reduce`, "shared_batch_norm"; for `ChannelStatistics`, "statistics".
    dtypes : dtype or iterable of dtype, default float32
        Dtypes of the inputs.
    activations : str or iterable of str, default "relu"
        Names of the activations of "batch_norm_act" and "act_dropout"; their kernels are compiled for each of them,
        with and without a residual and dropout, which takes minutes.
    parallel : bool, default True
        Whether to compile for large arrays too. This starts Numba's threads, if it is safe; programs that fork later
        and use Numba in the children may prefer False.
    progress : bool, optional
        Whether to show a progress bar on standard error; by default if that is a terminal. It needs the package rich.

    Returns
    -------
    int
        Number of kernels that are ready now.

    Raises
    ------
    TypeError, ValueError
        An operation, dtype or activation that there is none of.

    Examples
    --------
    >>> import normdrop
    >>> normdrop.warmup("dropout", parallel=False) > 0
    True
    """
    names = _named(operations, "operations", (*_OPERATIONS, *_steps.OPERATIONS, *_OTHERS))
    acts = _named(activations, "activations", tuple(ACTIVATIONS))
    kinds = dtypes if isinstance(dtypes, (list, tuple, set)) else [dtypes]
    wanted = [_checks.input_dtype(kind, "dtypes") for kind in kinds]
    parallel = _checks.flag(parallel, "parallel")

    compilations = _process.load("normdrop._cpu.compilations").compilations
    jobs = list(compilations(names, wanted, acts, parallel=parallel))
    with _progress.bar(progress, "compiling kernels", len(jobs)) as advance:
        for job in jobs:
            job()
            advance()
    return len(jobs)


def _named(given: Any, argument: str, known: tuple[str, ...]) -> list[str]:
    """Return a name or several as a list, after checks."""
    names = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    return [_checks.choice(name, argument, known) for name in names]
