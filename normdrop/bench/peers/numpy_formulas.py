"""The passes as plain NumPy formulas, without temporary arrays where NumPy can do without."""
# What each method prepares is said by its name.
# ruff: noqa: D102

import numpy as np

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call
from normdrop.bench.shapes import Shape


class NumPy:
    """NumPy as one would write it by hand, on one thread.

    Attributes
    ----------
    name, version : str
        As in `Peer`.
    """

    name = "NumPy"
    version = np.__version__

    def dropout(self, batch: Batch, p: float) -> Call:
        return _dropout(batch, batch.dense(batch.x).shape, p)

    def channel_dropout(self, batch: Batch, p: float) -> Call:
        return _dropout(batch, batch.channel_mask, p)

    def dropout_backward(self, batch: Batch, p: float) -> Call:
        return _dropout_backward(batch, batch.dense(batch.dy).shape, p)

    def channel_dropout_backward(self, batch: Batch, p: float) -> Call:
        return _dropout_backward(batch, batch.channel_mask, p)

    def batch_norm(self, batch: Batch) -> Call:
        x, y, axes = batch.dense(batch.x), batch.dense(batch.buffer()), batch.axes
        gamma, beta = batch.column(batch.gamma), batch.column(batch.beta)
        running_mean, running_var = batch.column(batch.mean.copy()), batch.column(batch.var.copy())
        n = x.size // gamma.size

        def forward() -> object:
            mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            np.subtract(x, mean, out=y)
            np.multiply(y, gamma / np.sqrt(var + 1e-5), out=y)
            np.add(y, beta, out=y)
            running_mean[...] = 0.9 * running_mean + 0.1 * mean
            running_var[...] = 0.9 * running_var + 0.1 * (n / (n - 1)) * var
            return y

        return forward

    def batch_norm_backward(self, batch: Batch) -> Call:
        x, dy, axes = batch.dense(batch.x), batch.dense(batch.dy), batch.axes
        dx, product = batch.dense(batch.buffer()), batch.dense(batch.buffer())
        gamma, n = batch.column(batch.gamma), x.size // batch.gamma.size
        mean, inv_std = x.mean(axes, keepdims=True), 1 / np.sqrt(x.var(axes, keepdims=True) + 1e-5)

        def backward() -> object:
            np.subtract(x, mean, out=dx)
            np.multiply(dx, inv_std, out=dx)
            dgamma = np.multiply(dy, dx, out=product).sum(axes, keepdims=True)
            dbeta = dy.sum(axes, keepdims=True)
            np.multiply(dx, -dgamma / n, out=dx)
            np.subtract(dx, dbeta / n, out=dx)
            np.add(dx, dy, out=dx)
            return np.multiply(dx, gamma * inv_std, out=dx), dgamma.ravel(), dbeta.ravel()

        return backward

    def batch_norm_inference(self, batch: Batch) -> Call:
        x, y = batch.dense(batch.x), batch.dense(batch.buffer())
        gamma, beta, mean, var = (batch.column(v) for v in (batch.gamma, batch.beta, batch.mean, batch.var))

        def inference() -> object:
            scale = gamma / np.sqrt(var + 1e-5)
            np.multiply(x, scale, out=y)
            return np.add(y, beta - mean * scale, out=y)

        return inference

    def training(self, kind: str, batch: Batch, *arguments: float) -> dict[str, Call]:
        forward = getattr(self, kind)(batch, *arguments)
        backward = getattr(self, f"{kind}_backward")(batch, *arguments)
        return {"forward": forward, "backward": backward, "step": lambda: (forward(), backward())}


def _dropout(batch: Batch, shape: Shape, p: float) -> Call:
    x, y, rng = batch.dense(batch.x), batch.dense(batch.buffer()), np.random.default_rng(0)

    def forward() -> object:
        np.multiply(x, rng.random(shape, np.float32) >= p, out=y)
        return np.multiply(y, 1 / (1 - p), out=y)

    return forward


def _dropout_backward(batch: Batch, shape: Shape, p: float) -> Call:
    dy, dx = batch.dense(batch.dy), batch.dense(batch.buffer())
    kept = np.random.default_rng(0).random(shape, np.float32) >= p

    def backward() -> object:
        np.multiply(dy, kept, out=dx)
        return np.multiply(dx, 1 / (1 - p), out=dx)

    return backward


def make(n_threads: int) -> NumPy:
    """Make it; these functions of NumPy run on one thread, whatever is asked for."""
    return NumPy()
