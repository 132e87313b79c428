"""The data and the training loop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from normdrop.demo.boosting import small, wide
from normdrop.demo.fast_dropout import fast_dropout
from normdrop.demo.layers import Array
from normdrop.demo.networks import SGD, Network, convolutional, fully_connected, sigmoid

BATCH = 32
BUILDERS = {
    "fully connected": fully_connected,
    "convolutional": convolutional,
    "sigmoid": sigmoid,
    "fast dropout": fast_dropout,
    "one hidden layer": wide,
    "16 hidden units": small,
}


@dataclass(frozen=True)
class Run:
    """All that one training run depends on.

    Runs that differ in `variant` or `rate` alone start from the same weights and see the same digits in the same order,
    so that their results can be compared in pairs.

    Attributes
    ----------
    network : str
        A key of `BUILDERS`.
    variant : str
        Which of normdrop's layers the network has, one of `networks.VARIANTS`, or one of `boosting.VARIANTS`.
    n_train : int
        Number of training digits.
    rate : float
        Learning rate at the start.
    evaluations : tuple of int
        After which steps to measure the test error, ascending. Training ends with the last.
    split : int
        Which random division into training and test digits.
    seed : int
        The user's.
    momentum : float
        Of `networks.SGD`.
    falling : bool
        Whether the learning rate falls linearly to 0, or stays.
    n_passes : int
        How many thinned networks to average at the end; 0 for none.
    """

    network: str
    variant: str
    n_train: int
    rate: float
    evaluations: tuple[int, ...]
    split: int
    seed: int
    momentum: float = 0.9
    falling: bool = True
    n_passes: int = 0

    def rng(self, purpose: Literal["split", "weights", "order", "masks"]) -> np.random.Generator:
        """Make the generator of this split for one purpose, always in the same state.

        Parameters
        ----------
        purpose : {"split", "weights", "order", "masks"}
            What it draws.

        Returns
        -------
        numpy.random.Generator
            A new generator.
        """
        child = ("split", "weights", "order", "masks").index(purpose)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.split, child)))


class Outcome(NamedTuple):
    """What a run measured.

    Attributes
    ----------
    errors : tuple of float
        Test error in percent at each of the run's evaluations.
    thinned : tuple of float
        Test error in percent of the average of 1, 2, ..., n_passes thinned networks, after training.
    seconds : float
        Processor time of the training steps.
    """

    errors: tuple[float, ...]
    thinned: tuple[float, ...]
    seconds: float = 0.0


class Digits(NamedTuple):
    """Images of handwritten digits.

    Attributes
    ----------
    images : ndarray of float32, shape (N, 1, 8, 8)
        Pixels from 0 to 2, of mean square about 1.
    labels : ndarray of int, shape (N,)
        Which digit each is.
    """

    images: Array
    labels: Array


def load() -> Digits:
    """Read the 1797 digits that come with scikit-learn.

    Returns
    -------
    Digits
        All of them.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Digits((images / 8).astype(np.float32).reshape(-1, 1, 8, 8), labels)


def error(probabilities: Array, labels: Array) -> float:
    """Compute the percentage of digits whose most probable class is wrong.

    Parameters
    ----------
    probabilities : ndarray, shape (N, 10)
        Probability of each class, or anything proportional to it.
    labels : ndarray of int, shape (N,)
        The right classes.

    Returns
    -------
    float
        Percentage.
    """
    return 100 * float(np.mean(probabilities.argmax(axis=1) != labels))


def train(run: Run, digits: Digits) -> Outcome:
    """Train a network on mini-batches and measure its test error.

    Parameters
    ----------
    run : Run
        What to train and how.
    digits : Digits
        What to train and test on; the run draws which digits are for training.

    Returns
    -------
    Outcome
        What was measured; the same for the same run and digits, but for the time.
    """
    return trained(run, digits)[1]


def trained(run: Run, digits: Digits) -> tuple[Network, Outcome]:
    """Do the same as `train`, and return the network, too.

    Parameters
    ----------
    run : Run
        What to train and how.
    digits : Digits
        What to train and test on.

    Returns
    -------
    network : Network
        After training.
    outcome : Outcome
        What was measured.
    """
    order = run.rng("split").permutation(len(digits.labels))
    images, labels = (array[order[: run.n_train]] for array in digits)
    test = Digits(*(array[order[run.n_train :]] for array in digits))
    network = BUILDERS[run.network](run.variant, rng=run.rng("weights"), mask_rng=run.rng("masks"))
    optimizer = SGD(network, run.momentum)
    order_rng = run.rng("order")
    n_batches = run.n_train // BATCH  # the digits left over wait for the next epoch's order
    n_steps = run.evaluations[-1]
    errors: list[float] = []
    seconds = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # some learning rates are meant to be too large
        for step in range(n_steps):
            if step % n_batches == 0:
                batches = order_rng.permutation(run.n_train)[: n_batches * BATCH].reshape(n_batches, BATCH)
            batch = batches[step % n_batches]
            network.train()
            start = time.process_time()
            loss = network.learn(images[batch], labels[batch])
            if not np.isfinite(loss):  # the learning rate is too large, and there is no way back
                break
            optimizer.step(run.rate * (1 - step / n_steps) if run.falling else run.rate)
            seconds += time.process_time() - start
            if step + 1 in run.evaluations:
                network.eval()
                errors.append(error(network.probabilities(test.images), test.labels))
        network.eval()
        while len(errors) < len(run.evaluations):
            errors.append(error(network.probabilities(test.images), test.labels))
        thinned = tuple(_thinned_errors(network, test, run.n_passes))
        return network, Outcome(tuple(errors), thinned, seconds)


def _thinned_errors(network: Network, test: Digits, n_passes: int) -> Iterator[float]:
    """Yield the test error of the mean of the class probabilities of 1, 2, ..., n_passes thinned networks."""
    network.thin()
    total: Array = np.zeros((len(test.labels), 10))
    for _ in range(n_passes):
        total += network.probabilities(test.images)
        yield error(total, test.labels)
