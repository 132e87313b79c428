"""Figure and numbers of the page "Batch norm, forward and backward": what eps does to its two facts about scale."""

import functools
from typing import Any

import numpy as np
from figures import BLUE, GREEN, ORANGE, register

from normdrop import functional

FACTORS = 10.0 ** np.linspace(-4, 4, 33)
EPSILONS = {1e-3: ORANGE, 1e-5: BLUE, 1e-12: GREEN}


@functools.cache
def _deviations(eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Relative deviations from both facts, of outputs and of weight gradients times a, for each factor a."""
    rng = np.random.default_rng(0)
    weight, u, dy = rng.normal(size=(16, 64)) / 8, rng.normal(size=(256, 64)), rng.normal(size=(256, 16))
    # Where eps does nothing: what the facts say for every a.
    exact = functional.scale_invariance(weight, u, 1.0, eps=1e-30, dy=dy)
    outputs, gradients = [], []
    for a in FACTORS:
        found = functional.scale_invariance(weight, u, float(a), eps=eps, dy=dy)
        outputs.append(np.linalg.norm(found.y_scaled - exact.y) / np.linalg.norm(exact.y))
        gradients.append(np.linalg.norm(a * found.dweight_scaled - exact.dweight) / np.linalg.norm(exact.dweight))
    return np.array(outputs), np.array(gradients)


def _eps(axes: Any) -> None:
    for eps, color in EPSILONS.items():
        outputs, gradients = _deviations(eps)
        axes.loglog(FACTORS, outputs, color=color, lw=2, label=f"ε = {eps:.0e}".replace("e-0", "e-"))
        axes.loglog(FACTORS, gradients, color=color, lw=1, ls="--")
    axes.plot([], [], color="#808080", lw=2, label="output")
    axes.plot([], [], color="#808080", lw=1, ls="--", label="weight gradient")
    axes.set(xlabel="a, factor of the weights", ylabel="relative deviation", ylim=(1e-17, 10))
    axes.set_yticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
    axes.legend(frameon=False, fontsize=9)


def _text(deviation: float) -> str:
    return f"{deviation:.0e}".replace("e-0", "e-") if deviation < 0.001 else f"{100 * deviation:.2g} %"


def _numbers() -> dict[str, str]:
    found = {}
    outputs, gradients = _deviations(1e-5)
    for a, name in ((1.0, "one"), (0.01, "small")):
        at = int(np.argmin(np.abs(np.log(FACTORS / a))))
        found[f"scale-output-{name}"] = _text(outputs[at])
        found[f"scale-gradient-{name}"] = _text(gradients[at])
    return found


register({"scale-eps": _eps}, _numbers)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
