"""Figures and numbers of the pages "Why a variance loses its digits" and "Momentum"."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from figures import BLACK, BLUE, GRAY, GREEN, ORANGE, RED, register

RESULTS = Path(__file__).parents[1] / "_results"
STYLES = {"normdrop": (BLACK, "o"), "NumPy": (ORANGE, "s"), "PyTorch": (RED, "D"), "mean of squares": (BLUE, "^")}


@functools.cache
def _curves() -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = json.loads((RESULTS / "variance.json").read_text(encoding="utf-8"))
    return found


def _errors(axes: Any) -> None:
    for name, points in _curves().items():
        color, marker = STYLES[name]
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, lw=1.2, label=name)
    axes.axhline(1, color=GRAY, lw=1, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="mean ÷ standard deviation", ylabel="relative error of the variance")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


STEPS, JUMP = 60, 20


def _followed(momentum: float, *, debiased: bool = False) -> np.ndarray:
    """A running mean of batches whose mean is 1, and 2 from step `JUMP` on."""
    running, found = 0.0, []
    for step in range(1, STEPS + 1):
        running = momentum * running + (1 - momentum) * (1.0 if step <= JUMP else 2.0)
        found.append(running / (1 - momentum**step) if debiased else running)
    return np.array(found)


def _momenta(axes: Any) -> None:
    steps = np.arange(1, STEPS + 1)
    truth = np.where(steps <= JUMP, 1.0, 2.0)
    axes.step(steps, truth, where="mid", color=GRAY, lw=1, label="mean of the batches")
    for momentum, color in ((0.9, BLUE), (0.99, ORANGE)):
        axes.plot(steps, _followed(momentum), color=color, label=f"{momentum}")
        axes.plot(steps, _followed(momentum, debiased=True), color=color, ls="--", label=f"{momentum}, debiased")
    axes.plot(steps, np.cumsum(truth) / steps, color=GREEN, ls=":", lw=2, label="None: of all batches")
    axes.set(xlabel="step", ylabel="running mean, from 0", ylim=(0, 2.6))
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)


def _numbers() -> dict[str, str]:
    at = {name: dict(points) for name, points in _curves().items()}
    return {
        "squares-at-100": f"{at['mean of squares'][100.0]:.0%}".replace("%", " %"),
        "numpy-at-10000": f"{at['NumPy'][10000.0]:.0f}",
        "torch-at-100000": f"{at['PyTorch'][100000.0]:.0f}",
        "ours-worst": f"{max(at['normdrop'].values()):.0e}",
    }


register({"variance-errors": _errors, "momenta": _momenta}, _numbers)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
