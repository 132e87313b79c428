"""The tables: the same rows for the screen and for the Markdown file."""

from collections.abc import Iterator
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from normdrop.bench.cases import PASSES
from normdrop.bench.shapes import Shape
from normdrop.bench.sides import OURS
from normdrop.bench.study import ALL, BESIDE, COPY, ONE, Measurement, Study, bytes_of

LEGEND = (
    "Medians; ratios are medians of the ratios within a round. ÷ copy: time of normdrop over that of a copy of the "
    "input; allocating: the same without out=; ÷ dropout: over that of dropout with p = 0.5. The columns of other "
    "libraries: their time over normdrop's with out=."
)


class Table(NamedTuple):
    """A table of texts.

    Attributes
    ----------
    title : str
        What it shows.
    header : list of str
        Names of the columns; the first two hold words, the others numbers.
    rows : list of list of str
        The cells.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(study: Study) -> Iterator[Table]:
    """Make the tables of a study.

    Parameters
    ----------
    study : Study
        One that was carried out.

    Yields
    ------
    Table
        One for each name of families, and one for the threads.
    """
    for name in dict.fromkeys(family.name for family in study.settings.families):
        measured = [m for m in study.measurements if m.case.family == name]
        if measured:
            # No column for a library that took part in none of them.
            peers = [peer.name for peer in study.peers if any(peer.name in m.seconds for m in measured)]
            beside = [BESIDE] if any(BESIDE in m.seconds for m in measured) else []
            header = ["pass", "shape", "normdrop, µs", "÷ copy", "allocating ÷ copy", *(f"÷ {x}" for x in beside)]
            yield Table(f"{name}, float32", [*header, *peers], [_row(m, beside, peers) for m in _by_pass(measured)])
    if study.speedups:
        header = ["pass", "shape", "place", "one thread, µs", f"{study.n_threads} threads, µs", "speed-up"]
        rows = [_speedup(measurement) for measurement in _by_pass(study.speedups)]
        yield Table("threads, float32", header, rows)


def _by_pass(measurements: list[Measurement]) -> list[Measurement]:
    return sorted(measurements, key=lambda measurement: PASSES.index(measurement.case.operation))


def _row(measurement: Measurement, beside: list[str], peers: list[str]) -> list[str]:
    ours, allocating = OURS
    ratios = [(ours, COPY), (allocating, COPY), *((ours, side) for side in beside), *((peer, ours) for peer in peers)]
    cells = [number(measurement.microseconds(ours))]
    for side, to in ratios:
        there = measurement.seconds.keys() >= {side, to}
        cells.append(number(measurement.ratio(side, to).middle, 2) if there else "-")
    return [measurement.case.operation.name, lengths(measurement.case.shape), *cells]


def _speedup(measurement: Measurement) -> list[str]:
    case = measurement.case
    numbers = [number(measurement.microseconds(side)) for side in (ONE, ALL)]
    numbers.append(number(measurement.ratio(ONE, ALL).middle, 2))
    return [case.operation.name, lengths(case.shape), case.family, *numbers]


def lengths(shape: Shape) -> str:
    """Write a shape.

    Parameters
    ----------
    shape : tuple of int
        The shape.

    Returns
    -------
    str
        Such as "32×64×56×56".
    """
    return "×".join(map(str, shape))


def number(value: float, digits: int = 1) -> str:
    """Write a number.

    Parameters
    ----------
    value : float
        The number.
    digits : int, default 1
        Decimals of numbers below 10; larger ones have fewer.

    Returns
    -------
    str
        At least three digits where there are so many.
    """
    digits = digits if value < 10 else min(digits, 1) if value < 100 else 0
    return f"{value:.{digits}f}"


def remarks(study: Study, missing: dict[str, str]) -> Iterator[str]:
    """List who could not take part, and what was too large.

    Parameters
    ----------
    study : Study
        One that was carried out.
    missing : dict of str to str
        Names of libraries, and why they were left out.

    Yields
    ------
    str
        A sentence for each.
    """
    for name, reason in missing.items():
        yield f"Not measured: {name}: {reason}."
    for case, name, reason in study.failures:
        yield f"Not measured: {name}, {case.operation.name} {lengths(case.shape)}: {reason}."
    for shape in dict.fromkeys(case.shape for case in study.left_out):
        cases = [case for case in study.left_out if case.shape == shape]
        names = ", ".join(dict.fromkeys(case.operation.name for case in cases))
        needed, there = (number(size / 1e9) for size in (bytes_of(cases[0]), study.available))
        yield f"Not measured: {lengths(shape)} ({names}): needs {needed} GB of memory; available are {there} GB."


def print_tables(study: Study, console: Console) -> None:
    """Print the tables.

    Parameters
    ----------
    study : Study
        One that was carried out.
    console : rich.console.Console
        Where to print.
    """
    for table in tables(study):
        shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(table.header):
            shown.add_column(name, justify="left" if i < 2 else "right", no_wrap=i > 0 and " " not in name)
        previous = ""
        for cells in table.rows:
            shown.add_row(*("" if cells[0] == previous else cells[0], *cells[1:]))
            previous = cells[0]
        console.print()
        console.print(shown)


def markdown(study: Study, machine: str, missing: dict[str, str]) -> str:
    """Write the tables as Markdown.

    Parameters
    ----------
    study : Study
        One that was carried out.
    machine : str
        The line about the machine.
    missing : dict of str to str
        Names of libraries, and why they were left out.

    Returns
    -------
    str
        The text of a file.
    """
    parts = [machine, LEGEND, *remarks(study, missing)]
    for table in tables(study):
        rows = [table.header, ["---" if i < 2 else "---:" for i in range(len(table.header))], *table.rows]
        parts.append(f"**{table.title}**")
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
    return "\n\n".join(parts) + "\n"
