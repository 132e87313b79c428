"""The calls of normdrop itself, and the copies beside which they stand."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Literal

import numpy as np

import normdrop
from normdrop import functional
from normdrop.bench.batch import Array, Batch
from normdrop.bench.protocol import Call
from normdrop.bench.relatives import Relatives

COPIES = ("copy, np.copyto", "copy, threads")
OURS = ("normdrop", "normdrop, allocating")


class Normdrop(Relatives):
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
        return self._forward("dropout", batch, p)

    def channel_dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of channels in training; parameters and result as for `dropout`."""
        return self._forward("channel_dropout", batch, p)

    def dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare the backward pass of dropout; parameters and result as for `dropout`."""
        return self._dropout_backward(batch, p)

    def channel_dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare the backward pass of dropout of channels; parameters and result as for `dropout`."""
        return self._dropout_backward(batch, p, shared_axes=(2, 3))

    def _dropout_backward(self, batch: Batch, p: float, **options: Any) -> Call:
        dy, out = batch.dy, self._out(batch)
        context = functional.dropout(batch.x, p, rng=0, out=out, **options)[1]
        return lambda: functional.dropout_backward(dy, context, out=out)

    def connected(self, batch: Batch, p: float) -> Call:
        """Prepare a dense layer whose connections each sample drops; parameters and result as for `dropout`."""
        return self._connected(batch, p, "sample")

    def connected_batch(self, batch: Batch, p: float) -> Call:
        """Prepare the same with one mask for the batch; parameters and result as for `dropout`."""
        return self._connected(batch, p, "batch")

    def _connected(self, batch: Batch, p: float, masks: Literal["sample", "batch"]) -> Call:
        x, weight, out, stream = batch.x, batch.weight, self._out(batch), normdrop.MaskStream(0)
        return lambda: functional.drop_connect(x, weight, p=p, masks=masks, rng=stream, out=out)

    def connected_backward(self, batch: Batch, p: float) -> Call:
        """Prepare the backward pass of `connected`; parameters and result as for `dropout`."""
        dy, context = batch.dy, functional.drop_connect(batch.x, batch.weight, p=p, rng=0)[1]
        return lambda: functional.drop_connect_backward(dy, context)

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
        return self._forward("batch_norm", batch)

    def batch_norm_inference(self, batch: Batch) -> Call:
        """Prepare batch normalization in inference; parameter and result as for `batch_norm`."""
        x, out, layer = batch.x, self._out(batch), self._layer("batch_norm", batch).eval()
        return lambda: layer(x, out=out)

    def batch_norm_backward(self, batch: Batch) -> Call:
        """Prepare the backward pass of batch normalization; parameter and result as for `batch_norm`."""
        dy, out, layer = batch.dy, self._out(batch), self._layer("batch_norm", batch)
        context = functional.batch_norm(batch.x, layer.gamma, layer.beta, out=out)[1]
        return lambda: functional.batch_norm_backward(dy, context, out=out)

    def masked(self, batch: Batch) -> Call:
        """Prepare batch normalization of the positions that count; parameter and result as for `batch_norm`."""
        x, out, mask, affine = batch.x, self._out(batch), batch.mask, (batch.gamma, batch.beta)
        return lambda: functional.batch_norm(x, *affine, mask=mask, out=out)

    def masked_backward(self, batch: Batch) -> Call:
        """Prepare the backward pass of `masked`; parameter and result as for `batch_norm`."""
        dy, out = batch.dy, self._out(batch)
        context = functional.batch_norm(batch.x, batch.gamma, batch.beta, mask=batch.mask)[1]
        return lambda: functional.batch_norm_backward(dy, context, out=out)

    def fused(self, batch: Batch, p: float) -> Call:
        """Prepare batch normalization, ReLU and dropout in one pass; parameters and result as for `dropout`."""
        return self._fused(batch, p=p)

    def fused_residual(self, batch: Batch, p: float) -> Call:
        """Prepare the same with a residual sum; parameters and result as for `dropout`."""
        return self._fused(batch, p=p, residual=batch.dy)

    def _fused(self, batch: Batch, **options: Any) -> Call:
        x, out, affine, stream = batch.x, self._out(batch), (batch.gamma, batch.beta), normdrop.MaskStream(0)
        return lambda: functional.batch_norm_act(x, *affine, rng=stream, out=out, **options)

    def apart(self, batch: Batch, p: float) -> Call:
        """Prepare the passes that `fused` replaces; parameters and result as for `dropout`."""
        x, out, affine, stream = batch.x, self._out(batch), (batch.gamma, batch.beta), normdrop.MaskStream(0)

        def passes() -> object:
            y = functional.batch_norm(x, *affine, out=out)[0]
            y = functional.act_dropout(y, out=out)[0]
            return functional.dropout(y, p, rng=stream, out=out)

        return passes

    def fused_backward(self, batch: Batch, p: float) -> Call:
        """Prepare the backward pass of `fused`; parameters and result as for `dropout`."""
        dy, out = batch.dy, self._out(batch)
        context = functional.batch_norm_act(batch.x, batch.gamma, batch.beta, p=p, rng=0)[1]
        return lambda: functional.batch_norm_act_backward(dy, context, out=out)

    def fused_inference(self, batch: Batch) -> Call:
        """Prepare batch normalization and ReLU in inference; parameter and result as for `batch_norm`."""
        x, out, vectors = batch.x, self._out(batch), (batch.mean, batch.var, batch.gamma, batch.beta)
        return lambda: functional.batch_norm_act_inference(x, *vectors, out=out)

    def block(self, batch: Batch, p: float) -> Call:
        """Prepare ReLU, dropout and a residual sum in one pass; parameters and result as for `dropout`."""
        x, residual, out, stream = batch.x, batch.dy, self._out(batch), normdrop.MaskStream(0)
        return lambda: functional.act_dropout(x, residual=residual, p=p, rng=stream, out=out)

    def training(self, kind: str, batch: Batch, *arguments: float) -> Mapping[str, Call]:
        """Prepare the passes of a layer in training.

        Parameters
        ----------
        kind : str
            The method for the forward pass.
        batch : Batch
            What they work on.
        *arguments : float
            What that method takes beside the batch.

        Returns
        -------
        mapping of str to callable
            What is timed: forward, backward, and both as a step, as the layer runs them.
        """
        x, dy, y, dx = batch.x, batch.dy, self._out(batch), self._out(batch)
        layer = self._layer(kind, batch, *arguments)
        return {
            "forward": self._forward(kind, batch, *arguments),
            "backward": getattr(self, f"{kind}_backward")(batch, *arguments),
            "step": lambda: (layer(x, out=y), layer.backward(dy, out=dx)),
        }

    def _forward(self, kind: str, batch: Batch, *arguments: float) -> Call:
        x, out, layer = batch.x, self._out(batch), self._layer(kind, batch, *arguments)
        return lambda: layer(x, out=out)

    def _layer(self, kind: str, batch: Batch, *arguments: float) -> Any:
        if kind == "dropout":
            return normdrop.Dropout(*arguments, rng=0)
        if kind == "channel_dropout":
            return normdrop.Dropout2d(*arguments, rng=0)
        layer: Any = normdrop.BatchNorm(len(batch.gamma), dtype=batch.gamma.dtype)
        layer.gamma[...], layer.beta[...] = batch.gamma, batch.beta
        layer.running_mean[...], layer.running_var[...] = batch.mean, batch.var
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
    x, y = (batch.dense(values).reshape(-1) for values in (batch.x, batch.buffer()))
    parts = list(zip(np.array_split(y, n_threads), np.array_split(x, n_threads), strict=True))

    def copy_parts() -> None:
        for future in [pool.submit(np.copyto, *part) for part in parts]:
            future.result()

    return dict(zip(COPIES, (lambda: np.copyto(y, x), threaded or copy_parts), strict=True))
