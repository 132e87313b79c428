"""Which networks are trained, and what is measured on them."""

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from normdrop.demo import boosting
from normdrop.demo.layers import Array
from normdrop.demo.networks import VARIANTS
from normdrop.demo.settings import Settings
from normdrop.demo.train import BATCH, Digits, Outcome, Run, load, train

NETWORKS = ("fully connected", "convolutional")
ENSEMBLES = ("one hidden layer", "16 hidden units")  # whose thinned networks can be averaged exactly
TARGET = 10.0  # percent test error, for the epochs to reach it
CONVERGED = 20.0  # percent test error that a learning rate must reach; guessing makes 90


def _one_thread() -> AbstractContextManager[object]:
    """Keep matrix products to one thread, which is faster for small ones and always gives the same bits."""
    # It comes with scikit-learn.
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _start_process() -> None:
    """Prepare a process of the pool: every core has its own, so that threads would only get in each other's way."""
    os.environ["NUMBA_NUM_THREADS"] = "1"  # read when Numba is imported, with the first kernel
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and without a traceback
    _one_thread()


class Study:
    """The runs of the demo and their outcomes.

    Parameters
    ----------
    settings : Settings
        How much to train.
    seed : int
        Where all randomness comes from.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._outcomes: dict[Run, Outcome] = {}

    def _on_every_split(self, network: str, variant: str, **options: Any) -> list[Run]:
        splits = range(self.settings.n_splits)
        return [Run(network=network, variant=variant, seed=self.seed, split=split, **options) for split in splits]

    def epochs(self, network: str) -> list[int]:
        """List the epochs of the main comparison after which the test error is measured: often at first, then rarely.

        Parameters
        ----------
        network : str
            One of `NETWORKS`.

        Returns
        -------
        list of int
            Epochs, ascending.
        """
        return sorted(
            {round(epoch) for epoch in np.geomspace(1, self.settings.epochs[network], self.settings.n_evaluations)}
        )

    def on_few_digits(self, network: str, variant: str) -> list[Run]:
        """List the runs of the main comparison.

        Parameters
        ----------
        network : str
            One of `NETWORKS`.
        variant : str
            One of `networks.VARIANTS`.

        Returns
        -------
        list of Run
            One for each split.
        """
        n_train = self.settings.few
        evaluations = tuple(epoch * (n_train // BATCH) for epoch in self.epochs(network))
        n_passes = self.settings.n_passes if variant == "dropout" else 0
        return self._on_every_split(
            network, variant, n_train=n_train, rate=0.05, evaluations=evaluations, n_passes=n_passes
        )

    def by_fast_dropout(self) -> list[Run]:
        """List the runs of the fully connected network that is trained by fast dropout, on few digits.

        Returns
        -------
        list of Run
            One for each split; otherwise those of the network that is trained by masks.
        """
        return [replace(run, network="fast dropout", n_passes=0) for run in self.on_few_digits(NETWORKS[0], "dropout")]

    def on_more_digits(self, variant: str) -> list[Run]:
        """List the runs of the fully connected network on more digits.

        Parameters
        ----------
        variant : str
            One of `networks.VARIANTS`.

        Returns
        -------
        list of Run
            One for each split.
        """
        n_train = self.settings.more
        evaluations = (self.settings.epochs_more * (n_train // BATCH),)
        return self._on_every_split(NETWORKS[0], variant, n_train=n_train, rate=0.05, evaluations=evaluations)

    def of_sigmoids(self, variant: str) -> list[Run]:
        """List the runs of the network of sigmoids.

        Parameters
        ----------
        variant : {"plain", "batch norm"}
            Which.

        Returns
        -------
        list of Run
            One for each split.
        """
        s = self.settings
        steps = tuple(range(20, s.sigmoid_steps + 1, 20))
        return self._on_every_split(
            "sigmoid", variant, n_train=s.more, rate=0.5, evaluations=steps, momentum=0.0, falling=False
        )

    def at_rate(self, network: str, variant: str, rate: float) -> list[Run]:
        """List the runs at a constant learning rate.

        Parameters
        ----------
        network : str
            One of `NETWORKS`.
        variant : {"plain", "batch norm"}
            Which.
        rate : float
            The learning rate.

        Returns
        -------
        list of Run
            One for each split.
        """
        s = self.settings
        return self._on_every_split(
            network, variant, n_train=s.few, rate=rate, evaluations=(s.rate_steps,), momentum=0.0, falling=False
        )

    def of_ensembles(self, network: str, variant: str) -> list[Run]:
        """List the runs of networks that are trained as an ensemble or each thinned network for itself.

        The learning rate is one that all variants bear: at 0.1, boosting does not come near the others.

        Parameters
        ----------
        network : str
            One of `ENSEMBLES`.
        variant : str
            One of `boosting.VARIANTS`.

        Returns
        -------
        list of Run
            One for each split.
        """
        n_train = self.settings.few
        evaluations = (self.settings.epochs[NETWORKS[0]] * (n_train // BATCH),)
        return self._on_every_split(network, variant, n_train=n_train, rate=0.02, evaluations=evaluations)

    def runs(self) -> list[Run]:
        """List all runs, the longest first.

        Returns
        -------
        list of Run
            All runs of the study.
        """
        two = ("plain", "batch norm")
        groups = [self.on_few_digits(network, variant) for network in NETWORKS[::-1] for variant in VARIANTS[::-1]]
        groups.append(self.by_fast_dropout())
        groups += [self.of_ensembles(network, variant) for network in ENSEMBLES for variant in boosting.VARIANTS[::-1]]
        groups += [self.on_more_digits(variant) for variant in ("plain", "dropout")]
        groups += [self.of_sigmoids(variant) for variant in two]
        for network in NETWORKS[::-1]:
            groups += [self.at_rate(network, variant, rate) for variant in two for rate in self.settings.rates]
        return [run for group in groups for run in group]

    def carry_out(self, n_processes: int = 1, done: Callable[[], object] = lambda: None) -> None:
        """Train everything; the outcomes do not depend on the number of processes.

        Parameters
        ----------
        n_processes : int, default 1
            Number of processes; 1 uses the present one.
        done : callable
            Called after each run.
        """
        digits = load()
        if n_processes > 1:
            with suppress(OSError, BrokenExecutor):  # where processes cannot be started, this one does what is left
                self._carry_out_in_pool(n_processes, digits, done)
        with _one_thread():
            for run in self.runs():
                if run not in self._outcomes:
                    self._outcomes[run] = train(run, digits)
                    done()

    def _carry_out_in_pool(self, n_processes: int, digits: Digits, done: Callable[[], object]) -> None:
        # Spawned, not forked: a forked process may not use its parent's threads.
        with ProcessPoolExecutor(n_processes, get_context("spawn"), _start_process) as pool:
            try:
                futures = {pool.submit(train, run, digits): run for run in self.runs()}
                for future in as_completed(futures):
                    self._outcomes[futures[future]] = future.result()
                    done()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def outcome(self, run: Run) -> Outcome:
        """Look up what a run measured.

        Parameters
        ----------
        run : Run
            One of the study's.

        Returns
        -------
        Outcome
            What it measured.
        """
        return self._outcomes[run]

    def errors(self, runs: Iterable[Run]) -> Array:
        """Look up the test errors of runs.

        Parameters
        ----------
        runs : iterable of Run
            Some of the study's, with the same evaluations.

        Returns
        -------
        ndarray, shape (runs, evaluations)
            Percentages.
        """
        return np.array([self._outcomes[run].errors for run in runs])

    def thinned_errors(self, network: str) -> Array:
        """Look up the test errors of averaged thinned networks.

        Parameters
        ----------
        network : str
            One of `NETWORKS`.

        Returns
        -------
        ndarray, shape (n_splits, n_passes)
            Percentages, for averages of 1, 2, ... thinned networks.
        """
        return np.array([self._outcomes[run].thinned for run in self.on_few_digits(network, "dropout")])

    def steps_to(self, runs: Sequence[Run], targets: Array) -> Array:
        """Find how many steps each run took to a test error.

        Parameters
        ----------
        runs : sequence of Run
            Some of the study's.
        targets : ndarray, shape (runs,)
            Percentage for each run.

        Returns
        -------
        ndarray, shape (runs,)
            Steps to the first evaluation with at most that error; infinity where there is none.
        """
        reached = self.errors(runs) <= np.reshape(targets, (-1, 1))
        evaluations = np.array([run.evaluations for run in runs], float)
        steps: Array = np.where(reached, evaluations, np.inf).min(axis=1)
        return steps
