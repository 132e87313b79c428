"""What the plots show, in the words of their titles: no more than the numbers say."""

import textwrap

import numpy as np

from normdrop.demo.experiments import CONVERGED, NETWORKS, TARGET, Study
from normdrop.demo.networks import VARIANTS
from normdrop.demo.train import BATCH
from normdrop.demo.verdicts import judge, largest_rates

WIDTH = 60  # characters of a line of a title
UNBROKEN = "\N{NO-BREAK SPACE}"


def of_curves(study: Study, network: str) -> str:
    """Say whether batch norm reaches the target sooner, and whose final error differs from the plain network's.

    Parameters
    ----------
    study : Study
        A study that was carried out.
    network : str
        One of `experiments.NETWORKS`.

    Returns
    -------
    str
        Differences by `verdicts.judge`, in lines of at most `WIDTH` characters.
    """
    return _wrapped(_speed(study, network), *_final_errors(study, network))


def _speed(study: Study, network: str) -> str:
    last = study.epochs(network)[-1]
    epochs = []
    for variant in ("plain", "batch norm"):
        runs = study.on_few_digits(network, variant)
        epochs.append(study.steps_to(runs, np.full(len(runs), TARGET)) / (study.settings.few // BATCH))
    # By ratios, because the epochs that are looked at lie in ratios; what is not reached counts as all epochs.
    merits = (-np.log(np.minimum(each, last)) for each in epochs)
    finding = judge("", "", *merits, merit=np.positive).finding
    plain, normed = (
        f"{median:g}" if np.isfinite(median) else f"over {last}" for median in (np.median(each) for each in epochs)
    )
    if finding == "seen":
        return f"Batch norm reaches {TARGET:g} % error in {normed} instead of {plain} epochs"
    if finding == "opposite seen":
        return f"Plain reaches {TARGET:g} % error in {plain} instead of {normed} epochs by batch norm"
    return f"Epochs to {TARGET:g} % error: batch norm {normed}, plain {plain} (unclear)"


def _final_errors(study: Study, network: str) -> list[str]:
    errors = {variant: study.errors(study.on_few_digits(network, variant))[:, -1] for variant in VARIANTS}
    plain = errors.pop("plain")
    found: dict[str, list[str]] = {"seen": [], "not seen": [], "opposite seen": []}
    for variant, each in errors.items():
        found[judge("", "", plain, each).finding].append(f"{variant} {each.mean():.1f}".replace(" ", UNBROKEN))
    lines = [
        f"{word} final error than plain ({plain.mean():.1f} %): {', '.join(found[finding])}"
        for finding, word in (("seen", "Lower"), ("opposite seen", "Higher"))
        if found[finding]
    ]
    return lines or [f"No final error clearly differs from plain ({plain.mean():.1f} %)"]


def of_rates(study: Study) -> str:
    """Say which learning rates networks survive without and with batch norm.

    Parameters
    ----------
    study : Study
        A study that was carried out.

    Returns
    -------
    str
        Whether batch norm survives larger ones, by `verdicts.judge`, and the largest one that every split survives,
        in lines of at most `WIDTH` characters.
    """
    findings, lines = set(), []
    for network in NETWORKS:
        plain, normed = (largest_rates(study, network, variant) for variant in ("plain", "batch norm"))
        findings.add(judge("", "", plain, normed, merit=np.log10).finding)
        rates = [_survived(study, network, variant) for variant in ("batch norm", "plain")]
        lines.append(f"{network}: batch norm {rates[0]}, plain {rates[1]}")
    seen = "Batch norm survives larger learning rates; in all splits:"
    return _wrapped(seen if findings == {"seen"} else "Largest learning rate that all splits survive:", *lines)


def _survived(study: Study, network: str, variant: str) -> str:
    """Find the rate up to which all rates that were tried converge on every split."""
    survived = "none"
    for rate in study.settings.rates:
        if study.errors(study.at_rate(network, variant, rate))[:, -1].max() > CONVERGED:
            break
        survived = f"{rate:g}"
    return survived


def _wrapped(*sentences: str) -> str:
    return "\n".join(textwrap.fill(sentence, WIDTH) for sentence in sentences)
