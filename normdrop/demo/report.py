"""The tables on the screen and the results file."""

import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from scipy import stats

from normdrop.demo.experiments import CONVERGED, NETWORKS, TARGET, Study
from normdrop.demo.layers import Array
from normdrop.demo.networks import VARIANTS
from normdrop.demo.settings import FULL
from normdrop.demo.train import BATCH
from normdrop.demo.verdicts import LEVEL, Verdict, bound

if TYPE_CHECKING:
    from rich.console import JustifyMethod

WORDS = {
    "seen": "[green]yes[/]",
    "not seen": "[yellow]can't tell[/]",
    "opposite seen": "[red]no, reversed[/]",
}  # whether a claim holds here


def print_tables(study: Study, verdicts: list[Verdict], console: Console) -> None:
    """Print what was measured and what it says.

    Parameters
    ----------
    study : Study
        A study that was carried out.
    verdicts : list of Verdict
        What it says.
    console : rich.console.Console
        Where to print.
    """
    for table in (_comparison(study), _learning_rates(study), _verdicts(verdicts)):
        console.print()
        console.print(table)


def _mean(values: Array, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ± {stats.sem(values):.{digits}f}"


def _comparison(study: Study) -> Table:
    s = study.settings
    lengths = " and ".join(f"{s.epochs[network]} ({network})" for network in NETWORKS)
    table = Table(
        title=f"Handwritten digits, {s.few} for training, {s.n_splits} random splits, batches of {BATCH}",
        caption=f"mean ± standard error over the splits,\nafter {lengths} epochs",
    )
    table.add_column("network")
    table.add_column("variant")
    table.add_column("test error, %", justify="right")
    table.add_column(f"epochs to {TARGET:g} % error", justify="right")
    for network in NETWORKS:
        for variant in VARIANTS:
            runs = study.on_few_digits(network, variant)
            epochs = study.steps_to(runs, np.full(len(runs), TARGET)) / (s.few // BATCH)
            reached = epochs[np.isfinite(epochs)]
            to_target = _mean(reached, 1) if len(reached) > 1 else "-"
            if len(reached) < len(epochs):
                to_target += f" (in {len(reached)} of {len(epochs)})"
            last = variant == VARIANTS[-1]
            table.add_row(network, variant, _mean(study.errors(runs)[:, -1]), to_target, end_section=last)
    return table


def _learning_rates(study: Study) -> Table:
    s = study.settings
    table = Table(
        title=f"Test error in %, {s.rate_steps} steps at a constant learning rate",
        caption=f"in brackets: more than {CONVERGED:g} % in some split;\nguessing makes 90 %",
    )
    table.add_column("network")
    table.add_column("variant")
    for rate in s.rates:
        table.add_column(f"{rate:g}", justify="right")
    for network in NETWORKS:
        for variant in ("plain", "batch norm"):
            cells = []
            for rate in s.rates:
                errors = study.errors(study.at_rate(network, variant, rate))[:, -1]
                converged = errors.max() <= CONVERGED
                cells.append(f"[green]{errors.mean():.1f}[/]" if converged else f"[red]({errors.mean():.0f})[/]")
            table.add_row(network, variant, *cells, end_section=variant == "batch norm")
    return table


def _verdicts(verdicts: list[Verdict]) -> RenderableType:
    head = _lines()
    head.add_row("", "without -> with", "better in", "t", "holds?", style="dim")
    rows: list[RenderableType] = ["[italic]Claims of the literature, and whether they hold here[/]", head]
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        lines = _lines()
        for verdict in group:
            shape = {"%": ".2f", "steps": ".0f"}.get(verdict.unit, ".3g")
            measured = f"{verdict.before:{shape}} -> {verdict.after:{shape}} {verdict.unit}".rstrip()
            t = f"{verdict.t:{'.1f' if abs(verdict.t) < 1000 else '.0e'}}"  # of few splits it can be anything
            better = f"{verdict.n_better} of {verdict.n_pairs}"
            lines.add_row(f"  {verdict.case}", measured, better, t, WORDS[verdict.finding])
        rows += [f"[bold]{claim}[/]", lines]
    return Group(*rows, "", explain(verdicts))


def _lines() -> Table:
    """Make columns as wide in every table: each claim has one, so that it can stand in one line above it."""
    table = Table.grid(padding=(0, 1))
    for width, justify in ((31, "left"), (18, "right"), (9, "right"), (6, "right"), (13, "left")):
        table.add_column(width=width, justify=cast("JustifyMethod", justify))
    return table


def explain(verdicts: list[Verdict]) -> str:
    """Say how many claims hold, and what the columns of their table mean.

    Parameters
    ----------
    verdicts : list of Verdict
        All on as many splits.

    Returns
    -------
    str
        Some sentences.
    """
    counts = Counter(verdict.finding for verdict in verdicts)
    n = verdicts[0].n_pairs
    text = (
        f"Of {len(verdicts)} comparisons: {counts['seen']} yes, {counts['opposite seen']} no, {counts['not seen']} "
        "can't tell, which is not a no.\n"
        f"Without and with are compared on the same {n} splits; better in: on how many of them with was better. t: the "
        "mean difference over its standard error, that is, how far it stands out of the scatter between splits; yes: "
        f"above {bound(n):.2f}; no: below -{bound(n):.2f}. Where there is no difference, chance alone takes t beyond "
        f"that about once in {1 / LEVEL:.0f} comparisons (Student's t)."
    )
    if any(np.isinf(verdict.t) for verdict in verdicts):
        text += " inf: the same difference on every split."
    if n < FULL.n_splits:
        text += (
            f"\nThis is a taste: {n} splits settle little. The {FULL.n_splits} splits of a run without --quick, which "
            f"trains longer, too, lower the bound to {bound(FULL.n_splits):.2f}."
        )
    return text


def write_results(study: Study, verdicts: list[Verdict], path: Path) -> None:
    """Write all measurements and verdicts as JSON.

    Parameters
    ----------
    study : Study
        A study that was carried out.
    verdicts : list of Verdict
        What it says.
    path : Path
        File to write.
    """
    results = {
        "seed": study.seed,
        "settings": vars(study.settings),
        "verdicts": [vars(verdict) | {"t": verdict.t if np.isfinite(verdict.t) else None} for verdict in verdicts],
        "runs": [vars(run) | study.outcome(run)._asdict() for run in study.runs()],
    }
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
