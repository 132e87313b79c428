"""A network with dropout as an estimator of scikit-learn, so that its search can choose p."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import threadpool_limits

import normdrop
from normdrop.demo.layers import Array, Dense, Layer, ReLU
from normdrop.demo.networks import SGD, Network, cross_entropy
from normdrop.demo.train import BATCH


class Classifier(ClassifierMixin, BaseEstimator):
    """Classify by a network with one hidden layer of ReLU, and dropout of its inputs and hidden units.

    It computes in float64, so that scores do not depend on a processor's order of sums.

    Parameters
    ----------
    p_input, p_hidden : float, default 0.2 and 0.5
        Probability of dropping an input, and a hidden unit.
    n_hidden : int, default 256
        Number of hidden units.
    epochs : int, default 60
        How often each sample is seen; samples that do not fill a batch wait for the next epoch.
    rate : float, default 0.05
        Learning rate at the start; it falls linearly to 0.
    seed : int, default 0
        Where weights, masks and the order of samples come from.

    Attributes
    ----------
    classes_ : ndarray
        The labels that there are.
    network_ : Network
        The trained network.
    """

    def __init__(
        self,
        *,
        p_input: float = 0.2,
        p_hidden: float = 0.5,
        n_hidden: int = 256,
        epochs: int = 60,
        rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.p_input = p_input
        self.p_hidden = p_hidden
        self.n_hidden = n_hidden
        self.epochs = epochs
        self.rate = rate
        self.seed = seed

    def fit(self, X: Array, y: Array) -> "Classifier":
        """Train a new network.

        Parameters
        ----------
        X : ndarray, shape (samples, features)
            Samples.
        y : ndarray, shape (samples,)
            Their labels.

        Returns
        -------
        Classifier
            The estimator itself.
        """
        x = np.asarray(X, np.float64)
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights, masks, order = (np.random.default_rng(s) for s in np.random.SeedSequence(self.seed).spawn(3))
        layers: list[Layer] = [
            normdrop.Dropout(self.p_input, rng=masks),
            Dense(x.shape[1], self.n_hidden, rng=weights, dtype=np.float64),
            ReLU(),
            normdrop.Dropout(self.p_hidden, rng=masks),
            Dense(self.n_hidden, len(self.classes_), rng=weights, dtype=np.float64),
        ]
        self.network_ = Network(layers)
        optimizer = SGD(self.network_)
        size = min(BATCH, len(x))
        steps = [part for _ in range(self.epochs) for part in _batches(order.permutation(len(x)), size)]
        with threadpool_limits(1, "blas"):  # small products are faster on one thread
            for k, batch in enumerate(steps):
                _, dlogits = cross_entropy(self.network_.forward(x[batch]), labels[batch])
                self.network_.backward(dlogits)
                optimizer.step(self.rate * (1 - k / len(steps)))
        self.network_.eval()
        return self

    def predict_proba(self, X: Array) -> Array:
        """Compute the probability of each class, without dropout.

        Parameters
        ----------
        X : ndarray, shape (samples, features)
            Samples.

        Returns
        -------
        ndarray, shape (samples, classes)
            Probabilities.
        """
        return self.network_.probabilities(np.asarray(X, np.float64))

    def predict(self, X: Array) -> Array:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : ndarray, shape (samples, features)
            Samples.

        Returns
        -------
        ndarray, shape (samples,)
            Labels.
        """
        labels: Array = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


def _batches(order: Array, size: int) -> list[Array]:
    return np.split(order[: len(order) // size * size], len(order) // size)
