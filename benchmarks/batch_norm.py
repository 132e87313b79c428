"""Batch normalization in training on images and rows, and in inference on one sample."""

import numpy as np

import normdrop as nd
from normdrop import functional

from .inputs import Batch
from .passes import Calls, _Passes, one_after_the_other, torch_passes
from .protocol import n_threads
from .shapes import DTYPES, IMAGES, LAYOUTS, ONE_LAYOUT, OPERATIONS, ROWS, SINGLE

EPS = 1e-5


def _layer(batch: Batch) -> nd.BatchNorm:
    layer = nd.BatchNorm(batch.n_channels, eps=EPS, dtype=batch.gamma.dtype)
    layer.gamma[...], layer.beta[...] = batch.gamma, batch.beta
    layer.running_mean[...], layer.running_var[...] = batch.mean, batch.var
    return layer


class _Training(_Passes):
    def normdrop(self, batch: Batch, name: str) -> Calls:
        x, dy, y, dx, layer = batch.x, batch.dy, batch.buffer(), batch.buffer(), _layer(batch)
        context = functional.batch_norm(x, batch.gamma, batch.beta, eps=EPS, out=y)[1]
        return {
            "forward": lambda: layer(x, out=y),
            "backward": lambda: functional.batch_norm_backward(dy, context, out=dx),
            "step": lambda: (layer(x, out=y), layer.backward(dy, out=dx)),
        }

    def numpy(self, batch: Batch, name: str) -> Calls:
        x, dy, y, dx, product = map(batch.dense, (batch.x, batch.dy, *(batch.buffer() for _ in range(3))))
        gamma, beta, running_mean, running_var = map(
            batch.column, (batch.gamma, batch.beta, batch.mean.copy(), batch.var.copy())
        )
        n, of_channels = x.size // batch.n_channels, {"axis": batch.axes, "keepdims": True}
        mean, inv_std = x.mean(**of_channels), 1 / np.sqrt(x.var(**of_channels) + EPS)

        def forward() -> np.ndarray:
            mean, var = x.mean(**of_channels), x.var(**of_channels)
            np.subtract(x, mean, out=y)
            np.multiply(y, gamma / np.sqrt(var + EPS), out=y, casting="same_kind")
            np.add(y, beta, out=y, casting="same_kind")
            running_mean[...] = 0.9 * running_mean + 0.1 * mean
            running_var[...] = 0.9 * running_var + 0.1 * (n / (n - 1)) * var
            return y

        def backward() -> tuple[np.ndarray, ...]:
            np.subtract(x, mean, out=dx)
            np.multiply(dx, inv_std, out=dx, casting="same_kind")
            dgamma = np.multiply(dy, dx, out=product).sum(**of_channels)
            dbeta = dy.sum(**of_channels)
            np.multiply(dx, -dgamma / n, out=dx, casting="same_kind")
            np.subtract(dx, dbeta / n, out=dx, casting="same_kind")
            np.add(dx, dy, out=dx)
            np.multiply(dx, gamma * inv_std, out=dx, casting="same_kind")
            return dx, dgamma.ravel(), dbeta.ravel()

        return one_after_the_other(forward, backward)

    def torch(self, batch: Batch, name: str) -> Calls:
        import torch

        mean, var = torch.from_numpy(batch.mean.copy()), torch.from_numpy(batch.var.copy())
        return torch_passes(
            lambda x, gamma, beta: torch.nn.functional.batch_norm(x, mean, var, gamma, beta, True, 0.1, EPS),
            batch,
            batch.gamma,
            batch.beta,
        )


class BatchNorm(_Training):
    """Images and volumes."""

    params = [OPERATIONS, DTYPES, LAYOUTS, IMAGES]


class BatchNormRows(_Training):
    """Rows of features."""

    params = [OPERATIONS, DTYPES, ONE_LAYOUT, ROWS]


class BatchNormInference(_Passes):
    """One sample with running statistics."""

    params = [["inference"], DTYPES, ONE_LAYOUT, SINGLE]

    def normdrop(self, batch: Batch, name: str) -> Calls:
        y, layer = batch.buffer(), _layer(batch).eval()
        return {"inference": lambda: layer(batch.x, out=y)}

    def numpy(self, batch: Batch, name: str) -> Calls:
        x, y = batch.dense(batch.x), batch.dense(batch.buffer())
        gamma, beta, mean, var = map(batch.column, (batch.gamma, batch.beta, batch.mean, batch.var))

        def inference() -> np.ndarray:
            scale = gamma / np.sqrt(var + EPS)
            np.multiply(x, scale, out=y, casting="same_kind")
            return np.add(y, beta - mean * scale, out=y, casting="same_kind")

        return {"inference": inference}

    def torch(self, batch: Batch, name: str) -> Calls:
        import torch

        torch.set_num_threads(n_threads())
        arguments = [torch.from_numpy(v) for v in (batch.x, batch.mean, batch.var, batch.gamma, batch.beta)]

        def inference() -> torch.Tensor:
            with torch.inference_mode():
                return torch.nn.functional.batch_norm(*arguments, False, 0.1, EPS)

        return {"inference": inference}
