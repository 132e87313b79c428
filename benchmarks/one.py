"""Measure one pass in a process of its own: ``python benchmarks one CLASS OPERATION DTYPE LAYOUT SHAPE``."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def in_new_process(owner: str, parameters: Sequence[str], to: str = "copy", **env: str) -> dict[str, float]:
    """Return median seconds and ratio of one pass, such as of "dropout.Dropout", measured in a fresh process."""
    command = [sys.executable, str(Path(__file__).parent), "one", owner, *parameters, "--to", to]
    done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> int:
    """Measure in this process and print the outcome as JSON."""
    from .protocol import OTHER, OWN, measure

    parser = argparse.ArgumentParser(prog="python benchmarks one", description=__doc__.splitlines()[0])
    parser.add_argument("owner", help="module and class, such as dropout.Dropout")
    parser.add_argument("parameters", nargs="+", help="as asv shows them")
    parser.add_argument("--to", choices=("copy", "numpy", "torch"), default="copy", help="what the ratio is to (copy)")
    options = parser.parse_args(arguments)
    module, _, name = options.owner.partition(".")
    passes = getattr(importlib.import_module(f"benchmarks.{module}"), name)()
    passes.setup(*options.parameters)
    times = measure(passes.call, *passes.references(options.to))
    print(json.dumps({"seconds": times.microseconds(OWN) / 1e6, "ratio": times.ratio(OWN, OTHER).middle}))
    return 0
