"""The demo: its own layers are right, its numbers reproducible, its verdicts computed, its command line friendly."""

import json
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest

from normdrop import __main__

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
rich_console = pytest.importorskip("rich.console")

from normdrop.demo import command, experiments, layers, networks, settings, train, verdicts  # noqa: E402
from normdrop.demo.report import print_tables  # noqa: E402

TINY = settings.Settings(
    n_splits=2,
    epochs={"fully connected": 2, "convolutional": 2},
    n_evaluations=2,
    epochs_more=1,
    sigmoid_steps=20,
    rates=(0.1, 2),
    rate_steps=5,
    n_passes=2,
    few=64,
    more=64,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Keep matrix products to one thread: with more, small ones crawl on a busy machine."""
    with experiments._one_thread():
        yield


def differences(f, x, step=1e-6):
    """Gradient of the scalar f() with respect to x, which f reads, by central differences."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f()
        x[index] = kept - step
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


LAYERS = {
    "dense": (lambda rng: layers.Dense(5, 3, rng=rng, dtype=np.float64), (4, 5)),
    "convolution": (lambda rng: layers.Conv(2, 3, rng=rng, dtype=np.float64), (2, 2, 4, 6)),
    "pooling": (lambda _: layers.MaxPool(), (2, 3, 4, 6)),
    "relu": (lambda _: layers.ReLU(), (4, 5)),
    "sigmoid": (lambda _: layers.Sigmoid(), (4, 5)),
    "flatten": (lambda _: layers.Flatten(), (2, 3, 2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_layer_agree_with_central_differences(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(3)
    layer = make(rng)
    x = rng.normal(size=shape)
    dy = rng.normal(size=layer.forward(x).shape)
    given = x.copy(), dy.copy()
    dx = layer.backward(dy)
    np.testing.assert_array_equal((x, dy)[0], given[0])
    np.testing.assert_array_equal((x, dy)[1], given[1])

    def loss():
        return float(np.sum(layer.forward(x) * dy))

    np.testing.assert_allclose(dx, differences(loss, x), rtol=1e-6, atol=1e-8)
    for _, value, gradient in list(layer.parameters()):
        np.testing.assert_allclose(gradient, differences(loss, value), rtol=1e-6, atol=1e-8)


def test_convolution_is_the_sum_over_the_zero_padded_neighborhood():
    rng = np.random.default_rng(4)
    layer = layers.Conv(2, 3, rng=rng, dtype=np.float64)
    layer.bias[:] = rng.normal(size=3)
    x = rng.normal(size=(1, 2, 4, 4))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    filters = layer.weight.reshape(3, 3, 2, 3)
    y = layer.forward(x)
    assert y.shape == (1, 3, 4, 4)
    for i, j in np.ndindex(4, 4):
        expected = np.einsum("cij,ijco->o", padded[0, :, i : i + 3, j : j + 3], filters) + layer.bias
        np.testing.assert_allclose(y[0, :, i, j], expected, rtol=1e-12)


def test_gradient_of_the_loss_agrees_with_central_differences():
    logits = np.random.default_rng(5).normal(size=(6, 4))
    labels = np.array([0, 3, 1, 1, 2, 0])
    loss, dlogits = networks.cross_entropy(logits, labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(probabilities[np.arange(6), labels]).mean(), rel=1e-12)
    expected = differences(lambda: networks.cross_entropy(logits, labels)[0], logits)
    np.testing.assert_allclose(dlogits, expected, rtol=1e-6, atol=1e-9)


def test_momentum_adds_up_earlier_gradients():
    layer = layers.Dense(1, 1, rng=np.random.default_rng(0), dtype=np.float64)
    layer.weight[:] = 1
    layer.dweight[:] = 2
    optimizer = networks.SGD(networks.Network([layer]), momentum=0.5)
    optimizer.step(0.1)  # velocity -0.2
    optimizer.step(0.1)  # velocity -0.1 - 0.2
    assert layer.weight[0, 0] == pytest.approx(1 - 0.2 - 0.3)


@pytest.mark.parametrize("name", train.BUILDERS)
def test_variants_start_from_the_same_weights(name):
    def weights(variant):
        rngs = {"rng": np.random.default_rng(1), "mask_rng": np.random.default_rng(2)}
        return [value for n, value, _ in train.BUILDERS[name](variant, **rngs).parameters() if n == "weight"]

    for one, other in zip(weights("plain"), weights("batch norm"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_thinned_networks_differ_and_inference_does_not():
    digits = train.load()
    rngs = {"rng": np.random.default_rng(1), "mask_rng": np.random.default_rng(2)}
    network = networks.fully_connected("both", **rngs)
    network.eval()
    assert np.array_equal(network.probabilities(digits.images[:8]), network.probabilities(digits.images[:8]))
    network.thin()
    assert not np.array_equal(network.probabilities(digits.images[:8]), network.probabilities(digits.images[:8]))


def test_training_and_test_digits_do_not_overlap_and_a_network_learns():
    digits = train.load()
    assert digits.images.shape == (1797, 1, 8, 8)
    run = train.Run("fully connected", "batch norm", 1000, 0.05, (1, 60), split=0, seed=0)
    first, last = train.train(run, digits).errors
    assert last < 10 < first
    # With labels drawn at random there is nothing to learn but the training digits themselves: a test error far from
    # chance would mean that the test digits are among them.
    labels = np.random.default_rng(0).integers(10, size=1797)
    assert train.train(run, digits._replace(labels=labels)).errors[-1] > 80


@pytest.fixture
def few_digits(monkeypatch):
    """Let studies use 200 digits."""
    digits = train.load()
    monkeypatch.setattr(experiments, "load", lambda: train.Digits(digits.images[:200], digits.labels[:200]))


def table(seed):
    study = experiments.Study(TINY, seed)
    study.carry_out()
    text = StringIO()
    print_tables(study, verdicts.judge_all(study), rich_console.Console(file=text, width=80))
    return text.getvalue()


@pytest.mark.usefixtures("few_digits")
def test_same_seed_same_table_another_seed_another():
    one = table(1)
    assert table(1) == one
    assert table(2) != one
    assert "..." not in one
    assert "…" not in one  # nothing is cut off at 80 columns


@pytest.mark.usefixtures("few_digits")
def test_demo_writes_results_that_do_not_depend_on_the_number_of_processes_and_a_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_count_cores", lambda: 2)
    command.run(TINY, 3, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    alone = experiments.Study(TINY, 3)
    alone.carry_out(1)
    assert results["seed"] == 3
    assert [run["errors"] for run in results["runs"]] == [list(alone.outcome(run).errors) for run in alone.runs()]
    assert {verdict["finding"] for verdict in results["verdicts"]} <= {"seen", "not seen", "opposite seen"}
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "Elapsed" in capsys.readouterr().out


def test_where_processes_cannot_be_started_this_one_does_the_work(monkeypatch):
    def refuse(*_):
        raise OSError("no processes here")

    digits = train.load()
    monkeypatch.setattr(experiments, "ProcessPoolExecutor", refuse)
    monkeypatch.setattr(experiments, "load", lambda: digits)
    monkeypatch.setattr(experiments, "train", lambda run, _: (run.split, run.rate))
    study = experiments.Study(TINY, 0)
    done = []
    study.carry_out(2, done=lambda: done.append(1))
    assert len(done) == len(study.runs())
    assert all(study.outcome(run) == (run.split, run.rate) for run in study.runs())


BEFORE = np.array([4.0, 5.0, 6.0, 5.0, 4.0])


@pytest.mark.parametrize(
    ("after", "finding"),
    [
        (BEFORE - np.array([1.0, 1.1, 0.9, 1.0, 1.2]), "seen"),
        (BEFORE + np.array([1.0, 1.1, 0.9, 1.0, 1.2]), "opposite seen"),
        (BEFORE - np.array([3.0, -2.0, 1.0, -1.0, 0.5]), "not seen"),
        (BEFORE - 1, "seen"),  # the same difference in every pair
        (BEFORE, "not seen"),
    ],
)
def test_verdict_follows_the_numbers(after, finding):
    verdict = verdicts.judge("claim", "case", BEFORE, after)
    assert verdict.finding == finding
    assert verdict.difference == pytest.approx(np.mean(BEFORE - after))


def test_verdict_on_three_pairs_needs_more_than_on_ten():
    differences_ = np.array([1.0, 1.2, 1.6])  # t = 7.2
    three = verdicts.judge("claim", "case", np.full(3, 5.0), 5 - differences_)
    assert three.t == pytest.approx(differences_.mean() / (differences_.std(ddof=1) / 3**0.5))
    assert three.finding == "not seen"
    nine = verdicts.judge("claim", "case", np.full(9, 5.0), 5 - np.tile(differences_, 3))
    assert nine.finding == "seen"


def test_verdict_with_more_is_better():
    verdict = verdicts.judge("claim", "case", np.full(5, 0.1), np.full(5, 1.0), merit=np.log10)
    assert verdict.finding == "seen"
    assert verdict.difference == pytest.approx(1)


def test_steps_to_a_target_are_those_of_the_first_evaluation_that_reaches_it():
    study = experiments.Study(TINY, 0)
    runs = study.of_sigmoids("plain")
    runs = [train.Run("sigmoid", "plain", 64, 0.5, (10, 20, 30), split, 0) for split in range(2)]
    study._outcomes = {
        runs[0]: train.Outcome((50.0, 9.0, 12.0), ()),
        runs[1]: train.Outcome((50.0, 40.0, 30.0), ()),
    }
    np.testing.assert_array_equal(study.steps_to(runs, np.array([10.0, 10.0])), [20, np.inf])


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["info", "--help"]])
def test_help_explains_and_gives_an_example(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 0
    assert "python -m normdrop " in capsys.readouterr().out.replace("usage: python -m normdrop", "")


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--seed", "-1"], ["demo", "--seed", "one"]])
def test_bad_arguments_give_a_message_and_a_status(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2
    assert arguments[-1:] == [] or arguments[-1] in capsys.readouterr().err


def test_output_that_is_a_file_gives_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    for path in (file, file / "below"):
        assert __main__.main(["demo", "--quick", "--output", str(path)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert str(path) in message
    assert file.read_text() == "kept"


@pytest.mark.parametrize("module", ["rich", "sklearn", "matplotlib"])
def test_missing_extra_gives_one_line_that_says_what_to_install(module, tmp_path):
    code = (
        f"import sys; sys.modules[{module!r}] = None\nfrom normdrop.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    call = [sys.executable, "-c", code, "demo", "--output", str(tmp_path / "new")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "normdrop[demo]"' in done.stderr
    assert not (tmp_path / "new").exists()


def test_info_works_without_the_extra_and_without_a_gpu():
    code = (
        "import sys\n"
        "for name in ('rich', 'sklearn', 'matplotlib'): sys.modules[name] = None\n"
        "from normdrop.__main__ import main\n"
        "status = main(['info'])\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("normdrop", "Python", "numpy", "numba", "llvmlite", "scipy", "threads", "kernel cache", "CUDA"):
        assert f"\n{name} " in f"\n{done.stdout}"
