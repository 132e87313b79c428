"""Compiling kernels before they are needed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _process, _progress

_OPERATIONS = ("dropout", "channel_dropout", "batch_norm")


def warmup(
    operations: str | Iterable[str] = _OPERATIONS,
    dtypes: npt.DTypeLike | Iterable[npt.DTypeLike] = np.float32,
    *,
    parallel: bool = True,
    progress: bool | None = None,
) -> int:
    """Compile the kernels that a program will need, or take them from the disk cache.

    A kernel is otherwise compiled in the first call that needs it, which takes from one to a few seconds each; it is
    then in the disk cache of that user on that machine. In the recipe of a container image, this fills the cache.

    Parameters
    ----------
    operations : str or iterable of str, default ("dropout", "channel_dropout", "batch_norm")
        What will be called, forward, backward and in inference.
    dtypes : dtype or iterable of dtype, default float32
        Dtypes of the inputs.
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
        An operation or dtype that there is none of.

    Examples
    --------
    >>> import normdrop
    >>> normdrop.warmup("dropout", parallel=False) > 0
    True
    """
    several = not isinstance(operations, str) and isinstance(operations, Iterable)
    names = [_checks.choice(name, "operations", _OPERATIONS) for name in (operations if several else (operations,))]
    kinds = dtypes if isinstance(dtypes, (list, tuple, set)) else [dtypes]
    wanted = [_checks.input_dtype(kind, "dtypes") for kind in kinds]
    parallel = _checks.flag(parallel, "parallel")

    jobs = list(_process.load("normdrop._cpu.compilations").compilations(names, wanted, parallel=parallel))
    with _progress.bar(progress, "compiling kernels", len(jobs)) as advance:
        for job in jobs:
            job()
            advance()
    return len(jobs)
