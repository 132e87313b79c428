"""The demo says what its numbers show and no more: titles of plots, verdicts in words, and the time beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich.console")

from normdrop.demo import agreement, command, experiments, findings, report, settings, train, verdicts

N_SPLITS = 5
TINY = settings.Settings(
    n_splits=N_SPLITS,
    epochs={"fully connected": 9, "convolutional": 9},
    n_evaluations=3,
    epochs_more=1,
    sigmoid_steps=20,
    rates=(0.1, 0.5, 2),
    rate_steps=5,
    n_passes=2,
    few=64,
)
NETWORK = experiments.NETWORKS[0]
SPREAD = np.array([0.1, -0.2, 0.0, 0.3, -0.1])


def study(curves: dict[str, Any], rates: dict[str, Any]) -> experiments.Study:
    """A study of which curves (splits, 3) of errors and largest rates of each variant are known."""
    made = experiments.Study(TINY, 0)
    for network in experiments.NETWORKS:
        for variant, errors in curves.items():
            for run in made.on_few_digits(network, variant):
                made._outcomes[run] = train.Outcome(tuple(errors[run.split]), ())
        for variant, largest in rates.items():
            for rate in TINY.rates:
                for run in made.at_rate(network, variant, rate):
                    made._outcomes[run] = train.Outcome((5.0 if rate <= largest[run.split] else 90.0,), ())
    assert made.epochs(NETWORK) == [1, 3, 9]
    return made


def curves(plain: Any, normed: Any) -> dict[str, Any]:
    return dict.fromkeys(("plain", "dropout"), plain) | dict.fromkeys(("batch norm", "both"), normed)


SLOW, FAST, NEVER = (np.array([row]) + SPREAD[:, None] for row in ((50, 20, 9), (9, 6, 5), (50, 30, 20)))


@pytest.mark.parametrize(
    ("plain", "normed", "said"),
    [
        (SLOW, FAST, "Batch norm reaches 10 % error in 1 instead of 9 epochs"),
        (NEVER, FAST, "Batch norm reaches 10 % error in 1 instead of over 9 epochs"),
        (FAST, SLOW, "Plain reaches 10 % error in 1 instead of 9 epochs by batch norm"),
        (SLOW, SLOW, "Epochs to 10 % error: batch norm 9, plain 9 (unclear)"),
        # Two splits are sooner, which is no finding.
        (
            SLOW,
            np.where(np.arange(5)[:, None] < 2, FAST, SLOW),
            "Epochs to 10 % error: batch norm 9, plain 9 (unclear)",
        ),
    ],
)
def test_a_title_claims_speed_where_it_is_seen_and_gives_medians_of_epochs(plain: Any, normed: Any, said: str) -> None:
    title = findings.of_curves(study(curves(plain, normed), {}), NETWORK)
    assert title.replace("\n", " ").startswith(said)
    assert max(map(len, title.split("\n"))) <= findings.WIDTH


def test_a_title_names_the_final_errors_that_are_lower_and_higher_and_only_these() -> None:
    errors = {"plain": 8 + SPREAD, "dropout": 8 - SPREAD, "batch norm": 6 + 2 * SPREAD, "both": 9.5 - SPREAD}
    made = study({variant: np.stack([each] * 3, axis=1) for variant, each in errors.items()}, {})
    text = findings.of_curves(made, NETWORK).replace(findings.UNBROKEN, " ")
    assert text.split("\n")[1:] == [
        "Lower final error than plain (8.0 %): batch norm 6.0",
        "Higher final error than plain (8.0 %): both 9.5",
    ]
    same = study(dict.fromkeys(("plain", "dropout", "batch norm", "both"), SLOW), {})
    assert findings.of_curves(same, NETWORK).endswith("No final error clearly differs from plain (9.0 %)")


def test_a_title_claims_larger_rates_where_they_are_seen_and_names_those_that_every_split_survives() -> None:
    low, mixed, high = np.full(5, 0.1), np.array([2, 0.1, 0.5, 2, 0.1]), np.array([2, 2, 0.5, 2, 2])
    clear = findings.of_rates(study({}, {"plain": low, "batch norm": high})).split("\n")
    assert clear[0] == "Batch norm survives larger learning rates; in all splits:"
    assert clear[1:] == [f"{network}: batch norm 0.5, plain 0.1" for network in experiments.NETWORKS]
    unclear = findings.of_rates(study({}, {"plain": low / 2, "batch norm": mixed})).split("\n")
    assert "survives larger" not in findings.of_rates(study({}, {"plain": low, "batch norm": mixed}))
    assert unclear[1] == f"{NETWORK}: batch norm 0.1, plain none"
    gap = study({}, {"plain": low, "batch norm": high})
    gap._outcomes[gap.at_rate(NETWORK, "batch norm", 0.1)[0]] = train.Outcome((90.0,), ())
    assert findings.of_rates(gap).split("\n")[1] == f"{NETWORK}: batch norm none, plain 0.1"


def test_titles_of_fast_dropout_are_computed() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 20, 10))
    mean, std = logits.mean(axis=0), logits.std(axis=0)
    found = {
        "dropout": agreement.Agreement(mean, std, logits, (1.0, 1.0)),
        "both": agreement.Agreement(mean + std / 2, std / 2, logits, (1.0, 1.0)),
    }
    means, ratios, tails = agreement.titles(found)
    assert "2000 masks" in means
    assert "0.00 and 0.50" in means
    assert "1.00 and 0.50" in ratios
    assert tails.startswith("0.3 and ")


def test_the_explanation_counts_verdicts_and_says_that_few_splits_settle_little() -> None:
    made = {
        n: [
            verdicts.judge("c", "one", np.zeros(n), -1 - np.resize(SPREAD, n)),  # better
            verdicts.judge("c", "two", np.zeros(n), np.resize(SPREAD, n) - np.resize(SPREAD, n).mean()),
        ]
        for n in (5, settings.FULL.n_splits)
    }
    few, full = (report.explain(each) for each in made.values())
    for text, n in ((few, 5), (full, settings.FULL.n_splits)):
        assert "Of 2 comparisons: 1 yes, 0 no, 1 can't tell" in text
        assert f"the same {n} splits" in text
        assert f"above {verdicts.bound(n):.2f}" in text
    assert "5 splits settle little" in few
    assert "settle little" not in full
    assert (made[5][0].n_better, made[5][0].n_pairs) == (5, 5)
    assert 0 < made[5][1].n_better < 5


@pytest.mark.parametrize(
    ("chosen", "cores", "said"),
    [(settings.QUICK, 2, "20 seconds on 2 cores"), (settings.FULL, 1, "6 minutes on one core")],
)
def test_what_comes_and_how_long_it_takes_is_said_first(chosen: settings.Settings, cores: int, said: str) -> None:
    made = experiments.Study(chosen, 0)
    text = command.announce(made, cores)
    assert text.startswith(f"{len(made.runs())} small networks")
    assert f"About {said}" in text
