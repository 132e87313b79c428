"""What many passes say together: their mean and spread, and the entropies of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _merging
from normdrop.ensembles.quantiles import Quantiles

Array: TypeAlias = npt.NDArray[np.float64]

REDUCTIONS = ("arithmetic", "geometric")
_OFF = 1e-2  # what probabilities of 16 bits may lack to 1, as of ten thousand classes


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Mean and spread of the samples of `normdrop.mc_predict`, in float64, of the shape of one output.

    Attributes
    ----------
    n_samples : int
        How many samples were taken.
    mean : ndarray
        Their mean; with ``reduce="geometric"`` their geometric mean, with the sum 1 along the last axis.
    var : ndarray
        Their unbiased variance, divided by n - 1; NaN for one sample.
    quantiles : ndarray, shape (number of quantiles asked for, ...)
        Quantiles in the order in which they were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> drop = normdrop.Dropout(0.5)
    >>> answer = normdrop.mc_predict(drop, np.ones(2), 100, model=drop, rng=0)
    >>> answer
    Prediction(n_samples=100, shape=(2,))
    >>> np.allclose(answer.standard_error, answer.std / 10)
    True
    """

    n_samples: int
    mean: Array
    var: Array
    quantiles: Array
    _arithmetic: Array | None = None
    _expected_entropy: Array | None = None

    @property
    def std(self) -> Array:
        """Standard deviation of the samples: how much thinned networks differ. It does not shrink with more of them."""
        return np.sqrt(self.var)

    @property
    def standard_error(self) -> Array:
        """Standard error of the arithmetic mean, std / sqrt(n_samples): what more samples would make smaller."""
        return np.sqrt(self.var / self.n_samples)

    @property
    def expected_entropy(self) -> Array:
        """Mean of the entropies of the samples, in nats, over the classes on the last axis."""
        return self._of_probabilities()[1]

    @property
    def predictive_entropy(self) -> Array:
        """Entropy of the arithmetic mean, in nats, over the classes on the last axis."""
        return entropy(self._of_probabilities()[0])

    @property
    def mutual_information(self) -> Array:
        """Predictive entropy less the expected one: the part of it on which thinned networks disagree."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)

    def _of_probabilities(self) -> tuple[Array, Array]:
        if self._arithmetic is None or self._expected_entropy is None:
            raise ValueError(
                "entropies are those of probabilities, and reduce was None; call mc_predict with reduce='arithmetic' "
                "or 'geometric' and a function that returns probabilities of classes along the last axis"
            )
        return self._arithmetic, self._expected_entropy

    def __repr__(self) -> str:
        return f"Prediction(n_samples={self.n_samples}, shape={self.mean.shape})"


class Summary:
    """What is kept of the samples so far: as much as a few outputs, however many there were."""

    def __init__(self, shape: tuple[int, ...], reduce: str | None, probabilities: tuple[float, ...]) -> None:
        self.n = 0
        self._shape, self._reduce = shape, reduce
        size = int(np.prod(shape))
        self._moments = _merging.empty(size)
        self._quantiles = Quantiles(probabilities, size) if probabilities else None
        self._logarithms = np.zeros(shape if reduce == "geometric" else 0)
        self._entropy = np.zeros(shape[:-1] if reduce else 0)

    def add(self, y: Array) -> None:
        """Count a sample, of which the summary may keep the array."""
        if self._reduce is not None:
            check_probabilities(y)
            self._entropy += (entropy(y) - self._entropy) / (self.n + 1)
        if self._reduce == "geometric":
            with np.errstate(divide="ignore"):
                self._logarithms += np.log(y)
        flat = y.reshape(-1)
        zeros = np.zeros_like(flat)
        self._moments = _merging.merge(self._moments, np.stack([zeros + 1.0, flat, zeros, zeros]))
        if self._quantiles is not None:
            self._quantiles.add(flat)
        self.n += 1

    def standard_error(self) -> float:
        """Return the largest standard error of all outputs."""
        return float(np.sqrt(np.max(self._var(), initial=0.0) / self.n))

    def result(self) -> Prediction:
        """Return what has been counted so far."""
        mean = _merging.mean(self._moments).reshape(self._shape)
        var = self._var().reshape(self._shape)
        rows = np.empty((0, *self._shape))
        if self._quantiles is not None:
            values = self._quantiles.values()
            rows = values.reshape(len(values), *self._shape)
        if self._reduce is None:
            return Prediction(self.n, mean, var, rows)
        reduced = mean if self._reduce == "arithmetic" else _geometric_mean(self._logarithms / self.n)
        return Prediction(self.n, reduced, var, rows, mean, self._entropy.copy())

    def _var(self) -> Array:
        return _merging.var(self._moments, 1)


def entropy(p: Array) -> Array:
    """Return -sum(p log p) along the last axis."""
    from scipy.special import entr

    return np.asarray(entr(p).sum(axis=-1))


def _geometric_mean(logarithms: Array) -> Array:
    """Return exp(logarithms) with the sum 1 along the last axis; a class that a sample had at 0 has 0."""
    from scipy.special import softmax

    with np.errstate(invalid="ignore"):  # NaN where each class has 0 in some sample
        return np.asarray(softmax(logarithms, axis=-1))


def check_probabilities(y: Any) -> None:
    """Refuse what is no distribution along the last axis; NaN are let pass."""
    if y.ndim == 0 or (y < 0.0).any() or (np.abs(y.sum(axis=-1) - 1.0) > _OFF).any():
        found = "a single number" if y.ndim == 0 else f"values from {y.min():.3g} to {y.max():.3g}, with sums "
        found += "" if y.ndim == 0 else f"from {y.sum(axis=-1).min():.3g} to {y.sum(axis=-1).max():.3g}"
        raise ValueError(
            "function must return probabilities with the sum 1 along the last axis where reduce is given; got "
            f"{_checks.kind(y)} with {found}. Return softmax(logits), or stack([1 - p, p], axis=-1) for two classes, "
            "or pass reduce=None."
        )
