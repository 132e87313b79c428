"""The plot: how the time over that of a copy changes with the size."""

from pathlib import Path
from typing import Any, NamedTuple

from normdrop.bench.cases import BACK, GROWING, HALF, IN_CACHE, IN_MEMORY, NORM, NORM_BACK, Pass
from normdrop.bench.sides import OURS
from normdrop.bench.study import COPY, Study

# Okabe and Ito's colors, which color-blind people tell apart.
STYLES = {
    OURS[0]: ("#000000", "o"),
    "NumPy": ("#E69F00", "s"),
    "PyTorch": ("#D55E00", "D"),
    "torch.compile": ("#CC79A7", "v"),
    "JAX": ("#0072B2", "^"),
}


class _Panel(NamedTuple):
    title: str
    operation: Pass
    families: tuple[str, ...]


PANELS = (
    _Panel("dropout forward, p = 0.5", HALF, (IN_CACHE, IN_MEMORY)),
    _Panel("dropout backward", BACK, (IN_CACHE, IN_MEMORY)),
    _Panel("batch norm forward, channels first", NORM, (GROWING,)),
    _Panel("batch norm backward, channels first", NORM_BACK, (GROWING,)),
)


def plot(study: Study, path: Path) -> bool:
    """Draw the plot into a PNG file.

    Parameters
    ----------
    study : Study
        One that was carried out.
    path : Path
        File to write.

    Returns
    -------
    bool
        Whether there was anything to draw: passes can be left out.
    """
    figure = draw(study)
    if figure is None:
        return False
    figure.savefig(path, dpi=110)
    return True


def draw(study: Study) -> Any:
    """Draw the plot.

    Parameters
    ----------
    study : Study
        One that was carried out.

    Returns
    -------
    matplotlib.figure.Figure or None
        A panel for each pass; None without any.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(panel, lines) for panel in PANELS if (lines := _lines(study, panel))]
    if not panels:
        return None
    figure = Figure(figsize=(4 + 4 * len(panels), 5), layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, lines) in zip(every, panels, strict=True):
        _draw_panel(axes, panel, lines)
    every[0].set_ylabel("time ÷ time of a copy")
    handles, labels = max((axes.get_legend_handles_labels() for axes in every), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _lines(study: Study, panel: _Panel) -> dict[str, list[tuple[int, float]]]:
    """Return (size, time over that of a copy) for each library, by size."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for measurement in study.measurements:
        case = measurement.case
        if case.operation == panel.operation and case.family in panel.families:
            for side in STYLES.keys() & measurement.seconds.keys():
                point = case.size, measurement.ratio(side, COPY).middle
                lines.setdefault(side, []).append(point)
    return {side: sorted(lines[side]) for side in STYLES if side in lines}


def _draw_panel(axes: Any, panel: _Panel, lines: dict[str, list[tuple[int, float]]]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for side, points in lines.items():
        color, marker = STYLES[side]
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=side)
    axes.axhline(1, color="gray", linestyle=":", linewidth=1)
    axes.set(title=panel.title, xlabel="elements", xscale="log", yscale="log")
    axes.xaxis.set_major_locator(FixedLocator([1 << n for n in range(10, 31, 4)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _binary(int(size))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))


def _binary(size: int) -> str:
    return f"{size >> 20} M" if size >= 1 << 20 else f"{size >> 10} K"
