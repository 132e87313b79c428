"""Measure one commit again and again: how far figures spread, and whether a planted slow-down is told from that.

Each measurement has a process of its own, as under asv, and so has the same pass slowed down on purpose. The steps are
looked for by asv's own code, in histories drawn from the measured values, with the least threshold at which it is
silent about noise.
"""

import argparse
import itertools
import json
import os
import random
import sys
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from .one import in_new_process

STATIC = Path(__file__).resolve().parent.parent / "docs" / "_static"
LEAST = 0.05  # smallest threshold that is worth having
COMMITS = 40  # of a history before a slow-down, and at most after it
HISTORIES = 10
MARGIN = 2  # what asv.conf.json has, over the thresholds: short histories know noise less
FACTOR = 1.1  # by which `asv compare` and `asv continuous` tell two commits apart, unless told otherwise
PROCESSES = 5  # of which `nox -s bench-compare` takes the median
IMAGES, LAST, ROWS = ("float32", "channels first"), ("float32", "channels last"), ("float32", "C order")
CASES = [
    ("dropout.Dropout", "forward", *ROWS, "BERT hidden 64x128x768"),
    ("dropout.Dropout", "forward", *ROWS, "MLP 128x1024"),
    ("dropout.ImageDropout", "forward", *LAST, "maps 16x256x56x56"),
    ("dropout.ChannelDropout", "forward", *IMAGES, "maps 16x256x56x56"),
    ("batch_norm.BatchNorm", "forward", *IMAGES, "ResNet-18 and 50 32x64x56x56"),
    ("batch_norm.BatchNorm", "backward", *IMAGES, "ResNet-18 and 50 32x64x56x56"),
    ("batch_norm.BatchNorm", "forward", *LAST, "ResNet-50 32x512x28x28"),
    ("batch_norm.BatchNormRows", "backward", *ROWS, "table 1000000x8"),
    ("batch_norm.BatchNormInference", "inference", *ROWS, "one image 1x64x112x112"),
]


def deviation(values: list[float]) -> float:
    """Return the largest relative distance from the median."""
    middle = median(values)
    return max(abs(value / middle - 1) for value in values)


def histories(values: list[float]) -> list[list[float]]:
    """Return histories of one value per commit, drawn from the measured ones: the same for the same values."""
    return [random.Random(seed).choices(values, k=COMMITS) for seed in range(HISTORIES)]


def reported(history: list[float], threshold: float) -> bool:
    """Tell whether asv would report a regression in a history of one value per commit."""
    from asv.step_detect import detect_regressions, detect_steps

    return bool(detect_regressions(detect_steps(history), threshold)[2])


def thresholds(series: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Return a threshold for each class of benchmarks: the least, in hundredths, at which noise is not reported."""
    found: dict[str, float] = {}
    for one in series:
        owner = one["case"][0]
        limit = found.get(owner, LEAST)
        while any(reported(history, limit) for history in histories(one[kind])):
            limit = round(limit + 0.01, 2)
        found[owner] = limit
    return found


def medians(values: list[float]) -> list[float]:
    """Return what `nox -s bench-compare` might measure: medians of as many processes as it starts."""
    return [median(random.Random(seed).choices(values, k=PROCESSES)) for seed in range(HISTORIES)]


def delays(one: dict[str, Any], threshold: float) -> list[float]:
    """Return, for each history, after how many slower commits asv reports them; infinite if not within as many."""

    def delay(history: list[float], slower: list[float]) -> float:
        return next((n for n in range(2, COMMITS + 1) if reported(history + slower[:n], threshold)), inf)

    return [delay(*both) for both in zip(histories(one["ratio"]), histories(one["planted"]), strict=True)]


def for_config(series: list[dict[str, Any]]) -> dict[str, float]:
    """Return the thresholds as asv.conf.json has them."""
    found = {f"{owner}.track_.*": limit for owner, limit in thresholds(series, "ratio").items()}
    return found | {f"{owner}.time_.*": limit for owner, limit in thresholds(series, "seconds").items()}


def _share(flags: list[bool]) -> str:
    return f"{sum(flags)} of {len(flags)}" if flags else ""


def table(result: dict[str, Any]) -> str:
    """Return the outcome as a Markdown table, one line a case."""
    limits = thresholds(result["series"], "ratio")
    head = ["benchmark", "parameters", "threads", "time, ms", "±", "ratio", "±", "threshold"]
    head += ["steps in noise", "found after", "at the latest", "pairs differ in noise", "pairs found"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * (len(head) - 2)]
    for one in result["series"]:
        owner, *parameters = one["case"]
        limit, plain, slowed = limits[owner], one["ratio"], one["planted"]
        found = delays(one, MARGIN * limit) if slowed else []
        cells = [
            f"`{owner}`",
            ", ".join(parameters),
            one["n_threads"],
            f"{1e3 * median(one['seconds']):.3g}",
            f"{deviation(one['seconds']):.1%}",
            f"{median(plain):.3g}",
            f"{deviation(plain):.1%}",
            f"{limit:.0%}",
            _share([reported(history, limit) for history in histories(plain)]),
            *(f"{n:.0f}" if n < inf else f"over {COMMITS}" for n in ((median(found), max(found)) if found else ())),
            _share([after > FACTOR * before for before, after in itertools.permutations(medians(plain), 2)]),
            _share([b > FACTOR * a for a, b in itertools.product(medians(plain), medians(slowed))] if slowed else []),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    repeats, machine = len(result["series"][0]["ratio"]), result["machine"]
    where = f"{repeats} repeats on {machine['cpu']} with {machine['n_cpus']} cores; ratios to {result['to']}; "
    return f"{where}slow-down of {result['plant']:.0%}.\n\n" + "\n".join(lines) + "\n"


def cpu_name() -> str:
    """Return LLVM's name of this machine's processor."""
    import llvmlite.binding

    return llvmlite.binding.get_host_cpu_name()


def main(arguments: list[str]) -> int:
    """Measure, show the table and the thresholds, and save everything."""
    parser = argparse.ArgumentParser(prog="python benchmarks noise", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="measurements of each case (10)")
    parser.add_argument("--plant", type=float, default=0.0, metavar="FRACTION", help="slow down by this, such as 0.2")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (1 2)")
    parser.add_argument("--to", choices=("copy", "numpy", "torch"), default="copy", help="what the ratio is to (copy)")
    parser.add_argument("--quick", action="store_true", help="3 repeats of 3 cases, to see that it works")
    parser.add_argument("--output", type=Path, default=STATIC / "tracking-noise.json", help="file for all figures")
    options = parser.parse_args(arguments)
    repeats = 3 if options.quick else options.repeats
    indices = range(0, len(CASES), 5) if options.quick else range(len(CASES))
    series = [
        {"case": CASES[i], "n_threads": n, "seconds": [], "ratio": [], "planted": []}
        for i in indices
        for n in options.threads
    ]
    for repeat in range(repeats):  # the same case never twice in a row, so that drifts of the machine show
        for one in series:
            owner, *parameters = one["case"]

            def measure(planted: float, n: int = one["n_threads"], what: tuple = (owner, parameters)) -> dict:
                env = {"NUMBA_NUM_THREADS": str(n), "NORMDROP_BENCH_PLANT": str(planted)}
                return in_new_process(*what, options.to, **env)

            plain = measure(0.0)
            one["seconds"].append(plain["seconds"])
            one["ratio"].append(plain["ratio"])
            if options.plant:
                one["planted"].append(measure(options.plant)["ratio"])
        print(f"{repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    machine = {"cpu": cpu_name(), "n_cpus": os.cpu_count()}
    result = {"machine": machine, "to": options.to, "plant": options.plant, "series": series}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    print(f'For asv.conf.json, "regressions_thresholds", times {MARGIN}:')
    print(json.dumps(for_config(series), indent=2))
    print(f"Written: {options.output}")
    return 0
