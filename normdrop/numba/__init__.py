"""The passes in the user's own compiled functions: what ``@njit`` code can call.

Importing it imports Numba. Each function here works in compiled code, in Python and with the JIT off, with the same
bits. In compiled code it runs serially; to run on threads is the caller's to decide, by ``prange``.
"""

from normdrop.numba._batch_norm import batch_norm, batch_norm_into, moments
from normdrop.numba._given_statistics import batch_norm_backward_into, normalize_into
from normdrop.numba._masks import bits, dropout, dropout_backward_into, dropout_into, keep
from normdrop.numba._statistics import statistics_merge, statistics_update

__all__ = [
    "batch_norm",
    "batch_norm_backward_into",
    "batch_norm_into",
    "bits",
    "dropout",
    "dropout_backward_into",
    "dropout_into",
    "keep",
    "moments",
    "normalize_into",
    "statistics_merge",
    "statistics_update",
]
