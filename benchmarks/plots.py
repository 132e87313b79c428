"""Write what the pages show of asv's results and of `noise`: tables, and numbers that docs/_ext/tracking.py draws."""

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
HISTORY = HERE.parent / "docs" / "_results" / "tracking.json"
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


def history(found: list[Figure], commits: list[str]) -> str:
    """Return the ratios to a copy by commit on most threads, for the cases of `noise`, as JSON, a line a case."""
    most = max(one.n_threads for one in found)
    chosen = [one for one in found if (one.kind, one.n_threads) == (RATIO, most)]
    lines = []
    for case in noise.CASES:
        ratios = {one.commit: round(one.value, 3) for one in chosen if (one.owner, *one.parameters) == case}
        if ratios:
            lines.append(json.dumps({"case": case, "ratios": [ratios.get(commit) for commit in commits]}))
    head = json.dumps({"commits": [commit[:7] for commit in commits], "n_threads": most})
    return f'{head[:-1]},\n"lines": [\n' + ",\n".join(lines) + "\n]}\n"


def main(arguments: list[str]) -> int:
    """Write what there is to write, and say where."""
    parser = argparse.ArgumentParser(prog="python benchmarks plots", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / ".asv" / "results", help="asv's results")
    parser.add_argument("--noise", type=Path, default=noise.STATIC / "tracking-noise.json", help="figures of noise")
    parser.add_argument("--output", type=Path, default=noise.STATIC, help="folder for tables")
    parser.add_argument("--history", type=Path, default=HISTORY, help="file for the numbers of the plot by commit")
    options = parser.parse_args(arguments)
    written = []
    found = list(figures(options.results)) if options.results.is_dir() else []
    if found:
        commits = commits_in_order(found)
        written += [options.history, options.output / "tracking.txt"]
        written[-2].write_text(history(found, commits), encoding="utf-8")
        written[-1].write_text(table(found, commits[-1]), encoding="utf-8")
    if options.noise.is_file():
        result = json.loads(options.noise.read_text(encoding="utf-8"))
        written.append(options.output / "tracking-noise.txt")
        written[-1].write_text(noise.table(result), encoding="utf-8")
    print("Written:", *written or ["nothing; there are no results"])
    return 0 if written else 1
