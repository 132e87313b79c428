"""Numbers and figures of the page "Dropout as an ensemble"."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import BLACK, BLUE, GREEN, ORANGE, register
from sphinx.application import Sphinx

from normdrop import Dropout, MaskStream, exact_ensemble, functional

Array = npt.NDArray[Any]

P, WIDTH = 0.5, 6  # of two hidden layers
N_UNITS = 2 * WIDTH
DRAWS, REPEATS = 2 ** np.arange(0, 11), 200


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def two_moons(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points on two half circles that reach into one another, with noise, and which of them each is on."""
    label, angle = rng.integers(2, size=n), rng.uniform(0, np.pi, n)
    sign = 1 - 2 * label
    circles = np.stack([np.cos(angle) * sign + label, np.sin(angle) * sign + label / 2], axis=1)
    return circles + rng.normal(scale=0.2, size=(n, 2)), label


class Network:
    """2 inputs, two hidden layers of ReLU units with dropout, 2 classes; trained by plain gradient descent."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        sizes = [(2, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]
        self.weights = [rng.normal(scale=np.sqrt(2 / n_in), size=(n_in, n_out)) for n_in, n_out in sizes]
        self.biases = [np.zeros(n_out) for _, n_out in sizes]
        drops = [Dropout(P, rng=i) for i in range(2)]
        x, label = two_moons(400, rng)
        for _ in range(2000):
            inputs, h = [x], x
            for w, b, drop in zip(self.weights, self.biases, drops, strict=False):
                h = drop(np.maximum(h @ w + b, 0))
                inputs.append(h)
            dz = (softmax(h @ self.weights[2] + self.biases[2]) - np.eye(2)[label]) / len(x)
            for i in (2, 1, 0):
                dh = dz @ self.weights[i].T
                self.weights[i] -= 0.2 * inputs[i].T @ dz
                self.biases[i] -= 0.2 * dz.sum(axis=0)
                if i:
                    dz = drops[i - 1].backward(dh) * (inputs[i] > 0)

    def probabilities(self, x: Array, masks: Array) -> Array:
        """Class probabilities (m, N, 2) under m masks of both layers; with masks of 1 - p, weight scaling."""
        first, second = (part[:, None, :] / (1 - P) for part in np.split(masks, 2, axis=1))
        h = np.maximum(x @ self.weights[0] + self.biases[0], 0) * first
        h = np.maximum(h @ self.weights[1] + self.biases[1], 0) * second
        return softmax(h @ self.weights[2] + self.biases[2])


@functools.cache
def results() -> dict[str, Any]:
    """All that the page shows."""
    rng, network = np.random.default_rng(2), Network()
    x, _ = two_moons(50, rng)
    every: list[Array] = []

    def thinned(masks: Array) -> Array:
        every.append(network.probabilities(x, masks))
        return every[-1]

    ensemble = exact_ensemble(thinned, N_UNITS, P, geometric=True)
    scaled = network.probabilities(x, np.full((1, N_UNITS), 1 - P))[0]

    w, bias, inputs = rng.normal(size=(N_UNITS, 3)), rng.normal(size=3), rng.normal(size=(50, N_UNITS))
    regression = exact_ensemble(lambda m: softmax((m[:, None] * inputs) @ w + bias), N_UNITS, P, geometric=True)
    of_regression = np.abs(regression.geometric_mean - softmax((1 - P) * inputs @ w + bias)).max()

    place = int(np.argmax(np.abs(ensemble.geometric_mean - scaled)[:, 0]))
    point, errors = x[place : place + 1], []
    for draws in DRAWS.tolist():
        ones, stream = np.ones((REPEATS * draws, N_UNITS)), MaskStream.from_key((3, draws))
        masks = functional.dropout(ones, P, rng=stream, return_mask=True)[2]
        means = network.probabilities(point, masks)[:, 0, 0].reshape(REPEATS, draws).mean(axis=1)
        errors.append(float(np.sqrt(np.mean((means - ensemble.mean[place, 0]) ** 2))))
    return {
        "members": np.concatenate(every)[:, place, 0],
        "arithmetic": ensemble.mean[place, 0],
        "geometric": ensemble.geometric_mean[place, 0],
        "scaled": scaled[place, 0],
        "std": ensemble.std[place, 0],
        "errors": np.array(errors),
        "of_regression": of_regression,
        "of_geometric": np.abs(ensemble.geometric_mean - scaled).max(),
        "of_arithmetic": np.abs(ensemble.mean - scaled).max(),
    }


def numbers() -> dict[str, str]:
    """What the page names, as text."""
    found = results()
    slope = np.polyfit(np.log(DRAWS), np.log(found["errors"]), 1)[0]
    return {
        "masks": str(2**N_UNITS),
        "units": str(N_UNITS),
        "regression": f"{found['of_regression']:.0e}",
        "geometric": f"{found['of_geometric']:.3f}",
        "arithmetic": f"{found['of_arithmetic']:.3f}",
        "std": f"{found['std']:.3f}",
        "slope": f"{slope:.2f}".replace("-", "−"),
        "repeats": str(REPEATS),
        "draws": str(DRAWS[-1]),
        "error": f"{found['errors'][-1]:.4f}",
    }


def _members(axes: Any) -> None:
    found = results()
    axes.hist(found["members"], bins=60, color="#BBBBBB", label="thinned networks")
    for name, label, color, style in (
        ("arithmetic", "arithmetic mean", BLUE, "-"),
        ("geometric", "geometric mean, renormalized", ORANGE, "--"),
        ("scaled", "one pass, weights scaled", GREEN, ":"),
    ):
        axes.axvline(found[name], color=color, linestyle=style, linewidth=2, label=label)
    axes.set(xlabel="probability of the first class", ylabel="number of masks")


def _convergence(axes: Any) -> None:
    found = results()
    axes.loglog(DRAWS, found["errors"], "o", color=BLUE, label=f"root mean square of {REPEATS} repetitions")
    axes.loglog(DRAWS, found["std"] / np.sqrt(DRAWS), color=BLACK, label="standard deviation of the members / √draws")
    axes.set(xlabel="masks drawn", ylabel="error of the mean")


def setup(app: Sphinx) -> dict[str, Any]:
    register({"members": _members, "convergence": _convergence}, numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
