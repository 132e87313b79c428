"""The calls of normdrop itself, and the copies beside which they stand."""

from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np

import normdrop
from normdrop import functional
from normdrop.bench.batch import Array, Batch
from normdrop.bench.protocol import Call

COPIES = ("copy, np.copyto", "copy, threads")
OURS = ("normdrop", "normdrop, allocating")


class Normdrop:
    """The public calls of normdrop.

    Parameters
    ----------
    name : str
        One of `OURS`.
    """

    version = normdrop.__version__

    def __init__(self, name: str) -> None:
        self.name = name

    def _out(self, batch: Batch) -> Array | None:
        return batch.buffer() if self.name == OURS[0] else None

    def dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout in training.

        Parameters
        ----------
        batch : Batch
            What it works on.
        p : float
            Probability of dropping an element.

        Returns
        -------
        callable
            What is timed.
        """
        return self._layer(normdrop.Dropout(p, rng=0), batch)

    def channel_dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of channels in training; parameters and result as for `dropout`."""
        return self._layer(normdrop.Dropout2d(p, rng=0), batch)

    def _layer(self, layer: normdrop.Dropout | normdrop.BatchNorm, batch: Batch) -> Call:
        x, out = batch.x, self._out(batch)
        return lambda: layer(x, out=out)

    def dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare the backward pass of dropout; parameters and result as for `dropout`."""
        dy, out = batch.dy, self._out(batch)
        context = functional.dropout(batch.x, p, rng=0)[1]
        return lambda: functional.dropout_backward(dy, context, out=out)

    def batch_norm(self, batch: Batch) -> Call:
        """Prepare batch normalization in training.

        Parameters
        ----------
        batch : Batch
            What it works on.

        Returns
        -------
        callable
            What is timed.
        """
        return self._layer(_norm(batch), batch)

    def batch_norm_inference(self, batch: Batch) -> Call:
        """Prepare batch normalization in inference; parameter and result as for `batch_norm`."""
        return self._layer(_norm(batch).eval(), batch)

    def batch_norm_backward(self, batch: Batch) -> Call:
        """Prepare the backward pass of batch normalization; parameter and result as for `batch_norm`."""
        dy, out = batch.dy, self._out(batch)
        context = functional.batch_norm(batch.x, batch.gamma, batch.beta)[1]
        return lambda: functional.batch_norm_backward(dy, context, out=out)


def _norm(batch: Batch) -> normdrop.BatchNorm:
    layer = normdrop.BatchNorm(len(batch.gamma))
    counts = {"num_batches": np.array(0), "num_values": np.array(0)}
    vectors = {"gamma": batch.gamma, "beta": batch.beta, "running_mean": batch.mean, "running_var": batch.var}
    layer.load_state_dict(vectors | counts)
    return layer


def copies(batch: Batch, pool: Executor, n_threads: int, threaded: Call | None = None) -> Mapping[str, Call]:
    """Prepare copies of the input into a touched output, by one thread and by several.

    Parameters
    ----------
    batch : Batch
        Whose input is copied.
    pool : Executor
        Python threads.
    n_threads : int
        How many.
    threaded : callable, optional
        A copy that another library makes on its threads, which starts sooner than one on Python threads.

    Returns
    -------
    mapping of str to callable
        What is timed, under the names of `COPIES`.
    """
    x, y = batch.x, batch.buffer()
    parts = list(zip(np.array_split(y, n_threads), np.array_split(x, n_threads), strict=True))

    def copy_parts() -> None:
        for future in [pool.submit(np.copyto, *part) for part in parts]:
            future.result()

    return dict(zip(COPIES, (lambda: np.copyto(y, x), threaded or copy_parts), strict=True))
