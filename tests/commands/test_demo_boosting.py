"""The demo's dropout boosting: the ensemble is that of all masks, and a step follows the gradient of its likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

pytest.importorskip("sklearn")

import normdrop
from normdrop.demo import boosting, experiments, train, verdicts
from normdrop.demo.layers import Dense
from normdrop.demo.networks import Network, cross_entropy

pytestmark = [pytest.mark.jit, pytest.mark.same]

P = 0.25


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep matrix products to one thread: with more, small ones crawl on a busy machine."""
    with experiments._one_thread():
        yield


def network(*sizes: int) -> Network:
    made = boosting._network((64, *sizes), P, "boosting", np.random.default_rng(1), np.random.default_rng(2))
    for layer in made.layers:  # biases that are not 0, and float64
        if isinstance(layer, Dense):
            layer.weight, layer.bias = (
                layer.weight.astype(float),
                np.random.default_rng(3).normal(size=layer.bias.shape),
            )
            layer.dweight, layer.dbias = np.zeros_like(layer.weight), np.zeros_like(layer.bias)
    return made


def digits(n: int) -> Any:
    images, labels = train.load()
    return images[:n].astype(float), labels[:n]


def thinned(made: Network, x: Any, masks: Any) -> Any:
    """Logits under masks of all hidden units, by the formulas."""
    dense = [layer for layer in made.layers if isinstance(layer, Dense)]
    h, at = x.reshape(len(x), -1), 0
    for layer in dense[:-1]:
        n = layer.weight.shape[1]
        h = np.maximum(h @ layer.weight + layer.bias, 0) * masks[:, None, at : at + n] / (1 - P)
        at += n
    return h @ dense[-1].weight + dense[-1].bias


def test_mean_logits_are_those_of_all_thinned_networks() -> None:
    made, (x, _) = network(8, 8), digits(2)
    exact = normdrop.exact_ensemble(
        lambda masks: softmax(thinned(made, x, masks), axis=-1), 16, P, geometric=True, block_size=4096
    )
    np.testing.assert_allclose(softmax(boosting.mean_logits(made, x), axis=-1), exact.geometric_mean, rtol=1e-9)


def test_mean_logits_of_one_layer_are_those_without_dropout() -> None:
    made, (x, _) = network(10), digits(3)
    exact = normdrop.exact_ensemble(lambda masks: thinned(made, x, masks), 10, P)
    np.testing.assert_allclose(boosting.mean_logits(made, x), exact.mean, rtol=1e-9)


def test_the_mean_over_masks_of_the_gradient_is_that_of_the_ensembles_loss() -> None:
    """Every mask in turn, by its probability: compared with central differences of the loss."""
    made, (x, labels) = network(4, 4), digits(9)
    first, second = (layer for layer in made.layers if isinstance(layer, normdrop.Dropout))
    dense = [layer for layer in made.layers if isinstance(layer, Dense)]
    dlogits = cross_entropy(boosting.mean_logits(made, x), labels)[1]
    assert np.abs(boosting.mean_logits(made, x) - made.forward(x)).max() > 0.01  # in inference: the scaled network's
    made.train()
    mean = [np.zeros_like(layer.weight) for layer in dense]
    for k in range(2**8):
        kept = (k >> np.arange(8) & 1).astype(bool)
        masks = {id(first): kept[None, :4], id(second): kept[None, 4:]}
        h, contexts = x, {}
        for layer in made.layers:
            if isinstance(layer, normdrop.Dropout):
                whole = np.repeat(masks[id(layer)], len(x), axis=0)
                h, contexts[id(layer)] = layer.forward(h, mask=whole, return_context=True)
            else:
                h = layer.forward(h)
        dy = dlogits
        for layer in reversed(made.layers):
            dy = layer.backward(dy, context=contexts[id(layer)]) if id(layer) in contexts else layer.backward(dy)
        for total, layer in zip(mean, dense, strict=True):
            total += layer.dweight * np.prod(np.where(kept, 1 - P, P))

    def loss() -> float:
        logits = boosting.mean_logits(made, x)
        return -float(log_softmax(logits, axis=1)[np.arange(len(x)), labels].mean())

    for total, layer in zip(mean, dense, strict=True):
        for index in [(0, 0), (layer.weight.shape[0] // 2, 1), (layer.weight.shape[0] - 1, -1)]:
            kept_weight, values = layer.weight[index], []
            for step in (1e-6, -1e-6):
                layer.weight[index] = kept_weight + step
                values.append(loss())
            layer.weight[index] = kept_weight
            assert total[index] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", experiments.ENSEMBLES)
def test_variants_differ_in_the_error_that_is_passed_back_alone(name: str) -> None:
    """The same weights, digits and masks: after a step, dropout and boosting are apart, and each is reproducible."""
    outcomes = {}
    for variant in boosting.VARIANTS:
        runs = [train.Run(name, variant, 200, 0.02, (60,), split=0, seed=0) for _ in range(2)]
        first, second = (train.train(run, train.load()) for run in runs)
        assert first.errors == second.errors
        outcomes[variant] = first.errors[-1]
    assert len(set(outcomes.values())) == 3
    assert max(outcomes.values()) < 80  # they learn; guessing makes 90


def test_the_demo_judges_boosting_by_its_own_runs() -> None:
    study = experiments.Study(experiments.Settings(2, {"fully connected": 1}, 1, 1, 20, (0.1,), 1, 1), 0)
    errors = {"plain": 5.0, "dropout": 4.0, "boosting": 6.0}
    study._outcomes = {
        run: train.Outcome((errors[variant] + run.split / 10,), (), 0.0)
        for name in experiments.ENSEMBLES
        for variant in boosting.VARIANTS
        for run in study.of_ensembles(name, variant)
    }
    found = list(verdicts._boosting_verdicts(study))
    assert [(round(v.before, 2), round(v.after, 2)) for v in found] == [(6.05, 4.05)] * 2
    assert [v.case for v in found] == list(experiments.ENSEMBLES)
