"""Ensembles of all thinned networks, where there are so few units that every mask can be tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _progress

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float64]

_MOST_UNITS = 16
_MASKS = tuple(map(np.dtype, (np.bool_, np.float32, np.float64)))


class ExactEnsemble(NamedTuple):
    """What `normdrop.exact_ensemble` returns: averages over all masks, each weighted by its probability.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> ensemble = normdrop.exact_ensemble(lambda masks: masks @ np.array([1.0, 2.0]), 2, 0.5)
    >>> float(ensemble.mean), float(ensemble.var)
    (1.5, 1.25)
    """

    mean: Vector
    """Arithmetic mean of the outputs."""
    var: Vector
    """Variance of the outputs."""
    log_geometric_mean: Vector | None
    """Mean of the logarithms of the outputs, -inf where one of them is 0; None unless it was asked for."""

    @property
    def std(self) -> Vector:
        """Standard deviation of the outputs."""
        return np.asarray(np.sqrt(self.var))

    @property
    def geometric_mean(self) -> Vector:
        """Geometric mean of probabilities, renormalized along the last axis; NaN where those of all classes are 0."""
        logs = self.log_geometric_mean
        if logs is None:
            raise ValueError("there is no geometric mean; call exact_ensemble with geometric=True")
        with np.errstate(invalid="ignore"):  # -inf - -inf
            means = np.exp(logs - logs.max(axis=-1, keepdims=True))
        return np.asarray(means / means.sum(axis=-1, keepdims=True))


def exact_ensemble(
    function: Callable[[Array], Any],
    n: int,
    p: float | Array = 0.5,
    *,
    geometric: bool = False,
    dtype: npt.DTypeLike = np.bool_,
    block_size: int = 256,
    progress: bool | None = False,
) -> ExactEnsemble:
    r"""Average a network over all :math:`2^n` masks of its n units, exactly.

    .. math:: \bar f = \sum_m w_m f(m), \qquad w_m = \prod_{j\,\mathrm{dropped}} p_j \prod_{j\,\mathrm{kept}} (1 - p_j)

    A network with dropout is an ensemble of thinned networks that share their weights. With few units it can be
    averaged completely, which shows what one pass without dropout, or the mean of some with it, is an estimate of.

    Parameters
    ----------
    function : callable
        Takes masks of shape (m, n), True or 1 = kept, and returns m outputs, an array of shape (m, ...). What it does
        with a mask, also by which factor it multiplies what is kept, is its own affair.
    n : int
        Number of units, from 1 to 16. For several layers it is that of all units; divide the columns of the masks.
    p : float or ndarray of floats of shape (n,), default 0.5
        Probability of dropping a unit, one for all or one for each. Masks whose weight is 0 are left out.
    geometric : bool, default False
        Whether to take the geometric mean, too. The outputs are then probabilities, of classes along the last axis.
    dtype : dtype, default bool
        Dtype of the masks: bool, float32 or float64.
    block_size : int, default 256
        Number of masks in a call of `function`, at most.
    progress : bool or None, default False
        Whether to show a progress bar on standard error; None: if that is a terminal. It needs the package rich.

    Returns
    -------
    ExactEnsemble
        ``mean``, ``var`` and ``std``, float64 arrays of the shape of one output; with ``geometric=True`` also
        ``geometric_mean``, renormalized, and ``log_geometric_mean``, as it is.

    Raises
    ------
    TypeError, ValueError
        An argument or what `function` returned is of the wrong type, dtype, shape or range.

    See Also
    --------
    normdrop.functional.dropout : one pass with a drawn mask, or with a given one.

    Notes
    -----
    Mask k has unit j where bit j of k is 1; the weights are float64. Memory is that of the outputs of one block. Means
    and variances of blocks are merged by Chan's formula, geometric means are taken of logarithms.

    References
    ----------
    .. [1] P. Baldi and P. Sadowski, "The dropout learning algorithm", Artificial Intelligence 210 (2014) 78-122
       (the renormalized geometric mean).
    .. [2] D. Warde-Farley, I. J. Goodfellow, A. Courville and Y. Bengio, "An empirical analysis of dropout in piecewise
       linear networks", ICLR 2014, arXiv:1312.6197 (all masks of small networks).

    Examples
    --------
    A linear unit with three inputs has the mean of its weight-scaled twin, and a variance in closed form:

    >>> import numpy as np
    >>> import normdrop
    >>> x, w = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 2.0])
    >>> ensemble = normdrop.exact_ensemble(lambda masks: (masks * x) @ w, 3, 0.25)
    >>> float(ensemble.mean), 0.75 * float(x @ w)
    (3.375, 3.375)
    >>> float(ensemble.var), 0.25 * 0.75 * float(x**2 @ w**2)
    (7.546875, 7.546875)

    Two layers, of two and of three units:

    >>> first, second = np.ones((4, 2)), np.ones((2, 3))
    >>> def network(masks):
    ...     of_first, of_second = np.split(masks, [2], axis=1)
    ...     return ((first.sum(axis=0) * of_first) @ second * of_second).sum(axis=1)
    >>> round(float(normdrop.exact_ensemble(network, 5, np.array([0.5, 0.5, 0.2, 0.2, 0.2])).mean), 12)
    9.6
    """
    if not callable(function):
        raise TypeError(f"function must take masks and return outputs; got {_checks.kind(function)}")
    n, probabilities = _units(n), _probabilities(p, n)
    geometric = _checks.flag(geometric, "geometric")
    block_size = min(_checks.integer(block_size, "block_size", 1), 2**n)
    kind = _dtype_of_masks(dtype)
    averages, logs = _Averages(), _Averages()
    with _progress.bar(progress, "thinned networks", -(-(2**n) // block_size)) as advance:
        for first in range(0, 2**n, block_size):
            n_masks = min(block_size, 2**n - first)
            masks, weights = np.empty((n_masks, n), np.bool_), np.empty(n_masks)
            _backend.enumerate_masks(masks, weights, probabilities, first)
            masks, weights = masks[weights > 0], weights[weights > 0]
            if weights.size:
                outputs = _outputs(function(masks.astype(kind)), weights.size, averages.mean)
                averages.add(weights, outputs)
                if geometric:
                    logs.add(weights, _logarithms(outputs))
            advance()
    return ExactEnsemble(averages.mean, averages.squares / averages.weight, logs.mean if geometric else None)


class _Averages:
    """Weighted mean of blocks, and the weighted sum of squares about it, merged by Chan's formula."""

    weight = 0.0
    mean: Any = None
    squares: Any = None

    def add(self, weights: Vector, values: Vector) -> None:
        """Take in a block."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is infinite stays so, or becomes NaN
            weight = float(weights.sum())
            mean = np.tensordot(weights / weight, values, 1)
            squares = np.tensordot(weights, (values - mean) ** 2, 1)
            if self.weight:
                total = self.weight + weight
                squares = squares + self.squares + (mean - self.mean) ** 2 * (self.weight * weight / total)
                mean = self.mean * (self.weight / total) + mean * (weight / total)
                weight = total
        self.weight, self.mean, self.squares = weight, mean, squares


def _dtype_of_masks(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of the masks, after checks."""
    try:
        kind: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if dtype is None or kind not in _MASKS:
        raise TypeError(f"dtype must be bool, float32 or float64; got {dtype!r}")
    return kind


def _units(n: object) -> int:
    """Return the number of units, after checks."""
    n = _checks.integer(n, "n", 1)
    if n > _MOST_UNITS:
        raise ValueError(
            f"n must be at most {_MOST_UNITS} units, which have {2**_MOST_UNITS} masks; got {n}, with 2**{n} masks. "
            "Average some that are drawn (Monte Carlo), as normdrop.mc_predict does; their mean is off by the standard "
            "deviation of the outputs divided by the square root of their number."
        )
    return n


def _probabilities(p: object, n: int) -> Vector:
    """Return the probability of dropping each unit, after checks."""
    if not isinstance(p, np.ndarray):
        return np.full(n, _checks.probability(p))
    if p.dtype.kind != "f":
        raise TypeError(f"p must be a number or an array of floats; got {p.dtype}. Use p.astype(float).")
    if p.shape != (n,):
        raise ValueError(f"p must be a number or have shape ({n},), one probability for each unit; got {p.shape}")
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p must be probabilities of dropping a unit, from 0 to 1; got {p[~((p >= 0) & (p <= 1))][0]}")
    return np.ascontiguousarray(p, np.float64)


def _outputs(values: Any, n_masks: int, before: Any) -> Vector:
    """Return what the function made of a block of masks, after checks."""
    outputs = np.asarray(values)
    if outputs.dtype.kind not in "biuf" and not _checks.is_bfloat16(outputs.dtype):
        raise TypeError(f"function must return an array of real numbers; got {outputs.dtype}")
    shape = "(m, ...)" if before is None else f"(m, {', '.join(map(str, before.shape))})".replace(", )", ",)")
    if outputs.shape[:1] != (n_masks,) or (before is not None and outputs.shape[1:] != before.shape):
        raise ValueError(
            f"function must return an array of shape {shape}, an output for each of m = {n_masks} masks; got "
            f"{outputs.shape}"
        )
    return outputs.astype(np.float64)


def _logarithms(outputs: Vector) -> Vector:
    """Return the logarithms of probabilities, after checks; that of 0 is -inf."""
    if outputs.ndim < 2:
        raise ValueError(
            "with geometric=True, function must return probabilities of classes along the last axis, an array of shape "
            f"(m, ..., C); got {outputs.shape}"
        )
    if (outputs < 0).any():
        raise ValueError(
            f"with geometric=True, function must return probabilities; got {outputs.min()}. Apply a softmax in it."
        )
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(outputs))
