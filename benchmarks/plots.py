"""Draw the pages' plots and tables from what asv and `noise` have measured; nothing in them is typed in by hand."""

import argparse
import ast
import itertools
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import noise

HERE = Path(__file__).resolve().parent
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")  # Okabe and Ito's
RATIO = "track_copy_ratio"
COLUMNS = {RATIO: "÷ copy", "track_vs_numpy": "÷ NumPy", "track_vs_torch": "÷ PyTorch"}
OPERATIONS = ("forward", "backward", "step", "inference")


class Figure(NamedTuple):
    """One number of asv's results."""

    commit: str
    n_threads: str
    owner: str  # module and class
    kind: str
    parameters: tuple[str, ...]
    value: float


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the numbers of asv's results, those of benchmarks with the parameters of a pass."""
    from asv.results import iter_results

    for result in iter_results(str(folder)):
        n_threads = result.env_vars.get("NUMBA_NUM_THREADS", "all")
        for key in result.get_all_result_keys():
            owner, _, kind = key.rpartition(".")
            params = result.get_result_params(key)
            if kind not in COLUMNS or len(params) != 4:
                continue
            combinations = itertools.product(*([ast.literal_eval(one) for one in values] for values in params))
            for parameters, value in zip(combinations, result.get_result_value(key, params), strict=True):
                if value is not None and not math.isnan(value):  # not failed, not skipped
                    yield Figure(result.commit_hash, n_threads, owner, kind, parameters, value)


def commits_in_order(found: list[Figure]) -> list[str]:
    """Return the commits that have figures, the oldest first."""
    command = ["git", "-C", str(HERE), "rev-list", "--reverse", "--topo-order", *{one.commit for one in found}]
    history = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    measured = {one.commit for one in found}
    return [commit for commit in history if commit in measured]


def table(found: list[Figure], commit: str) -> str:
    """Return the ratios of a commit as a Markdown table, one line a pass in float32."""
    rows: dict[tuple[Any, ...], dict[tuple[str, str], float]] = {}
    for one in found:
        operation, dtype, layout, name = one.parameters
        if one.commit == commit and dtype == "float32":
            key = (one.owner, name, layout, OPERATIONS.index(operation))
            rows.setdefault(key, {})[one.kind, one.n_threads] = one.value
    seen = {column for ratios in rows.values() for column in ratios}
    columns = sorted(seen, key=lambda column: (list(COLUMNS).index(column[0]), column[1]))
    heads = [f"{COLUMNS[kind]}, {n_threads} thr." for kind, n_threads in columns]
    lines = [
        f"| benchmark | shape | layout | pass | {' | '.join(heads)} |",
        "|---|---|---|---|" + "--:|" * len(heads),
    ]
    for key, ratios in sorted(rows.items()):
        owner, name, layout, operation = key
        numbers = [f"{ratios[column]:.2f}" if column in ratios else "" for column in columns]
        lines.append(f"| {' | '.join([f'`{owner}`', name, layout, OPERATIONS[operation], *numbers])} |")
    return f"Commit {commit[:10]}.\n\n" + "\n".join(lines) + "\n"


def draw_history(found: list[Figure], commits: list[str], path: Path) -> None:
    """Draw the ratio to a copy over the commits on most threads, for the cases of `noise`, a panel for each module."""
    most = max(one.n_threads for one in found)
    lines: dict[str, dict[str, dict[int, float]]] = {}
    for one in found:
        if one.kind == RATIO and one.n_threads == most and (one.owner, *one.parameters) in noise.CASES:
            module, _, name = one.owner.partition(".")
            operation, _, layout, shape = one.parameters
            line = lines.setdefault(module, {}).setdefault(f"{name} {operation}, {layout}, {shape}", {})
            line[commits.index(one.commit)] = one.value
    figure, panels = _panels(len(lines), width=6.5)
    for axes, (module, of_module) in zip(panels, sorted(lines.items()), strict=True):
        for color, (label, line) in zip(COLORS, sorted(of_module.items()), strict=False):
            axes.plot(*zip(*sorted(line.items()), strict=True), "o-", color=color, markersize=4, label=label)
        axes.axhline(1, color="gray", linestyle=":", linewidth=1)
        axes.set(title=f"{module}, {most} threads", ylim=(0, None))
        axes.set_xticks(range(len(commits)), [commit[:7] for commit in commits], rotation=60, fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    panels[0].set_ylabel("time ÷ time of a copy")
    figure.savefig(path, dpi=110)


def draw_noise(result: dict[str, Any], path: Path) -> None:
    """Draw every repeat over the median of its case: times, ratios, and ratios with the planted slow-down."""
    figure, panels = _panels(3, width=4.2, height=0.28 * len(result["series"]) + 1.6, sharey=True)
    titles = ("time of the pass", f"its ratio ({result['to']})", f"ratio, slowed down by {result['plant']:.0%}")
    labels = []
    for row, one in enumerate(result["series"]):
        owner, operation, _, layout, name = one["case"]
        labels.append(f"{owner.rpartition('.')[2]} {operation}, {layout}, {name}, {one['n_threads']} thr.")
        for axes, kind in zip(panels, ("seconds", "ratio", "planted"), strict=True):
            middle = noise.median(one["ratio" if kind == "planted" else kind])
            values = [value / middle for value in one[kind]]
            axes.plot(values, [row] * len(values), "|", color=COLORS[6], markersize=9)
    for axes, title in zip(panels, titles, strict=True):
        axes.axvline(1, color="gray", linestyle=":", linewidth=1)
        axes.set(title=title, xlabel="÷ median of the repeats", xlim=(0.75, 1.5))
    panels[0].set_yticks(range(len(labels)), labels, fontsize=7)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def _panels(n: int, width: float, height: float = 4.5, **options: Any) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + width * n, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, n, squeeze=False, **options)[0])


def main(arguments: list[str]) -> int:
    """Draw what there is to draw, and say what was written."""
    parser = argparse.ArgumentParser(prog="python benchmarks plots", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / ".asv" / "results", help="asv's results")
    parser.add_argument("--noise", type=Path, default=noise.STATIC / "tracking-noise.json", help="figures of noise")
    parser.add_argument("--output", type=Path, default=noise.STATIC, help="folder for plots and tables")
    options = parser.parse_args(arguments)
    written = []
    found = list(figures(options.results)) if options.results.is_dir() else []
    if found:
        commits = commits_in_order(found)
        written += [options.output / "tracking.png", options.output / "tracking.txt"]
        draw_history(found, commits, written[-2])
        written[-1].write_text(table(found, commits[-1]), encoding="utf-8")
    if options.noise.is_file():
        result = json.loads(options.noise.read_text(encoding="utf-8"))
        written += [options.output / "tracking-noise.png", options.output / "tracking-noise.txt"]
        draw_noise(result, written[-2])
        written[-1].write_text(noise.table(result), encoding="utf-8")
    print("Written:", *written or ["nothing; there are no results"])
    return 0 if written else 1
