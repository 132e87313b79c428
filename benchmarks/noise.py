"""Measure one commit again and again: how far figures spread, and whether a planted slow-down is told from that.

Each measurement has a process of its own, as under asv, and so has the same pass slowed down on purpose. The steps are
looked for by asv's own code, in histories of the measured values in several orders, with the least threshold at which
it is silent about noise.
"""

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

STATIC = Path(__file__).resolve().parent.parent / "docs" / "_static"
LEAST = 0.05  # smallest threshold that is worth having
FACTOR = 1.1  # by which `asv compare` and `asv continuous` tell two commits apart, unless told otherwise
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


def measure_here(index: int, to: str) -> dict[str, float]:
    """Measure one case in this process."""
    from .protocol import measure

    owner, *parameters = CASES[index]
    module, _, name = owner.partition(".")
    passes = getattr(importlib.import_module(f"benchmarks.{module}"), name)()
    passes.setup(*parameters)
    pairs = measure(passes.call, *passes.references(to))
    return {"seconds": median(own for own, _ in pairs), "ratio": median(own / other for own, other in pairs)}


def _measure(index: int, to: str, n_threads: int, planted: float) -> dict[str, float]:
    """Measure one case in a fresh process."""
    env = os.environ | {"NUMBA_NUM_THREADS": str(n_threads), "NORMDROP_BENCH_PLANT": str(planted)}
    command = [sys.executable, str(Path(__file__).parent), "noise", "--to", to, "--case", str(index)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def deviation(values: list[float]) -> float:
    """Return the largest relative distance from the median."""
    middle = median(values)
    return max(abs(value / middle - 1) for value in values)


def orders(values: list[float]) -> list[list[float]]:
    """Return the values in orders in which they might have come: rotated, and backward."""
    rotated = [values[i:] + values[:i] for i in range(len(values))]
    return rotated + [one[::-1] for one in rotated]


def reported(history: list[float], threshold: float) -> bool:
    """Tell whether asv would report a regression in a history of one value per commit."""
    from asv.step_detect import detect_regressions, detect_steps

    return bool(detect_regressions(detect_steps(history), threshold)[2])


def thresholds(series: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Return a threshold for each class of benchmarks: the least, in hundredths, at which noise is never reported."""
    found: dict[str, float] = {}
    for one in series:
        owner = one["case"][0]
        limit = found.get(owner, LEAST)
        while any(reported(history, limit) for history in orders(one[kind])):
            limit = round(limit + 0.01, 2)
        found[owner] = limit
    return found


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
    head += ["steps in noise", "steps found", "pairs differ in noise", "pairs found"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * (len(head) - 2)]
    for one in result["series"]:
        owner, *parameters = one["case"]
        limit, plain, slowed = limits[owner], one["ratio"], one["planted"]
        histories = [history + slowed for history in orders(plain) if slowed]
        cells = [
            f"`{owner}`",
            ", ".join(parameters),
            one["n_threads"],
            f"{1e3 * median(one['seconds']):.3g}",
            f"{deviation(one['seconds']):.1%}",
            f"{median(plain):.3g}",
            f"{deviation(plain):.1%}",
            f"{limit:.0%}",
            _share([reported(history, limit) for history in orders(plain)]),
            _share([reported(history, limit) for history in histories]),
            _share([after > FACTOR * before for before, after in itertools.permutations(plain, 2)]),
            _share([after > FACTOR * before for before, after in itertools.product(plain, slowed)]),
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
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case is not None:
        print(json.dumps(measure_here(options.case, options.to)))
        return 0
    repeats = 3 if options.quick else options.repeats
    indices = range(0, len(CASES), 5) if options.quick else range(len(CASES))
    series = [
        {"case": CASES[i], "n_threads": n, "seconds": [], "ratio": [], "planted": []}
        for i in indices
        for n in options.threads
    ]
    for repeat in range(repeats):  # the same case never twice in a row, so that drifts of the machine show
        for one in series:
            what = CASES.index(one["case"]), options.to, one["n_threads"]
            plain = _measure(*what, 0.0)
            one["seconds"].append(plain["seconds"])
            one["ratio"].append(plain["ratio"])
            if options.plant:
                one["planted"].append(_measure(*what, options.plant)["ratio"])
        print(f"{repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    machine = {"cpu": cpu_name(), "n_cpus": os.cpu_count()}
    result = {"machine": machine, "to": options.to, "plant": options.plant, "series": series}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    print('For asv.conf.json, "regressions_thresholds":')
    print(json.dumps(for_config(series), indent=2))
    print(f"Written: {options.output}")
    return 0
