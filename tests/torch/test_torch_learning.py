"""Networks learn with normdrop's layers what they learn with PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")

from normdrop.torch import accelerate  # noqa: E402  # it needs PyTorch

pytestmark = [pytest.mark.jit, pytest.mark.slow, pytest.mark.once]
N_SEEDS = 10


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Batches are small; threads that wait for each other would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _train(seed: int, p: float, *, accelerated: bool, n_epochs: int, dtype: Any = None) -> tuple[list[float], float]:
    """Return the loss of each step and the error on digits that were not learned from."""
    digits = datasets.load_digits()
    torch.manual_seed(seed)
    order = torch.randperm(len(digits.target))
    x = (torch.from_numpy(digits.data) / 16).to(dtype or torch.float32)[order]
    labels = torch.from_numpy(digits.target)[order]
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64),
        torch.nn.BatchNorm1d(64),
        torch.nn.ReLU(),
        torch.nn.Dropout(p),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Dropout(p),
        torch.nn.Linear(64, 10),
    ).to(dtype or torch.float32)
    batches = [torch.randperm(1000)[:960].split(64) for _ in range(n_epochs)]
    if accelerated:
        assert accelerate(model).n_swapped == 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in batches:
        for batch in epoch:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        wrong = model.eval()(x[1000:]).argmax(1) != labels[1000:]
    return losses, float(wrong.double().mean())


def test_without_dropout_the_loss_curve_is_pytorchs() -> None:
    curves = [_train(1, 0.0, accelerated=a, n_epochs=5, dtype=torch.float64) for a in (False, True)]
    np.testing.assert_allclose(curves[1][0], curves[0][0], rtol=1e-7)
    assert curves[0][1] == curves[1][1]


def test_with_dropout_final_errors_and_losses_agree_within_their_spread_over_seeds() -> None:
    """Pairs have initial weights and batches in common, and masks of their own: a paired t-test of either figure."""
    figures = np.array(
        [
            [
                (np.mean(losses[-15:]), error)
                for losses, error in (_train(seed, 0.5, accelerated=a, n_epochs=12) for a in (False, True))
            ]
            for seed in range(N_SEEDS)
        ]
    )
    assert figures[..., 1].mean() < 0.06  # it does learn
    for theirs, ours in figures.transpose(2, 1, 0):
        assert stats.ttest_rel(theirs, ours).pvalue > 0.001
        assert abs(np.mean(ours - theirs)) < np.hypot(theirs.std(ddof=1), ours.std(ddof=1))
