"""Figures and tables of how fast normdrop is, from the results of `python -m normdrop bench` in docs/_results.

`python benchmarks readme` takes new results over, and writes what README.md shows of them.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from figures import BLACK, BLUE, GRAY, GREEN, ORANGE, PINK, RED, SKY, register, svg
from matplotlib.ticker import NullLocator

RESULTS = Path(__file__).parents[1] / "_results"
OURS = "normdrop"
# Name, color, marker of each library.
PEERS = {"NumPy": (ORANGE, "s"), "PyTorch": (RED, "D"), "torch.compile": (PINK, "v"), "JAX": (BLUE, "^")}


class Row(NamedTuple):
    """A pass of the small table."""

    label: str
    family: str
    name: str
    shape: tuple[int, ...]
    floor: float  # copies whose bytes must move: the table at the top of the page


IMAGE, ROWS = (32, 256, 56, 56), (1_000_000, 8)
TEN = (
    Row("dropout, forward", "dropout, in memory", "dropout forward, p=0.5", (1 << 24,), 1.0),
    Row("dropout, backward", "dropout, in memory", "dropout backward", (1 << 24,), 1.0),
    Row("dropout of channels, forward", "channels first", "channel dropout forward", IMAGE, 0.75),
    Row("batch norm, forward", "channels first", "batch norm forward", IMAGE, 1.0),
    Row("batch norm, backward", "channels first", "batch norm backward", IMAGE, 1.5),
    Row("batch norm, inference", "channels first", "batch norm inference", IMAGE, 1.0),
    Row("batch norm of rows, forward", "few channels", "batch norm forward", ROWS, 1.5),
    Row("batch norm of rows, backward", "few channels", "batch norm backward", ROWS, 2.5),
    Row("norm, ReLU, dropout, forward", "fused, channels first", "fused norm, ReLU, dropout forward", IMAGE, 1.0),
    Row("norm, ReLU, dropout, backward", "fused, channels first", "fused norm, ReLU, dropout backward", IMAGE, 1.5),
)


@functools.cache
def passes() -> dict[str, Any]:
    """Return what was measured of passes."""
    found: dict[str, Any] = json.loads((RESULTS / "passes.json").read_text(encoding="utf-8"))
    return found


def case(row: Row) -> dict[str, Any]:
    """Return the measurement of a row."""
    for found in passes()["cases"]:
        if (found["pass"], tuple(found["shape"])) == (row.name, row.shape) and not found["channels_last"]:
            return found
    raise LookupError(f"no measurement of {row.name} on {row.shape}")


def middle(ratios: list[float]) -> float:
    """Return the median of three quartiles."""
    return ratios[1]


def shown(value: float) -> str:
    """Return a ratio in three digits, or whole."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def ten_rows() -> list[list[str]]:
    """The small table: times over that of a copy, and how many times as long others take."""
    rows = [["pass", "shape", "÷ copy", *PEERS]]
    for row in TEN:
        found = case(row)
        others = [found["over_normdrop"].get(peer) for peer in PEERS]
        ratios = [shown(middle(ratio)) if ratio else "" for ratio in others]
        shape = "×".join(map(str, row.shape))
        rows.append([row.label, shape, f"{middle(found['over_copy'][OURS]):.2f}", *ratios])
    return rows


@functools.cache
def steps() -> list[tuple[str, float, float, float, float]]:
    """Return of each network: its name, PyTorch's and our milliseconds, the speed-up, and what it could be at most.

    They are those of the table that the benchmark has written.
    """
    text = (RESULTS.parent / "_static" / "training.txt").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    return [(name, *(float(cell.split()[0]) for cell in cells[:4])) for name, *cells in lines]


def training_rows() -> list[list[str]]:
    """The table of whole training steps."""
    rows = [["network", "PyTorch, ms", "with normdrop, ms", "times as fast"]]
    return [*rows, *([name, f"{a:.1f}", f"{b:.1f}", f"{ratio:.2f}"] for name, a, b, ratio, _ in steps())]


def numbers() -> dict[str, str]:
    """What pages name, as text."""
    ratios = sorted(ratio for *_, ratio, _ in steps())
    of = {row.label: case(row)["over_normdrop"] for row in TEN}
    machine = passes()["machine"]
    return {
        "steps-least": f"{ratios[0]:.1f}",
        "steps-most": f"{ratios[-2]:.1f}",
        "steps-blocks": f"{ratios[-1]:.1f}",
        "dropout-torch": shown(middle(of["dropout, forward"]["PyTorch"])),
        "norm-torch": shown(middle(of["batch norm, forward"]["PyTorch"])),
        "fused-torch": shown(middle(of["norm, ReLU, dropout, forward"]["PyTorch"])),
        "machine": f"{machine['processor']}, {machine['threads']} threads",
    }


def _labels(axes: Any, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)


def _note(axes: Any, text: str, place: tuple[float, int], **options: Any) -> None:
    axes.annotate(text, place, xytext=(4, 0), textcoords="offset points", va="center", **options)


def _legend(axes: Any, n: int) -> None:
    """Put the legend above."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.3, 1.0)}
    axes.legend(frameon=False, ncols=n, columnspacing=1, handletextpad=0.3, **place)


def _copies(axes: Any) -> None:
    """Bars: time over that of a copy; ticks: what must move."""
    values = [middle(case(row)["over_copy"][OURS]) for row in TEN]
    axes.barh(range(len(TEN)), values, color=SKY, height=0.6, label="measured")
    for k, (row, value) in enumerate(zip(TEN, values, strict=True)):
        axes.plot([row.floor] * 2, [k - 0.4, k + 0.4], color=BLACK, lw=2, label=None if k else "bytes that must move")
        axes.annotate(
            f"{value:.2f}", (max(value, row.floor), k), xytext=(4, 0), textcoords="offset points", va="center"
        )
    _labels(axes, [row.label for row in TEN])
    axes.set(xlabel="time ÷ time of a copy", xlim=(0, 1.15 * max(values)))
    _legend(axes, 2)


def _peers(axes: Any, rows: tuple[Row, ...] = TEN) -> None:
    """Points: time of each library over ours."""
    for peer, (color, marker) in PEERS.items():
        points = [(middle(ratio), k) for k, row in enumerate(rows) if (ratio := case(row)["over_normdrop"].get(peer))]
        axes.plot(*zip(*points, strict=True), marker, color=color, label=peer)
    axes.axvline(1, color=GRAY, lw=1, ls=":")
    _labels(axes, [row.label for row in rows])
    axes.set(xscale="log", xlabel="time ÷ time of normdrop", xlim=(0.5, 200), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=GRAY, alpha=0.3)
    axes.legend(
        frameon=False, loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=4, columnspacing=1, handletextpad=0.1
    )


def _steps(axes: Any) -> None:
    """Bars: how many times as fast a training step becomes; ticks: without the layers at all."""
    found = steps()
    axes.barh(range(len(found)), [ratio for *_, ratio, _ in found], color=GREEN, height=0.6, label="with normdrop")
    for k, (*_, ratio, most) in enumerate(found):
        axes.plot([most] * 2, [k - 0.4, k + 0.4], color=BLACK, lw=2, label=None if k else "without these layers")
        _note(axes, f"{ratio:.2f}", (0, k), color="white")
    axes.axvline(1, color=GRAY, lw=1, ls=":")
    _labels(axes, [name.replace(", ", ",\n", 1) for name, *_ in found])
    axes.set(xlabel="time of PyTorch's step ÷ time of this one")
    _legend(axes, 2)


def _bandwidths(axes: Any) -> None:
    """Bars: bytes that must move in a second; the line: what a copy moves."""
    found = [case(row) for row in TEN]
    copied = [2 * 4 * np.prod(row.shape) for row in TEN]  # read and written, float32
    seconds = [one["microseconds"][OURS] * 1e-6 for one in found]
    speeds = [row.floor * n / s / 1e9 for row, n, s in zip(TEN, copied, seconds, strict=True)]
    copies = [n / (s / middle(one["over_copy"][OURS])) / 1e9 for n, s, one in zip(copied, seconds, found, strict=True)]
    axes.barh(range(len(TEN)), speeds, color=SKY, height=0.6, label="bytes that must move")
    axes.plot(copies, range(len(TEN)), "|", color=BLACK, ms=14, mew=2, label="a copy of the array")
    _labels(axes, [row.label for row in TEN])
    axes.set(xlabel="GB/s")
    _legend(axes, 2)


SIZES = (
    ("dropout, forward", "dropout forward, p=0.5", ("dropout, in cache", "dropout, in memory")),
    ("batch norm, forward", "batch norm forward", ("batch norm, growing images",)),
)


def _sizes(figure: Any) -> None:
    """Lines: time over that of a copy against the number of elements, a panel each for dropout and batch norm."""
    for axes, (title, name, families) in zip(figure.subplots(2, 1, sharex=True), SIZES, strict=True):
        chosen = [found for found in passes()["cases"] if found["pass"] == name and found["family"] in families]
        for side, (color, marker) in {OURS: (BLACK, "o"), **PEERS}.items():
            points = []
            for found in chosen:
                copy = middle(found["over_copy"][OURS])
                ratio = [1, 1, 1] if side == OURS else found["over_normdrop"].get(side)
                if ratio:
                    points.append((int(np.prod(found["shape"])), copy * middle(ratio)))
            axes.plot(*zip(*sorted(points), strict=True), color=color, marker=marker, ms=4, lw=1.2, label=side)
        axes.axhline(1, color=GRAY, lw=1, ls=":")
        axes.set(title=title, xscale="log", yscale="log", ylabel="time ÷ copy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks([1 << n for n in (10, 16, 22, 28)], ["1 K", "64 K", "4 M", "256 M"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("elements")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, frameon=False, columnspacing=1, handletextpad=0.3
    )


__all__ = ["RESULTS", "markdown", "numbers", "svg", "training_rows"]  # what `python benchmarks readme` takes


def markdown(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table, all columns but words to the right."""
    head, *body = rows
    words = [all(not re.match(r"[\d.]+$", row[k]) for row in body) for k in range(len(head))]
    lines = [head, ["---" if left else "---:" for left in words], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


register({"copies": _copies, "peers": _peers, "bandwidths": _bandwidths}, numbers, height=4.2)
register({"steps": _steps}, tables={"ten": ten_rows, "training": training_rows})
register({"peers-readme": lambda axes: _peers(axes, TEN[:2] + TEN[3:6] + TEN[8:9])}, height=2.8)
register({"sizes": _sizes}, height=5.6, whole=True)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
