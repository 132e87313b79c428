"""The tables on the screen and the results file."""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from normdrop.demo.experiments import CONVERGED, NETWORKS, TARGET, Study
from normdrop.demo.layers import Array
from normdrop.demo.networks import VARIANTS
from normdrop.demo.train import BATCH
from normdrop.demo.verdicts import LEVEL, Verdict

COLORS = {"seen": "green", "not seen": "yellow", "opposite seen": "red"}


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
    for table in (_comparison(study), _learning_rates(study), _verdicts(verdicts, study.settings.n_splits)):
        console.print()
        console.print(table)


def _mean(values: Array, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ± {stats.sem(values):.{digits}f}"


def _comparison(study: Study) -> Table:
    s = study.settings
    lengths = " and ".join(f"{s.epochs[network]} ({network})" for network in NETWORKS)
    table = Table(
        title=f"Handwritten digits, {s.few} for training, {s.n_splits} random splits, batches of {BATCH}",
        caption=f"mean ± standard error over the splits, after {lengths} epochs",
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
        title=f"Test error in % after {s.rate_steps} steps at a constant learning rate",
        caption=f"in brackets: more than {CONVERGED:g} % in some split; guessing makes 90 %",
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


def _verdicts(verdicts: list[Verdict], n_splits: int) -> Table:
    limit = stats.t.ppf(1 - LEVEL / 2, n_splits - 1)
    table = Table(
        title="Claims of the literature, and what was measured here",
        caption=f"t: mean of the {n_splits} paired differences over its standard error; seen: t > {limit:.2f}, "
        f"Student's t at the two-sided {LEVEL:.0%} level",
    )
    table.add_column("claim")
    table.add_column("without -> with", justify="right", no_wrap=True)
    table.add_column("t", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        table.add_row(f"[bold]{claim}[/]")
        cases = list(group)
        for verdict in cases:
            shape = ".2f" if verdict.unit == "%" else ".3g"
            unit = f" {verdict.unit}" if verdict.unit else ""
            measured = f"{verdict.before:{shape}}{unit} -> {verdict.after:{shape}}{unit}"
            finding = f"[{COLORS[verdict.finding]}]{verdict.finding}[/]"
            table.add_row(f"  {verdict.case}", measured, f"{verdict.t:.1f}", finding, end_section=verdict is cases[-1])
    return table


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
