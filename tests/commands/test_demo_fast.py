"""The demo's network that is trained by fast dropout: its gradient, its start, and what is compared."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("rich.console")

from normdrop.demo import agreement, experiments, fast_dropout, networks, settings, train, verdicts

TINY = settings.Settings(
    n_splits=2,
    epochs={"fully connected": 8, "convolutional": 1},
    n_evaluations=2,
    epochs_more=1,
    sigmoid_steps=20,
    rates=(0.1,),
    rate_steps=5,
    n_passes=5,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Keep matrix products to one thread: with more, small ones crawl on a busy machine."""
    with experiments._one_thread():
        yield


def network():
    rngs = {"rng": np.random.default_rng(1), "mask_rng": np.random.default_rng(2)}
    return fast_dropout.fast_dropout("dropout", **rngs)


def test_a_network_learns_along_the_gradient_of_the_expected_loss():
    digits, net = train.load(), network()
    x, labels = digits.images[:8].astype(np.float64), digits.labels[:8]
    for layer in net.layers:
        if isinstance(layer, fast_dropout.Dense):
            layer.weight, layer.bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
            layer.dweight, layer.dbias = np.zeros_like(layer.weight), np.zeros_like(layer.bias)
    net.learn(x, labels)
    for _, value, gradient in net.parameters():
        direction = gradient / np.linalg.norm(gradient)
        losses = []
        for step in (1e-4, -1e-4):
            value += step * direction
            losses.append(net.learn(x, labels))
            value -= step * direction
        net.learn(x, labels)
        assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(np.sum(gradient * direction), rel=1e-3)


def test_it_starts_from_the_weights_of_the_network_that_is_trained_by_masks():
    rngs = {"rng": np.random.default_rng(1), "mask_rng": np.random.default_rng(2)}
    pairs = zip(network().parameters(), networks.fully_connected("dropout", **rngs).parameters(), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one[1], other[1])
    one, other = (
        group[0]
        for group in (
            experiments.Study(TINY, 3).by_fast_dropout(),
            experiments.Study(TINY, 3).on_few_digits("fully connected", "dropout"),
        )
    )
    assert one.evaluations == other.evaluations
    for purpose in ("split", "weights", "order", "masks"):
        assert one.rng(purpose).integers(1 << 60) == other.rng(purpose).integers(1 << 60)


def test_layers_without_moments_are_refused():
    rngs = {"rng": np.random.default_rng(1), "mask_rng": np.random.default_rng(2)}
    with pytest.raises(TypeError, match="Conv"):
        fast_dropout.propagate(networks.convolutional("dropout", **rngs).layers, np.zeros((1, 1, 8, 8), np.float32))


@pytest.mark.jit
def test_moments_are_near_those_of_masks_and_are_drawn(tmp_path):
    study = experiments.Study(TINY, 0)
    found = agreement.compare(study)
    assert set(found) == {"dropout", "both"}
    for one in found.values():
        assert one.logits.shape == (100, 100, 10)
        assert abs(np.median(one.shift)) < 0.1
        assert np.quantile(np.abs(one.shift), 0.9) < 0.5
        assert 0.7 < np.median(one.ratio) < 1.2
    agreement.plot_agreement(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_times_and_errors_are_judged_in_pairs():
    study = experiments.Study(TINY, 0)
    kinds = {"fast dropout": (4.0, 3.0), "fully connected": (5.0, 1.0)}
    for run in [*study.by_fast_dropout(), *study.on_few_digits("fully connected", "dropout")]:
        error, seconds = kinds[run.network]
        study._outcomes[run] = train.Outcome((99.0, error + 0.1 * run.split), (), seconds + 0.1 * run.split)
    for run in study.on_few_digits("fully connected", "plain"):
        study._outcomes[run] = train.Outcome((99.0, 4.0 + 0.1 * run.split), (), 1.0)
    time = agreement.judge_time(study)
    assert (time.before, time.after, time.unit) == (1.05, 3.05, "s")
    assert time.finding == "opposite seen"
    plain, masks, steps = verdicts._fast_dropout_verdicts(study)
    assert plain.finding == "not seen"
    assert masks.difference == pytest.approx(1.0)
    assert (steps.before, steps.after, steps.unit) == (48, 48, "steps")
