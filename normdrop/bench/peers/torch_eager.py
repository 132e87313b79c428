"""PyTorch on the CPU, called as its users call it."""
# What each method prepares is said by its name.
# ruff: noqa: D102

from collections.abc import Callable
from typing import Any

import torch

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call
from normdrop.bench.relatives import BLOCK_SIZE


class PyTorch:
    """PyTorch's layers. Only `training` records; other backward passes are the operations that autograd calls.

    Parameters
    ----------
    n_threads : int
        On how many threads it runs.

    Attributes
    ----------
    name, version : str
        As in `Peer`.
    """

    name = "PyTorch"
    version = str(torch.__version__)

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)

    def _ready(self, function: Callable[..., object], *arguments: Any) -> Call:
        """Bind arguments; a subclass compiles the function."""
        return lambda: function(*arguments)

    def copy(self, batch: Batch) -> Call:
        """Prepare a copy of the input on all threads.

        Parameters
        ----------
        batch : Batch
            Whose input is copied.

        Returns
        -------
        callable
            What is timed.
        """
        y, x = torch.from_numpy(batch.buffer()), torch.from_numpy(batch.x)
        return lambda: y.copy_(x)

    def dropout(self, batch: Batch, p: float) -> Call:
        return self._ready(torch.nn.Dropout(p), torch.from_numpy(batch.x))

    def channel_dropout(self, batch: Batch, p: float) -> Call:
        return self._ready(torch.nn.Dropout2d(p), torch.from_numpy(batch.x))

    def dropout_backward(self, batch: Batch, p: float) -> Call:
        dy = torch.from_numpy(batch.dy)
        kept = torch.rand_like(dy) >= p
        scale = 1 / (1 - p)
        return self._ready(lambda dy, kept: torch.ops.aten.native_dropout_backward(dy, kept, scale), dy, kept)

    def batch_norm(self, batch: Batch) -> Call:
        return self._ready(_norm(batch).requires_grad_(False), torch.from_numpy(batch.x))

    def batch_norm_inference(self, batch: Batch) -> Call:
        return self._ready(_norm(batch).eval().requires_grad_(False), torch.from_numpy(batch.x))

    def batch_norm_backward(self, batch: Batch) -> Call:
        x, dy = torch.from_numpy(batch.x), torch.from_numpy(batch.dy)
        mean, var, gamma, beta = _vectors(batch)
        saved = torch.native_batch_norm(x, gamma, beta, mean, var, True, 0.1, 1e-5)[1:]

        def backward(dy: Any, x: Any, gamma: Any, mean: Any, var: Any, *saved: Any) -> object:
            return torch.ops.aten.native_batch_norm_backward(
                dy, x, gamma, mean, var, *saved, True, 1e-5, [True, True, True]
            )

        return self._ready(backward, dy, x, gamma, mean, var, *saved)

    def fused(self, batch: Batch, p: float) -> Call:
        layers = torch.nn.Sequential(_norm(batch), torch.nn.ReLU(), torch.nn.Dropout(p)).requires_grad_(False)
        return self._ready(layers, torch.from_numpy(batch.x))

    def fused_residual(self, batch: Batch, p: float) -> Call:
        norm = _norm(batch).requires_grad_(False)

        def forward(x: Any, residual: Any) -> Any:
            return torch.nn.functional.dropout(torch.relu(norm(x) + residual), p)

        return self._ready(forward, torch.from_numpy(batch.x), torch.from_numpy(batch.dy))

    def fused_inference(self, batch: Batch) -> Call:
        layers = torch.nn.Sequential(_norm(batch), torch.nn.ReLU()).eval().requires_grad_(False)
        return self._ready(layers, torch.from_numpy(batch.x))

    def block(self, batch: Batch, p: float) -> Call:
        def forward(x: Any, residual: Any) -> Any:
            return residual + torch.nn.functional.dropout(torch.relu(x), p)

        return self._ready(forward, torch.from_numpy(batch.x), torch.from_numpy(batch.dy))

    def training(self, kind: str, batch: Batch, *arguments: float) -> dict[str, Call]:
        layers = {"dropout": torch.nn.Dropout, "channel_dropout": torch.nn.Dropout2d}
        layer = layers[kind](*arguments) if kind in layers else _norm(batch)
        return recorded(layer, torch.from_numpy(batch.x), torch.from_numpy(batch.dy))


def _vectors(batch: Batch) -> list[Any]:
    return [torch.from_numpy(v.copy()) for v in (batch.mean, batch.var, batch.gamma, batch.beta)]


def _norm(batch: Batch) -> Any:
    ranks = {2: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}
    layer = ranks[batch.x.ndim](len(batch.gamma))
    layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data = _vectors(batch)
    return layer


def recorded(layer: Any, x: Any, dy: Any) -> dict[str, Call]:
    """Prepare the passes of a layer by autograd.

    Parameters
    ----------
    layer : torch.nn.Module
        The layer.
    x, dy : torch.Tensor
        Its input, and the gradient with respect to its output.

    Returns
    -------
    dict of str to callable
        What is timed: forward, backward, and both as a step.
    """
    leaves = [x.detach().requires_grad_(), *layer.parameters()]
    y = layer(leaves[0])
    return {
        "forward": lambda: layer(leaves[0]),
        "backward": lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True),
        "step": lambda: torch.autograd.grad(layer(leaves[0]), leaves, dy),
    }


class Eager(PyTorch):
    """PyTorch as it is, with what takes autograd or much time of a compiler.

    Normal noise is written as users do; paths and blocks are dropped by the operations that torchvision has for it.
    """

    def gaussian_dropout(self, batch: Batch, p: float) -> Call:
        x, std = torch.from_numpy(batch.x), (p / (1 - p)) ** 0.5
        return lambda: torch.empty_like(x).normal_(1.0, std).mul_(x)

    def gaussian_dropout_backward(self, batch: Batch, p: float) -> Call:
        dy = torch.from_numpy(batch.dy)
        factors = torch.empty_like(dy).normal_(1.0, (p / (1 - p)) ** 0.5)
        return lambda: dy * factors

    def gaussian_noise(self, batch: Batch, std: float) -> Call:
        x = torch.from_numpy(batch.x)
        return lambda: torch.empty_like(x).normal_(0.0, std).add_(x)

    def alpha_dropout(self, batch: Batch, p: float) -> Call:
        return self._ready(torch.nn.AlphaDropout(p), torch.from_numpy(batch.x))

    def alpha_dropout_backward(self, batch: Batch, p: float) -> Call:
        return _backward(torch.nn.AlphaDropout(p), batch)

    def feature_alpha_dropout(self, batch: Batch, p: float) -> Call:
        return self._ready(torch.nn.FeatureAlphaDropout(p), torch.from_numpy(batch.x))

    def feature_alpha_dropout_backward(self, batch: Batch, p: float) -> Call:
        return _backward(torch.nn.FeatureAlphaDropout(p), batch)

    def drop_path(self, batch: Batch, p: float) -> Call:
        x = torch.from_numpy(batch.x)
        return lambda: x * _paths(x, p)

    def drop_path_backward(self, batch: Batch, p: float) -> Call:
        dy = torch.from_numpy(batch.dy)
        paths = _paths(dy, p)
        return lambda: dy * paths

    def drop_block(self, batch: Batch, p: float) -> Call:
        x = torch.from_numpy(batch.x)
        return lambda: _scaled(x, _blocks(x, p))

    def drop_block_backward(self, batch: Batch, p: float) -> Call:
        dy = torch.from_numpy(batch.dy)
        kept = _blocks(dy, p)
        scale = kept.numel() / kept.sum()
        return lambda: dy * scale * kept

    def fused_backward(self, batch: Batch, p: float) -> Call:
        layers = torch.nn.Sequential(_norm(batch), torch.nn.ReLU(), torch.nn.Dropout(p))
        return _backward(layers, batch)


def _backward(layer: Any, batch: Batch) -> Call:
    return recorded(layer, torch.from_numpy(batch.x), torch.from_numpy(batch.dy))["backward"]


def _paths(x: Any, p: float) -> Any:
    """Draw the factor of each sample."""
    return x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - p).div_(1 - p)


def _blocks(x: Any, p: float) -> Any:
    """Draw 0 for what blocks cover and 1 for the rest, with the paper's rate of their seeds."""
    *outer, height, width = x.shape
    places = height - BLOCK_SIZE + 1, width - BLOCK_SIZE + 1
    seeds = x.new_empty(*outer, *places).bernoulli_(p * height * width / (BLOCK_SIZE**2 * places[0] * places[1]))
    half = BLOCK_SIZE // 2
    padded = torch.nn.functional.pad(seeds, [half] * 4)
    return 1 - torch.nn.functional.max_pool2d(padded, BLOCK_SIZE, 1, half)


def _scaled(x: Any, kept: Any) -> Any:
    return x * kept * (kept.numel() / kept.sum())


def make(n_threads: int) -> Eager:
    """Make it, on so many threads."""
    return Eager(n_threads)
