"""The command ``python -m normdrop demo``: train with a progress bar, print the tables, write the files."""

import math
import os
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from normdrop.demo.agreement import compare, judge_time, plot_agreement, print_agreement
from normdrop.demo.experiments import Study
from normdrop.demo.networks import use_gpu
from normdrop.demo.plot import plot
from normdrop.demo.report import print_tables, write_results
from normdrop.demo.settings import Settings
from normdrop.demo.verdicts import judge_all


def run(settings: Settings, seed: int, output: Path, *, gpu: bool = False) -> None:
    """Carry out a study, show it and save it.

    Parameters
    ----------
    settings : Settings
        How much to train.
    seed : int
        Where all randomness comes from.
    output : Path
        An existing folder for ``results.json``, ``plot.png`` and ``fast-dropout.png``.
    gpu : bool, default False
        Whether normdrop's layers run on a GPU; everything then runs in this process.
    """
    use_gpu(gpu)
    start = time.perf_counter()
    console = Console()
    study = Study(settings, seed)
    n_processes = 1 if gpu else _count_cores()
    console.print(announce(study, n_processes), highlight=False)
    console.print()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=len(study.runs()))
        study.carry_out(n_processes, done=lambda: progress.advance(task))
    found, faster = compare(study), judge_time(study)
    verdicts = judge_all(study)
    print_tables(study, verdicts, console)
    print_agreement(found, faster, console)
    write_results(study, [*verdicts, faster], output / "results.json")
    plot(study, output / "plot.png")
    plot_agreement(found, output / "fast-dropout.png")
    console.print()
    plots = f"{output / 'plot.png'} and {output / 'fast-dropout.png'}"
    console.print(f"Plots: {plots}, all numbers: {output / 'results.json'}", soft_wrap=True, markup=False)
    console.print(f"Elapsed: {time.perf_counter() - start:.1f} s", highlight=False)


def announce(study: Study, n_processes: int) -> str:
    """Say what will be shown, and how long it takes.

    Parameters
    ----------
    study : Study
        The study.
    n_processes : int
        On how many cores it will be carried out.

    Returns
    -------
    str
        Two sentences.
    """
    seconds = study.settings.seconds / n_processes + 3  # for the start and the plots
    time = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{10 * math.ceil(seconds / 10)} seconds"
    cores = "one core" if n_processes == 1 else f"{n_processes} cores"
    return (
        f"{len(study.runs())} small networks learn handwritten digits, without and with dropout and batch norm: test "
        f"errors, plots, and which claims of the literature hold here. About {time} on {cores}; a first run also "
        "compiles kernels."
    )


def _count_cores() -> int:
    """Count the cores that this process may use, up to 4: more would finish no sooner than their start takes."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 4)
