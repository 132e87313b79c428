"""Statistics over the processes of MPI; needs ``normdrop[mpi]``, and an MPI library."""

from __future__ import annotations

from typing import Any, TypeVar

from normdrop import _checks

T = TypeVar("T")

__all__ = ["allreduce"]


def allreduce(part: T, comm: Any = None) -> T:
    """Return the sum of what all processes give, the same bits on each.

    ``BatchNorm(n, reduce=normdrop.mpi.allreduce)`` makes one batch of those of all processes.

    Parameters
    ----------
    part : ChannelStatistics, ndarray or anything else that adds
        What this process has.
    comm : mpi4py communicator, default ``MPI.COMM_WORLD``
        Which processes. Each must call.

    Returns
    -------
    ChannelStatistics, ndarray or what was given
        ``part_0 + part_1 + ...``, added in the order of ranks.

    Raises
    ------
    ImportError
        There is no mpi4py.
    TypeError
        `comm` is no communicator.

    Notes
    -----
    One message goes from each process to each. MPI's own reductions may add in another order on another number of nodes
    or by another algorithm; this adds the parts in the order of ranks on every process.

    Examples
    --------
    Every process runs the same program, here one process, whose communicator is written out; without `comm` it is
    MPI's:

    >>> import numpy as np
    >>> import normdrop.mpi
    >>> class Alone:
    ...     def allgather(self, part):
    ...         return [part]
    >>> part = normdrop.ChannelStatistics.of(np.array([[1.0], [3.0]]))
    >>> normdrop.mpi.allreduce(part, Alone()).mean
    array([2.])
    """
    if comm is None:
        comm = _world()
    if not hasattr(comm, "allgather"):
        raise TypeError(f"comm must be a communicator of mpi4py; got {_checks.kind(comm)}")
    first, *rest = comm.allgather(part)
    whole: T = sum(rest, start=first)
    return whole


def _world() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"normdrop.mpi needs mpi4py; pip install 'normdrop[mpi]' ({error})") from error
    return MPI.COMM_WORLD
