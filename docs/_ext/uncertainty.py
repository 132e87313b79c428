"""Figures of the page "Uncertainty": thinned networks on a regression, their curves, and their spread against data."""

from itertools import pairwise
from typing import Any

import numpy as np
from figures import BLUE, GREEN, ORANGE, register
from sphinx.application import Sphinx

import normdrop

UNITS, STEPS, ROWS, NOISE = 64, 1500, 40, 0.1
GRID = np.linspace(-2.0, 2.0, 161)[:, np.newaxis]


class Network:
    """Two hidden layers with dropout after each; a sample has one mask for all rows in `mc_predict`."""

    def __init__(self, p: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = [1, UNITS, UNITS, 1]
        self.weights = [rng.normal(size=pair) * np.sqrt(2 / pair[0]) for pair in pairwise(sizes)]
        self.biases = [rng.uniform(-1.0, 1.0, size=n) for n in sizes[1:]]
        self.drops = [normdrop.Dropout(p, shared_axes=0, rng=seed + k) for k in (1, 2)]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for weight, bias, drop in zip(self.weights, self.biases, self.drops):  # noqa: B905  # the last has none
            x = drop(np.maximum(x @ weight + bias, 0.0))
        return x @ self.weights[-1] + self.biases[-1]

    def train(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adam on the mean squared error of a few rows at a time, with a mask for each."""
        p = self.drops[0].p
        drops = [normdrop.Dropout(p, rng=k) for k in (1, 2)]
        parameters = [*self.weights, *self.biases]
        moments = [(np.zeros_like(value), np.zeros_like(value)) for value in parameters]
        rng = np.random.default_rng(0)
        for step in range(1, STEPS + 1):
            rows = rng.permutation(len(x))[:ROWS]
            inputs, outputs = [x[rows]], []
            for weight, bias, drop in zip(self.weights, self.biases, drops):  # noqa: B905
                outputs.append(np.maximum(inputs[-1] @ weight + bias, 0.0))
                inputs.append(drop(outputs[-1]))
            dy = 2 * (inputs[-1] @ self.weights[-1] + self.biases[-1] - y[rows]) / len(rows)
            gradients = [dy.sum(axis=0)]
            products = [inputs[-1].T @ dy]
            for k in (1, 0):
                dy = drops[k].backward(dy @ self.weights[k + 1].T) * (outputs[k] > 0)
                products.insert(0, inputs[k].T @ dy)
                gradients.insert(0, dy.sum(axis=0))
            for value, gradient, (m, v) in zip(parameters, [*products, *gradients], moments, strict=True):
                m += 0.1 * (gradient - m)
                v += 0.001 * (gradient**2 - v)
                value -= 0.01 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


def _data(x: np.ndarray, seed: int) -> np.ndarray:
    return np.sin(3 * x) + NOISE * np.random.default_rng(seed).normal(size=x.shape)


def _curves(axes: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1.3, -0.5, 15), rng.uniform(0.4, 1.2, 15)])[:, np.newaxis]
    y = _data(x, 1)
    network = Network(0.1, 3)
    network.train(x, y)
    answer = normdrop.mc_predict(network, GRID, 400, rng=0)
    with normdrop.sampling(network):
        curves = np.stack([network(GRID) for _ in range(30)])
    grid, mean, band = GRID[:, 0], answer.mean[:, 0], 2 * answer.std[:, 0]
    axes.fill_between(grid, mean - band, mean + band, color=BLUE, alpha=0.2, lw=0, label="mean ± 2 std")
    axes.plot(grid, curves[:, :, 0].T, color=BLUE, lw=0.5, alpha=0.5)
    axes.plot(grid, mean, color=BLUE, lw=2, label="mean")
    axes.plot(grid, np.sin(3 * grid), color="black", lw=1, ls=":", label="truth")
    axes.plot(x, y, "o", color="black", ms=4, label="data")
    axes.set(xlabel="x", ylabel="y", xlim=(-2, 2), ylim=(-3, 3))


def _spread(axes: Any) -> None:
    numbers = np.array([10, 40, 160, 640])
    inside = np.linspace(-1.0, 1.0, 41)[:, np.newaxis]
    for p, color in ((0.05, GREEN), (0.2, BLUE), (0.5, ORANGE)):
        spreads = []
        for n in numbers:
            x = np.random.default_rng(n).uniform(-1.0, 1.0, n)[:, np.newaxis]
            network = Network(p, 3)
            network.train(x, _data(x, n + 1))
            spreads.append(normdrop.mc_predict(network, inside, 100, rng=0).std.mean())
        axes.plot(numbers, spreads, "o-", color=color, label=f"p = {p}")
    axes.plot(numbers, 0.3 * np.sqrt(numbers[0] / numbers), "k--", lw=1, label="1/√n")
    axes.set(xscale="log", yscale="log", xlabel="points", ylabel="std within the data", ylim=(0.02, 0.4))
    axes.set_xticks(numbers, labels=map(str, numbers), minor=False)


def setup(app: Sphinx) -> dict[str, bool]:
    register({"curves": _curves, "spread": _spread})
    return {"parallel_read_safe": True, "parallel_write_safe": True}
