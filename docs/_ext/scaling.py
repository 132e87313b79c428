"""Figures and numbers of the page "Original and inverted scaling": one network, trained with both."""

import functools
from typing import Any

import numpy as np
from figures import BLACK, RED, SKY, register
from scipy.special import softmax
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import normdrop
from normdrop.demo.layers import Dense, ReLU
from normdrop.demo.networks import Network

P, UNITS, STEPS, ROWS, RATE, N_TRAIN = 0.75, 128, 200, 50, 0.1, 1000
FACTOR = 1 / (1 - P)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return images / 16, labels


def _trained(scaling: Any, initial: float, rate: float) -> tuple[Network, np.ndarray]:
    """Train with factors of the last weights and of their learning rate; the same masks and digits in every run."""
    rng = np.random.default_rng(0)
    first, last = Dense(64, UNITS, rng=rng, dtype=float), Dense(UNITS, 10, rng=rng, dtype=float)
    last.weight *= initial
    network = Network([first, ReLU(), normdrop.Dropout(P, scaling=scaling, rng=0), last])
    (x, labels), losses = _digits(), []
    for _ in range(STEPS):
        rows = rng.permutation(N_TRAIN)[:ROWS]
        losses.append(network.learn(x[rows], labels[rows]))
        last.dweight *= rate
        for _, value, gradient in network.parameters():
            value -= RATE * gradient
    network.eval()
    return network, np.array(losses)


@functools.cache
def _runs() -> dict[str, tuple[Network, np.ndarray]]:
    with threadpool_limits(1, "blas"):
        return {
            "inverted": _trained("inverted", 1, 1),
            "original": _trained("original", 1, 1),
            "converted": _trained("original", FACTOR, FACTOR**2),
        }


def _losses(axes: Any) -> None:
    styles = {"inverted": (SKY, "-", 5), "original": (RED, "-", 1.5), "converted": (BLACK, "--", 1.2)}
    labels = {"converted": "original, converted"}
    for name, (_, losses) in _runs().items():
        color, style, width = styles[name]
        means = np.convolve(losses, np.ones(10) / 10, "valid")
        steps = np.arange(10, STEPS + 1)
        axes.plot(steps, means, color=color, ls=style, lw=width, label=labels.get(name, name))
    axes.set(xlabel="step", ylabel="training loss, of 10 steps", ylim=(0, None))


def _mixed_up() -> list[list[str]]:
    network, _ = _runs()["inverted"]
    x, labels = (part[N_TRAIN:] for part in _digits())
    first, relu, _, last = network.layers
    h = relu.forward(first.forward(x))
    rows = [["in inference", "times", "wrong digits", "largest probability"]]
    for name, factor in (("right", 1), ("scaled twice", 1 - P), ("not scaled", FACTOR)):
        logits = last.forward(factor * h)
        wrong = np.mean(logits.argmax(axis=1) != labels)
        largest = softmax(logits, axis=1).max(axis=1).mean()
        rows.append([name, f"{factor:g}", f"{wrong:.1%}".replace("%", " %"), f"{largest:.2f}"])
    return rows


def _numbers() -> dict[str, str]:
    runs = _runs()
    apart = np.abs(runs["inverted"][1] - runs["converted"][1]).max()
    ends = {name: losses[-20:].mean() for name, (_, losses) in runs.items()}
    return {
        "scaling-apart": "0" if apart == 0 else f"{apart:.0e}",
        "scaling-inverted": f"{ends['inverted']:.2f}",
        "scaling-original": f"{ends['original']:.2f}",
        "scaling-p": f"{P}",
        "scaling-factor": f"{FACTOR:g}",
        "scaling-rate-factor": f"{FACTOR**2:g}",
    }


register({"scaling-losses": _losses}, _numbers, {"scaling-mixed-up": _mixed_up})


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
