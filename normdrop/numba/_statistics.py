"""Count, mean and sum of squares of one series of numbers, value by value and part by part, as plain and compiled code.

The formulas are those of `normdrop._merging`, of which one value is a part, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop import _formulas
from normdrop.numba import _kinds as kinds

Moments = tuple[float, float, float]

kinds.also_compiled(_formulas.squares_about)


@kinds.also_compiled
def _merged(n: float, mean: float, m2: float, other: Moments) -> Moments:
    """The moments of both parts, other = (n, mean, m2); no values change nothing, not even with a NaN as their mean."""
    other_n, other_mean, other_m2 = other
    if other_n == 0.0:
        return n, mean, m2
    if n == 0.0:
        return other_n, other_mean, other_m2
    total = n + other_n
    part, delta = other_n / total, other_mean - mean
    return total, mean + delta * part, _formulas.squares_about(m2 + other_m2, delta, n * part)


def statistics_update(n: float, mean: float, m2: float, x: float) -> Moments:
    r"""Return count, mean and sum of squares about it, after one more value.

    With :math:`\delta = x - \mathrm{mean}`: the mean grows by :math:`\delta / (n + 1)`, the sum of squares by
    :math:`\delta^2 n / (n + 1)`. Start with ``0.0, 0.0, 0.0``; the biased variance is ``m2 / n``.

    Parameters
    ----------
    n : float
        Number of values so far.
    mean : float
        Their mean.
    m2 : float
        Sum of their squares about it.
    x : float
        The next value.

    Returns
    -------
    n, mean, m2 : float
        Those of all values, in float64.

    See Also
    --------
    moments : those of the channels of an array, in vectors and as exact as `functional.batch_norm`.

    References
    ----------
    .. [1] B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4
       (1962) 419-420.

    Examples
    --------
    >>> from normdrop.numba import statistics_update
    >>> s = 0.0, 0.0, 0.0
    >>> for x in (1.0, 2.0, 6.0):
    ...     s = statistics_update(*s, x)
    >>> s
    (3.0, 3.0, 14.0)
    """
    return _merged(float(n), float(mean), float(m2), (1.0, float(x), 0.0))


@kinds.compiled(statistics_update)
def _statistics_update(n: Any, mean: Any, m2: Any, x: Any) -> Any:
    for name, kind in (("n", n), ("mean", mean), ("m2", m2), ("x", x)):
        kinds.number(name, kind)

    def run(n: Any, mean: Any, m2: Any, x: Any) -> Any:
        return _merged(np.float64(n), np.float64(mean), np.float64(m2), (1.0, np.float64(x), 0.0))

    return run


def statistics_merge(n: float, mean: float, m2: float, other_n: float, other_mean: float, other_m2: float) -> Moments:
    r"""Return count, mean and sum of squares about it of two parts together.

    With :math:`\delta` the difference of the means, the sums of squares and :math:`\delta^2 n_1 n_2 / (n_1 + n_2)` add
    up. A part of no values changes nothing.

    Parameters
    ----------
    n, mean, m2 : float
        Number of values, mean and sum of squares about it of one part.
    other_n, other_mean, other_m2 : float
        Those of the other part.

    Returns
    -------
    n, mean, m2 : float
        Those of both, in float64; the bits are those of the sum of two `normdrop.ChannelStatistics`.

    See Also
    --------
    normdrop.ChannelStatistics : for many channels, many parts, or sums without rounding.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
       recommendations", The American Statistician 37 (1983) 242-247.

    Examples
    --------
    >>> from normdrop.numba import statistics_merge
    >>> statistics_merge(2.0, 1.5, 0.5, 1.0, 6.0, 0.0)
    (3.0, 3.0, 14.0)
    """
    return _merged(float(n), float(mean), float(m2), (float(other_n), float(other_mean), float(other_m2)))


@kinds.compiled(statistics_merge)
def _statistics_merge(n: Any, mean: Any, m2: Any, other_n: Any, other_mean: Any, other_m2: Any) -> Any:
    for name, kind in (("n", n), ("mean", mean), ("m2", m2)):
        kinds.number(name, kind)
    for name, kind in (("other_n", other_n), ("other_mean", other_mean), ("other_m2", other_m2)):
        kinds.number(name, kind)

    def run(n: Any, mean: Any, m2: Any, other_n: Any, other_mean: Any, other_m2: Any) -> Any:
        return _merged(
            np.float64(n),
            np.float64(mean),
            np.float64(m2),
            (np.float64(other_n), np.float64(other_mean), np.float64(other_m2)),
        )

    return run
