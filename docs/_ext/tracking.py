"""Figures of the page "How speed is tracked", from numbers that `python benchmarks plots` and `noise` write."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from figures import BLACK, BLUE, GRAY, GREEN, ORANGE, RED, SKY, register

PAGES = Path(__file__).parents[1]
HISTORY, NOISE = PAGES / "_results" / "tracking.json", PAGES / "_static" / "tracking-noise.json"
LEAST, MOST = 0.75, 1.5  # of the axes of the plot of noise


def _name(case: list[str]) -> str:
    owner, operation, _, layout, shape = case
    return f"{owner.rpartition('.')[2]} {operation}, {layout}, {shape}"


def _history(figure: Any) -> None:
    """Lines: the ratio to a copy by commit, a panel for each module."""
    found = json.loads(HISTORY.read_text(encoding="utf-8"))
    modules = sorted({line["case"][0].partition(".")[0] for line in found["lines"]})
    for axes, module in zip(figure.subplots(len(modules), 1), modules, strict=True):
        lines = [line for line in found["lines"] if line["case"][0].startswith(f"{module}.")]
        for line, color in zip(lines, (BLUE, ORANGE, GREEN, RED, SKY, BLACK), strict=False):
            axes.plot(line["ratios"], "o-", color=color, ms=4, lw=1.2, label=_name(line["case"]))
        axes.axhline(1, color=GRAY, lw=1, ls=":")
        axes.set(ylabel="time ÷ copy", ylim=(0, None), title=f"{module}, {found['n_threads']} threads")
        axes.set_xticks(range(len(found["commits"])), found["commits"])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.05, -0.15))


def _noise(figure: Any) -> None:
    """Ticks: every repeat over the median of its case; what lies beyond the axes is an arrow at their end."""
    found = json.loads(NOISE.read_text(encoding="utf-8"))
    panels = figure.subplots(1, 3, sharey=True)
    titles = "time", "ratio", f"{found['plant']:.0%} slower"
    rows, labels, row, before = [], [], 0, None
    for one in found["series"]:
        if one["case"] != before:  # its name has a row of its own, across the panels
            place = {"transform": panels[0].get_yaxis_transform(), "va": "center", "in_layout": False}
            panels[0].text(-0.25, row, _name(one["case"]), fontsize=9, **place)
            row, before = row + 1, one["case"]
        for axes, kind in zip(panels, ("seconds", "ratio", "planted"), strict=True):
            middle = median(one["seconds" if kind == "seconds" else "ratio"])
            values = [value / middle for value in one[kind]]
            axes.plot(values, [row] * len(values), "|", color=BLUE, ms=8)
            for beyond, marker, end in ((min(values) < LEAST, "<", LEAST), (max(values) > MOST, ">", MOST)):
                if beyond:
                    axes.plot(end, row, marker, color=RED, ms=5, clip_on=False)
        rows.append(row)
        labels.append(f"{one['n_threads']} thr.")
        row += 1
    for axes, title in zip(panels, titles, strict=True):
        axes.axvline(1, color=GRAY, lw=1, ls=":", zorder=0)
        axes.set(title=title, xlim=(LEAST, MOST), ylim=(row - 0.5, -0.7), xticks=(0.8, 1, 1.2, 1.4))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(rows, labels, fontsize=9)
    panels[1].set_xlabel("÷ median of the repeats")


register({"tracking": _history}, height=6.6, whole=True)
register({"tracking-noise": _noise}, height=6.4, whole=True)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
