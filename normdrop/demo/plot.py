"""The plot: learning curves with their spread, and the error against the learning rate."""

from pathlib import Path
from typing import Any

import numpy as np

from normdrop.demo import findings
from normdrop.demo.experiments import CONVERGED, NETWORKS, TARGET, Study
from normdrop.demo.networks import VARIANTS

# Okabe and Ito's colors, which color-blind people tell apart.
COLORS = dict(zip(VARIANTS, ("#000000", "#E69F00", "#0072B2", "#009E73"), strict=True))
MARKERS = dict(zip(VARIANTS, "osD^", strict=True))


def plot(study: Study, path: Path) -> None:
    """Draw the plot into a PNG file.

    Parameters
    ----------
    study : Study
        A study that was carried out.
    path : Path
        File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    s = study.settings
    figure = Figure(figsize=(15, 6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, network in zip((left, middle), NETWORKS, strict=True):
        _draw_curves(axes, study, network)
    _draw_rates(right, study)
    left.set_ylabel("test error, %")
    figure.suptitle(f"Handwritten digits, {s.few} for training: means over {s.n_splits} random splits")
    figure.savefig(path, dpi=110)


def _draw_curves(axes: Any, study: Study, network: str) -> None:
    epochs = study.epochs(network)
    for variant in VARIANTS:
        errors = study.errors(study.on_few_digits(network, variant))
        mean, spread = errors.mean(axis=0), errors.std(axis=0, ddof=1)
        _draw_band(axes, epochs, mean, mean - spread, mean + spread, variant, label=variant)
    axes.axhline(TARGET, color="gray", linestyle=":", linewidth=1)
    axes.set_xlabel("epoch (bands: ± one standard deviation)")
    _entitle(axes, findings.of_curves(study, network))
    axes.annotate(f"{network} network", (0.03, 0.04), xycoords="axes fraction", fontweight="bold")
    _finish(axes, [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= epochs[-1]], 4)


def _draw_rates(axes: Any, study: Study) -> None:
    s = study.settings
    for network, linestyle in zip(NETWORKS, ("-", "--"), strict=True):
        for variant in ("plain", "batch norm"):
            errors = np.array([study.errors(study.at_rate(network, variant, rate))[:, -1] for rate in s.rates])
            bounds = errors.mean(axis=1), errors.min(axis=1), errors.max(axis=1)
            _draw_band(axes, s.rates, *bounds, variant, label=f"{network}, {variant}", linestyle=linestyle)
    axes.axhline(CONVERGED, color="gray", linestyle=":", linewidth=1)
    axes.set_xlabel(f"learning rate, constant for {s.rate_steps} steps (bands: best to worst split)")
    _entitle(axes, findings.of_rates(study))
    _finish(axes, list(s.rates), 2)


def _entitle(axes: Any, finding: str) -> None:
    axes.set_title(finding, loc="left", fontsize=9.5)


def _draw_band(axes: Any, x: Any, middle: Any, low: Any, high: Any, variant: str, **options: Any) -> None:
    axes.plot(x, middle, color=COLORS[variant], marker=MARKERS[variant], markersize=4, **options)
    axes.fill_between(x, low, high, color=COLORS[variant], alpha=0.15, linewidth=0)


def _finish(axes: Any, x_ticks: list[float], legend_columns: int) -> None:
    """Give both axes a logarithmic scale with plain numbers, and put the legend below."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log", ylim=(3, 100))
    for axis, ticks in ((axes.xaxis, x_ticks), (axes.yaxis, [3, 5, 10, 20, 50, 90])):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=legend_columns, frameon=False)
