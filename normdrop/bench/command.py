"""The command ``python -m normdrop bench``: measure with a progress bar, print the tables, write the files."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from normdrop._cpu.toolchain import launch
from normdrop.bench.peers import ENTRIES, find
from normdrop.bench.plot import plot
from normdrop.bench.report import LEGEND, markdown, print_tables, remarks
from normdrop.bench.results import machine_line, results
from normdrop.bench.settings import Settings
from normdrop.bench.study import Study


def run(
    settings: Settings, output: Path, *, peers: Sequence[str] | None = None, only: str = "", as_json: bool = False
) -> None:
    """Carry out a study, show it and save it.

    Parameters
    ----------
    settings : Settings
        What to measure.
    output : Path
        An existing folder for ``results.json``, ``table.md`` and ``plot.png``.
    peers : sequence of str, optional
        Keys of the libraries to measure beside normdrop; by default those of the settings.
    only : str, default ""
        Part of the names of the passes to measure.
    as_json : bool, default False
        Whether to print the numbers as JSON instead of the tables.
    """
    start = time.perf_counter()
    found, missing = find(settings.peers if peers is None else peers, launch.threads())
    if peers is None:
        missing |= {
            ENTRIES[key].name: f"it takes too long for --quick; --peers {','.join((*settings.peers, key))} asks for it"
            for key in ENTRIES
            if key not in settings.peers
        }
    study = Study(settings, found, only)
    _carry_out(study)
    collected = json.dumps(results(study, missing), indent=1, allow_nan=False)
    line = machine_line(study)
    written = [output / "results.json", output / "table.md"]
    written[0].write_text(collected + "\n", encoding="utf-8")
    written[1].write_text(markdown(study, line, missing), encoding="utf-8")
    if plot(study, output / "plot.png"):
        written.append(output / "plot.png")
    if as_json:
        print(collected)
        return
    # A file or a pipe has no width that the tables must fit.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
    print_tables(study, console)
    console.print()
    for text in (line, LEGEND, *remarks(study, missing)):
        console.print(text)
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)
    console.print(f"Elapsed: {time.perf_counter() - start:.1f} s")


def _carry_out(study: Study) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=len(study.cases) + len(study.on_threads))
        study.carry_out(done=lambda: progress.advance(task))
