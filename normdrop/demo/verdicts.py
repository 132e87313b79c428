"""What the numbers say about the claims of the literature."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from normdrop.demo.experiments import CONVERGED, ENSEMBLES, NETWORKS, Study
from normdrop.demo.layers import Array

LEVEL = 0.01


@dataclass(frozen=True)
class Verdict:
    """A claim and what was measured, in pairs: without and with what the claim praises.

    Attributes
    ----------
    claim : str
        What the literature says.
    case : str
        Where it was tried.
    unit : str
        Unit of the means, or "".
    before, after : float
        Means over the pairs.
    difference, standard_error : float
        Mean and standard error of the paired differences, positive where the claim is right.
    t : float
        Their ratio.
    n_better, n_pairs : int
        In how many pairs, and of how many, the second measurement was better.
    finding : {"seen", "not seen", "opposite seen"}
        Whether t is beyond Student's t at `LEVEL`, two-sided. All pairs draw from the same 1797 digits and so are not
        quite independent; the level is strict for that reason.
    """

    claim: str
    case: str
    unit: str
    before: float
    after: float
    difference: float
    standard_error: float
    t: float
    n_better: int
    n_pairs: int
    finding: str


def judge(
    claim: str,
    case: str,
    before: Array,
    after: Array,
    *,
    unit: str = "%",
    merit: Callable[[Array], Array] = np.negative,
) -> Verdict:
    """Compare two measurements on the same splits.

    Parameters
    ----------
    claim : str
        What the literature says, in the sense that `after` is better.
    case : str
        Where it was tried.
    before, after : ndarray, shape (pairs,)
        What was measured.
    unit : str, default "%"
        Its unit, or "".
    merit : callable, default numpy.negative
        Maps measurements to numbers that are larger where it is better; these are subtracted.

    Returns
    -------
    Verdict
        Whether the claim was seen.
    """
    differences = merit(after) - merit(before)
    mean, error = float(differences.mean()), float(stats.sem(differences))
    if error > 0:
        t = mean / error
    else:  # all differences are the same
        t = float(np.copysign(np.inf, mean)) if mean else 0.0
    limit = bound(len(differences))
    finding = "seen" if t > limit else "opposite seen" if t < -limit else "not seen"
    means, pairs = (float(before.mean()), float(after.mean())), (int((differences > 0).sum()), len(differences))
    return Verdict(claim, case, unit, *means, mean, error, t, *pairs, finding)


def bound(n_pairs: int) -> float:
    """Compute what t must exceed for a claim to be seen.

    Parameters
    ----------
    n_pairs : int
        Number of pairs that were measured.

    Returns
    -------
    float
        Student's t at `LEVEL`, two-sided.
    """
    return float(stats.t.ppf(1 - LEVEL / 2, n_pairs - 1))


def largest_rates(study: Study, network: str, variant: str) -> Array:
    """Find the largest learning rate that still converges, on each split.

    Parameters
    ----------
    study : Study
        A study that was carried out.
    network : str
        One of `experiments.NETWORKS`.
    variant : {"plain", "batch norm"}
        Which.

    Returns
    -------
    ndarray, shape (n_splits,)
        Learning rates; half the smallest of the study where none converges.
    """
    rates = study.settings.rates
    errors = np.array([study.errors(study.at_rate(network, variant, rate))[:, -1] for rate in rates])
    largest: Array = np.where(errors <= CONVERGED, np.reshape(rates, (-1, 1)), rates[0] / 2).max(axis=0)
    return largest


def judge_all(study: Study) -> list[Verdict]:
    """Judge every claim by a study.

    Parameters
    ----------
    study : Study
        A study that was carried out.

    Returns
    -------
    list of Verdict
        One for each claim and network.
    """
    return [
        *_dropout_verdicts(study),
        *_fast_dropout_verdicts(study),
        *_batch_norm_verdicts(study),
        *_averaging_verdicts(study),
        *_boosting_verdicts(study),
    ]


def _dropout_verdicts(study: Study) -> Iterator[Verdict]:
    few, more = study.settings.few, study.settings.more
    cases = {
        f"fully connected, {few} digits": [study.on_few_digits(NETWORKS[0], v) for v in ("plain", "dropout")],
        f"fully connected, {more} digits": [study.on_more_digits(v) for v in ("plain", "dropout")],
        f"convolutional, {few} digits": [study.on_few_digits(NETWORKS[1], v) for v in ("plain", "dropout")],
    }
    for case, runs in cases.items():
        yield judge(
            "dropout (of channels after convolutions) lowers the test error",
            case,
            *(study.errors(each)[:, -1] for each in runs),
        )


def _fast_dropout_verdicts(study: Study) -> Iterator[Verdict]:
    fast, masks = study.by_fast_dropout(), study.on_few_digits(NETWORKS[0], "dropout")
    for case, runs in {"no dropout": study.on_few_digits(NETWORKS[0], "plain"), "training by masks": masks}.items():
        errors = (study.errors(each)[:, -1] for each in (runs, fast))
        yield judge("training by fast dropout lowers the test error", f"against {case}", *errors)
    targets = study.errors(masks)[:, -1]
    steps = [np.minimum(study.steps_to(each, targets), each[0].evaluations[-1]) for each in (masks, fast)]
    yield judge(
        "fast dropout reaches the final accuracy of training by masks in fewer steps", NETWORKS[0], *steps, unit="steps"
    )


def _batch_norm_verdicts(study: Study) -> Iterator[Verdict]:
    variants = ("plain", "batch norm")
    cases = {network: [study.on_few_digits(network, variant) for variant in variants] for network in NETWORKS}
    cases["three layers of sigmoids"] = [study.of_sigmoids(variant) for variant in variants]
    for case, runs in cases.items():
        targets = study.errors(runs[0])[:, -1]
        # What is not reached counts as all steps.
        steps = [np.minimum(study.steps_to(each, targets), each[0].evaluations[-1]) for each in runs]
        yield judge("batch norm reaches the plain network's final accuracy in fewer steps", case, *steps, unit="steps")
    for network in NETWORKS:
        rates = [largest_rates(study, network, variant) for variant in variants]
        yield judge("batch norm survives larger learning rates", f"{network}, largest", *rates, unit="", merit=np.log10)


def _averaging_verdicts(study: Study) -> Iterator[Verdict]:
    average = f"averaging {study.settings.n_passes} thinned networks, each under a mask, beats"
    for network in NETWORKS:
        thinned = study.thinned_errors(network)
        yield judge(f"{average} one of them", network, thinned[:, 0], thinned[:, -1])
    for network in NETWORKS:
        scaled = study.errors(study.on_few_digits(network, "dropout"))[:, -1]
        yield judge(f"{average} the whole one, scaled", network, scaled, study.thinned_errors(network)[:, -1])


def _boosting_verdicts(study: Study) -> Iterator[Verdict]:
    for network in ENSEMBLES:
        errors = [study.errors(study.of_ensembles(network, variant))[:, -1] for variant in ("boosting", "dropout")]
        yield judge("dropout beats boosting, which trains the ensemble by the same masks", network, *errors)
