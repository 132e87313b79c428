"""Figures and numbers of the page "Mini-batches and learning rates": noise of a batch, and the largest rates."""

import functools
from typing import Any

import numpy as np
from figures import BLACK, BLUE, GREEN, ORANGE, RED, register
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import normdrop
from normdrop import functional
from normdrop.demo.layers import Dense, Layer, ReLU
from normdrop.demo.networks import Network

UNITS, STEPS, ROWS, SEEDS, N_TRAIN = 64, 100, 64, 3, 1500
RATES = 2.0 ** np.arange(-5, 6)
CONVERGED = 0.5  # loss; guessing has log 10 = 2.3
SIZES, DRAWS = 2 ** np.arange(1, 9), 50


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


def _network(seed: int, *, norm: bool) -> Network:
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for _ in range(3):
        layers += [Dense(64, UNITS, rng=rng), *([normdrop.BatchNorm(UNITS)] if norm else []), ReLU()]
    return Network([*layers, Dense(UNITS, 10, rng=rng)])


def _loss(network: Network, x: np.ndarray, labels: np.ndarray) -> float:
    """The training loss of all digits, by the statistics of all where there is batch norm."""
    return -float(log_softmax(network.forward(x), axis=1)[np.arange(len(x)), labels].mean())


def _trained(rate: float, seed: int, *, norm: bool) -> tuple[float, Network]:
    (x, labels), rng = _digits(), np.random.default_rng(seed)
    network = _network(seed, norm=norm)
    with np.errstate(all="ignore"):  # some rates are to be too large
        for _ in range(STEPS):
            rows = rng.permutation(N_TRAIN)[:ROWS]
            if not np.isfinite(network.learn(x[rows], labels[rows])):
                return np.inf, network
            for _, value, gradient in network.parameters():
                value -= np.float32(rate) * gradient
        return _loss(network, x[:N_TRAIN], labels[:N_TRAIN]), network


@functools.cache
@threadpool_limits.wrap(limits=1, user_api="blas")
def _losses(*, norm: bool) -> np.ndarray:
    """After the last step, for each rate: the median over the seeds."""
    found = [[_trained(rate, seed, norm=norm)[0] for seed in range(SEEDS)] for rate in RATES]
    return np.median(np.where(np.isfinite(found), found, np.inf), axis=1)


def _largest(*, norm: bool) -> float:
    return float(RATES[_losses(norm=norm) < CONVERGED].max())


@functools.cache
@threadpool_limits.wrap(limits=1, user_api="blas")
def _noise() -> dict[str, np.ndarray]:
    """What batches of each size say of all digits: relative errors of mean, deviation, one output and the gradient."""
    (x, labels), rng = _digits(), np.random.default_rng(0)
    _, network = _trained(0.25, 0, norm=False)
    h = network.layers[0].forward(x)
    of_all = np.concatenate([h.mean(axis=0), h.std(axis=0)]).reshape(2, -1)
    y_of_all = (h[0] - of_all[0]) / of_all[1]

    def gradient(rows: np.ndarray) -> np.ndarray:
        network.learn(x[rows], labels[rows])
        return np.concatenate([change.ravel() for _, _, change in network.parameters() if change is not None])

    slope = gradient(np.arange(len(x)))
    found = np.zeros((len(SIZES), 4))
    for squares, size in zip(found, SIZES, strict=True):
        for _ in range(DRAWS):
            rows = rng.integers(len(x), size=size)
            rows[0] = 0  # the digit whose output is looked at
            y = functional.batch_norm(h[rows])[0]
            others = functional.batch_norm(h[rng.integers(len(x), size=size)])[1]
            squares[0] += np.mean(((others.mean - of_all[0]) / of_all[1]) ** 2)
            squares[1] += np.mean((np.sqrt(others.var) / of_all[1] - 1) ** 2)
            squares[2] += np.mean((y[0] - y_of_all) ** 2)
            squares[3] += np.sum((gradient(rng.integers(len(x), size=size)) - slope) ** 2) / np.sum(slope**2)
    return dict(zip(("mean", "deviation", "output", "gradient"), np.sqrt(found.T / DRAWS), strict=True))


def _growth(rate: float) -> float:
    """How many times as long the hidden weights of the network with batch norm are after training."""
    lengths = [
        np.linalg.norm([np.linalg.norm(layer.weight) for layer in network.layers[:-1] if isinstance(layer, Dense)])
        for network in (_trained(rate, 0, norm=True)[1], _network(0, norm=True))
    ]
    return float(lengths[0] / lengths[1])


def _dead(rate: float) -> float:
    """Share of units before the last layer that are zero for all digits, in the network without batch norm."""
    _, network = _trained(rate, 0, norm=False)
    h = _digits()[0]
    for layer in network.layers[:-1]:
        h = layer.forward(h)
    return float(np.mean(np.all(h == 0, axis=0)))


def _rates(axes: Any) -> None:
    for norm, label, color in ((False, "without batch norm", ORANGE), (True, "with batch norm", BLUE)):
        losses = np.minimum(_losses(norm=norm), 30)
        axes.loglog(RATES, losses, "o-", ms=4, color=color, label=label)
    axes.axhline(np.log(10), color="#808080", lw=1, ls=":", label="guessing")
    axes.set(xlabel="learning rate", ylabel=f"loss after {STEPS} steps", ylim=(0.01, 30))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, loc="upper left")


def _noises(axes: Any) -> None:
    labels = {
        "mean": "mean",
        "deviation": "standard deviation",
        "output": "one output",
        "gradient": "gradient",
    }
    for (name, errors), color in zip(_noise().items(), (BLUE, GREEN, ORANGE, RED), strict=True):
        axes.loglog(SIZES, errors, "o-", ms=4, color=color, label=labels[name])
    axes.loglog(SIZES, 1 / np.sqrt(SIZES), color=BLACK, lw=1, ls="--", label="1/√n")
    axes.set(xlabel="n, digits of a batch", ylabel="relative error")
    axes.set_xticks(SIZES, labels=map(str, SIZES), minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _numbers() -> dict[str, str]:
    found = {
        f"batches-slope-{name}": f"{np.polyfit(np.log(SIZES), np.log(errors), 1)[0]:.2f}".replace("-", "−")
        for name, errors in _noise().items()
    }
    at = int(np.flatnonzero(SIZES == 32)[0])
    found |= {f"batches-{name}-32": f"{100 * errors[at]:.0f} %" for name, errors in _noise().items()}
    without, with_norm = _largest(norm=False), _largest(norm=True)
    return found | {
        "batches-without": f"{without:g}",
        "batches-with": f"{with_norm:g}",
        "batches-growth": f"{_growth(with_norm):.1f}",
        "batches-growth-slow": f"{_growth(without):.1f}",
        "batches-dead-rate": f"{4 * without:g}",
        "batches-dead": f"{100 * _dead(4 * without):.0f} %",
        "batches-converged": f"{CONVERGED}",
        "batches-times": f"{with_norm / without:g}",
        "batches-best-without": f"{_losses(norm=False).min():.2f}",
        "batches-best-with": f"{_losses(norm=True).min():.2f}",
        "batches-steps": f"{STEPS}",
    }


register({"batches-rates": _rates, "batches-noise": _noises}, _numbers, height=3.4)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
