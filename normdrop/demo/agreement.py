"""Fast dropout beside masks: how close mean and variance come, and the time that both take."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from normdrop.demo.experiments import NETWORKS, Study, _one_thread
from normdrop.demo.fast_dropout import propagate
from normdrop.demo.layers import Array
from normdrop.demo.report import WORDS
from normdrop.demo.train import load, trained
from normdrop.demo.verdicts import Verdict, judge

N_DIGITS = 100
MASKS_PER_PASS = 20  # that the study averages
CASES = {"dropout": "dropout", "both": "dropout and batch norm"}


class Agreement(NamedTuple):
    """Of one trained network, over some test digits.

    Attributes
    ----------
    mean, std : ndarray, shape (N_DIGITS, 10)
        Of the logits, by one pass of fast dropout.
    logits : ndarray, shape (n_masks, N_DIGITS, 10)
        Of thinned networks.
    seconds : tuple of float
        Of one pass of fast dropout, and of all thinned networks.
    """

    mean: Array
    std: Array
    logits: Array
    seconds: tuple[float, float]

    @property
    def shift(self) -> Array:
        """Difference of the means, in standard deviations over the masks."""
        difference: Array = (self.mean - self.logits.mean(axis=0)) / self.logits.std(axis=0)
        return difference

    @property
    def ratio(self) -> Array:
        """Ratio of the standard deviations."""
        ratio: Array = self.std / self.logits.std(axis=0)
        return ratio


def compare(study: Study) -> dict[str, Agreement]:
    """Train a network with each kind of dropout of `CASES` by masks, and compute the moments of its logits both ways.

    Parameters
    ----------
    study : Study
        Whose settings to use.

    Returns
    -------
    dict of str to Agreement
        One for each of `CASES`.
    """
    digits = load()
    with _one_thread():
        return {variant: _compare(study, variant, digits) for variant in CASES}


def _compare(study: Study, variant: str, digits: Any) -> Agreement:
    run = study.on_few_digits(NETWORKS[0], variant)[0]
    network, _ = trained(run, digits)
    images = digits.images[run.rng("split").permutation(len(digits.labels))[run.n_train :][:N_DIGITS]]
    n_masks = MASKS_PER_PASS * study.settings.n_passes
    network.thin()
    propagate(network.layers, images)  # the first time, functions are imported
    start = time.process_time()
    moments, _ = propagate(network.layers, images)
    middle = time.process_time()
    logits = np.stack([network.forward(images) for _ in range(n_masks)])
    seconds = middle - start, time.process_time() - middle
    assert moments.var is not None
    return Agreement(moments.mean, np.sqrt(moments.var), logits, seconds)


def judge_time(study: Study) -> Verdict:
    """Judge whether training by fast dropout took less processor time than by masks.

    Parameters
    ----------
    study : Study
        A study that was carried out.

    Returns
    -------
    Verdict
        By the processor time of the same number of steps on each split, which differs from run to run.
    """
    runs = study.on_few_digits(NETWORKS[0], "dropout"), study.by_fast_dropout()
    seconds = (np.array([study.outcome(run).seconds for run in group]) for group in runs)
    return judge("fast dropout trains in less processor time", "fully connected", *seconds, unit="s")


def print_agreement(found: dict[str, Agreement], verdict: Verdict, console: Console) -> None:
    """Print what was measured.

    Parameters
    ----------
    found : dict of str to Agreement
        What `compare` returned.
    verdict : Verdict
        On the time of training.
    console : rich.console.Console
        Where to print.
    """
    n_masks = len(next(iter(found.values())).logits)
    table = Table(
        title=f"Fast dropout beside {n_masks} masks: logits of {N_DIGITS} digits, fully connected",
        caption="median (5 % to 95 % quantile); processor times vary from run to run",
    )
    table.add_column("")
    for name in CASES.values():
        table.add_column(name, justify="right")
    table.add_row("mean, off by standard deviations", *(_quantiles(one.shift) for one in found.values()))
    table.add_row("standard deviation, ratio", *(_quantiles(one.ratio) for one in found.values()))
    times = (f"{1e3 * one.seconds[0]:.1f} and {1e3 * one.seconds[1]:.0f} ms" for one in found.values())
    table.add_row("one pass, and all masks", *times)
    console.print()
    console.print(table)
    measured = f"{verdict.before:.2f} -> {verdict.after:.2f} s"
    console.print(f"[bold]{verdict.claim}[/]: {WORDS[verdict.finding]} ({measured})", highlight=False)


def _quantiles(values: Array) -> str:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def titles(found: dict[str, Agreement]) -> tuple[str, str, str]:
    """Say how close fast dropout comes.

    Parameters
    ----------
    found : dict of str to Agreement
        What `compare` returned.

    Returns
    -------
    tuple of str
        On means, standard deviations and tails.
    """

    def both(measure: Callable[[Agreement], float], digits: int = 2) -> str:
        return " and ".join(f"{measure(one):.{digits}f}" for one in found.values())

    n_masks = len(next(iter(found.values())).logits)
    means = both(lambda one: float(np.quantile(np.abs(one.shift), 0.9)))
    ratios = both(lambda one: float(np.median(one.ratio)))
    beyond = both(lambda one: 100 * float(np.mean(np.abs(one.logits - one.mean) > 3 * one.std)), 1)
    return (
        f"Nine in ten means of {n_masks} masks are met\nwithin {means} standard deviations",
        f"Standard deviations: {ratios} times\nthose of the masks (median)",
        f"{beyond} % of the logits are beyond 3 of its\nstandard deviations; normal: {200 * stats.norm.sf(3):.2g} %",
    )


def plot_agreement(found: dict[str, Agreement], path: Path) -> None:
    """Draw means, standard deviations and quantiles into a PNG file.

    Parameters
    ----------
    found : dict of str to Agreement
        What `compare` returned.
    path : Path
        File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    chances = np.array([1e-4, *np.linspace(0.001, 0.999, 199), 1 - 1e-4])
    masks = f"over {len(next(iter(found.values())).logits)} masks"
    normal = stats.norm.ppf(chances)
    for (variant, one), color, marker in zip(found.items(), ("#E69F00", "#009E73"), "o^", strict=True):
        options = {"color": color, "marker": marker, "markersize": 3, "linestyle": "", "label": CASES[variant]}
        left.plot(one.logits.mean(axis=0).ravel(), one.mean.ravel(), alpha=0.5, **options)
        middle.plot(one.logits.std(axis=0).ravel(), one.std.ravel(), alpha=0.5, **options)
        right.plot(normal, np.quantile((one.logits - one.mean) / one.std, chances), **options)
    labels = (
        (f"mean of each logit {masks}", "fast dropout, one pass"),
        (f"standard deviation of each logit {masks}", "fast dropout, one pass"),
        ("quantiles of the normal distribution", f"(logit - mean) / sd by fast dropout, {masks}"),
    )
    for axes, title, (x, y) in zip((left, middle, right), titles(found), labels, strict=True):
        low, high = axes.get_xlim()
        axes.axline((low, low), (high, high), color="gray", linewidth=1, zorder=0)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
