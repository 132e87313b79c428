"""Batch normalization as a step of scikit-learn's pipelines; needs ``normdrop[sklearn]``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import FLOAT_DTYPES, _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"normdrop.sklearn needs scikit-learn 1.6; pip install 'normdrop[sklearn]' ({error})") from error

from normdrop import ChannelStatistics, _backend, _checks, functional
from normdrop._passes import Pass

Array = npt.NDArray[Any]

__all__ = ["BatchNormTransformer"]


class BatchNormTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Standardize each feature by the mean and variance of all samples seen, as a fitted batch normalization does.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}

    Parameters
    ----------
    eps : float, default 1e-5
        Added to the variance. Positive.
    exact : bool, default False
        Whether sums are kept without rounding, so that the result does not depend on how the samples come to
        `partial_fit`, to the bit. Then there are no sample weights.

    Attributes
    ----------
    statistics_ : ChannelStatistics
        Of the samples seen so far.
    mean_, var_ : ndarray of float64, shape (n_features,)
        Their mean and biased variance.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, if they had names.

    See Also
    --------
    normdrop.BatchNorm.fit : the same for a layer.

    Notes
    -----
    A NaN is a missing value: it does not count, and stays one. The variance of samples in pieces is that of the whole,
    also where the pieces differ, as in sorted data.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.sklearn import BatchNormTransformer
    >>> x = np.arange(6.0)[:, None]
    >>> step = BatchNormTransformer().partial_fit(x[:2]).partial_fit(x[2:])
    >>> step.mean_, step.var_.round(4)
    (array([2.5]), array([2.9167]))
    >>> bool(np.allclose(step.inverse_transform(step.transform(x)), x))
    True
    """

    statistics_: ChannelStatistics

    def __init__(self, *, eps: float = 1e-5, exact: bool = False) -> None:
        self.eps = eps
        self.exact = exact

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take the statistics of the samples, and forget those from before.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like, shape (n_samples,), optional
            How often each sample counts.

        Returns
        -------
        BatchNormTransformer
            The step itself.
        """
        return self._take(X, sample_weight, first=True)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Add samples to those that were seen; an error changes nothing of these.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like, shape (n_samples,), optional
            How often each sample counts.

        Returns
        -------
        BatchNormTransformer
            The step itself.
        """
        return self._take(X, sample_weight, first=not hasattr(self, "statistics_"))

    def _take(self, X: Any, sample_weight: Any, *, first: bool) -> Self:
        before = dict(vars(self))
        try:
            _checks.eps(self.eps)
            x = validate_data(self, X, reset=first, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan")
            weights = None
            if sample_weight is not None:
                weights = _check_sample_weight(sample_weight, x, dtype=np.float64)[:, None]
            present = ~np.isnan(x)
            mask = None if present.all() else present
            statistics = ChannelStatistics.of(x, mask=mask, weights=weights, exact=self.exact)
            if not first:
                statistics = self.statistics_ + statistics
        except BaseException:
            self.__dict__ = before
            raise
        self.statistics_, self.mean_, self.var_ = statistics, statistics.mean, statistics.var()
        return self

    def transform(self, X: Any) -> Array:
        """Standardize samples.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            In the dtype of `X`, float64 for integers; or as ``set_output`` says.
        """
        x = self._checked(X)
        y, _ = functional.batch_norm_inference(x, self.mean_, self.var_, eps=self.eps)
        return y

    def inverse_transform(self, X: Any) -> Array:
        """Return what `transform` would give these.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Standardized samples.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            Samples, computed in float64, in the dtype of `X`.
        """
        walk = Pass(self._checked(X), channel_axis=1)
        sd = np.sqrt(self.var_ + self.eps)
        _backend.normalize(walk.y, walk.x, np.stack([np.zeros_like(sd), sd, self.mean_]))  # (y - 0) * sd + mean
        return walk.result()

    def _checked(self, X: Any) -> Array:
        check_is_fitted(self)
        x: Array = validate_data(self, X, reset=False, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan")
        return x

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags
