"""Figures and numbers of the tutorial: its code is run, and what it leaves behind is shown."""

from typing import Any

import numpy as np
from figures import BLUE, GRAY, GREEN, ORANGE, PINK, RED, names_of, register

PAGE = "tutorial.md"
COLORS = {"plain": GRAY, "batch norm": ORANGE, "dropout": BLUE, "both": GREEN}


def _norm(figure: Any) -> None:
    page = names_of(PAGE)
    before, after = figure.subplots(1, 2, sharey=True)
    units = [int(page["a"].mean(axis=0).argmin()), 1, 2, 3, int(page["a"].mean(axis=0).argmax())]
    for axes, values, title in ((before, page["a"], "before"), (after, page["b"], "after")):
        for unit, color in zip(units, (RED, BLUE, GREEN, ORANGE, PINK), strict=True):
            axes.hist(values[:, unit], bins=24, color=color, alpha=0.55)
        axes.set(title=f"{title} batch norm", xlabel="output of a unit")
        axes.spines[["top", "right"]].set_visible(False)
    before.set_ylabel("digits")


def _mask(figure: Any) -> None:
    page = names_of(PAGE)
    rows = ("as they are", page["maps"]), ("pixels dropped", page["by_pixels"]), ("channels", page["by_channels"])
    grid = figure.subplots(3, 8)
    for line, (title, maps) in zip(grid, rows, strict=True):
        for axes, one in zip(line, maps[0], strict=True):
            axes.imshow(one, cmap="viridis", vmin=0, vmax=2, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")


def _losses(axes: Any) -> None:
    page = names_of(PAGE)
    for name, losses in page["losses"].items():
        training, test = np.array(losses).T
        epochs = np.arange(1, len(training) + 1)
        axes.semilogy(epochs, training, color=COLORS[name], lw=0.8, ls="--")
        axes.semilogy(epochs, test, color=COLORS[name], lw=2, label=name)
    axes.plot([], [], color=GRAY, lw=0.8, ls="--", label="on the training digits")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _numbers() -> dict[str, str]:
    page = names_of(PAGE)
    first = {name: losses[0] for name, losses in page["losses"].items()}
    last = {name: losses[-1] for name, losses in page["losses"].items()}
    short = {"plain": "plain", "batch norm": "norm-error", "dropout": "drop-error", "both": "both-error"}
    found = {f"tutorial-{short[name]}": f"{error:.1%}".replace("%", " %") for name, error in page["errors"].items()}
    return found | {
        "tutorial-norm-first": f"{first['batch norm'][1]:.2f}",
        "tutorial-plain-first": f"{first['plain'][1]:.2f}",
        "tutorial-both-train": f"{last['both'][0]:.3f}",
        "tutorial-norm-train": f"{last['batch norm'][0]:.3f}",
    }


register({"tutorial-norm": _norm, "tutorial-mask": _mask}, height=2.6, whole=True)
register({"tutorial-losses": _losses}, _numbers)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
