"""The bench: ratios are those of the same round, peers compute what normdrop computes, files hold what was measured."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import __main__, functional

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from normdrop.bench import cases, command, peers, plot, protocol, report, settings, sides, study
from normdrop.bench.batch import Batch

FEW = settings.Settings(
    families=(
        cases.Family(cases.IN_CACHE, ((64,), (16,)), (cases.HALF, cases.BACK)),
        cases.Family(cases.GROWING, ((2, 3, 2, 2),), (cases.NORM,)),
    ),
    on_threads=(),
    rounds=4,
    seconds=0.5,
    longest=100.0,
    fewest=2,
    peers=("numpy", "torch", "jax"),
)


class Clock:
    """A clock that only moves when it is told to, in place of the module ``time``."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += 1000 * seconds  # would be seen in any time that it is part of
        self.slept.append(seconds)

    def taking(self, seconds):
        """Return a call that takes so many seconds."""

        def call():
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    """Time by a clock that only moves when it is told to."""
    clock = Clock()
    monkeypatch.setattr(protocol, "time", clock)
    return clock


def measure(calls, *, always=0, seed=0, **changes):
    return protocol.measure(calls, dataclasses.replace(FEW, **changes), np.random.default_rng(seed), always)


def test_a_side_that_takes_twice_as_long_has_ratio_two(clock):
    seconds = measure({"one": clock.taking(0.001), "two": clock.taking(0.002)})
    measured = study.Measurement(next(FEW.cases()), seconds)
    assert measured.ratio("two", "one") == pytest.approx((2, 2, 2))
    assert measured.microseconds("two") == pytest.approx(2000)


def test_drift_from_round_to_round_leaves_ratios_alone(clock):
    def side(cost):
        def call():
            clock.now += cost * 3.0 ** ((len(clock.slept) - 1) // 2)  # two sides sleep in each round

        return call

    seconds = measure({"one": side(0.001), "two": side(0.002)})
    assert seconds["one"][-1] > 20 * seconds["one"][0]
    assert study.Measurement(next(FEW.cases()), seconds).ratio("two", "one") == pytest.approx((2, 2, 2))


def test_quartiles_are_of_the_ratios_within_rounds():
    seconds = {"a": np.array([1.0, 2, 3, 4, np.nan]), "b": np.array([1.0, 1, 1, 2, 7])}
    measured = study.Measurement(next(FEW.cases()), seconds)
    assert measured.ratio("a", "b") == pytest.approx((1.75, 2, 2.25))  # of 1, 2, 3, 2
    assert measured.microseconds("a") == pytest.approx(2.5e6)


def test_neither_the_first_call_nor_the_sleep_nor_the_warm_up_is_timed(clock):
    # Compiling, the calls that show how long one takes, and waking threads.
    costs = iter([5.0, 0.004, 0.001, 0.002, *[0.001] * 9, 0.012, 0.013, 0.001])
    n_calls = 0

    def call():
        nonlocal n_calls
        n_calls += 1
        clock.now += next(costs, 0.001)

    seconds = measure({"it": call}, seconds=0.0105, rounds=2)
    np.testing.assert_allclose(seconds["it"], 0.001)
    assert n_calls == 16 + 10 + 1 + 10  # as many in a round as fit into its time by the fastest of the first calls
    assert set(clock.slept) == {protocol.SLEEP}


def test_warming_up_comes_to_an_end_where_calls_stay_slow(clock):
    costs = iter([0.001] * 13)

    def call():
        clock.now += next(costs, 0.01)

    assert measure({"it": call}, rounds=1)["it"] == pytest.approx(0.01)


def test_slow_sides_take_part_in_fewer_rounds_but_not_in_fewer_than_asked(clock):
    calls = {"copy": clock.taking(9.0), "quick": clock.taking(0.001), "slow": clock.taking(1.0)}
    calls["crawling"] = clock.taking(50.0)
    seconds = measure(calls, always=1, rounds=12, longest=6.0, fewest=3)
    counts = {name: int(np.isfinite(values).sum()) for name, values in seconds.items()}
    assert counts == {"copy": 12, "quick": 12, "slow": 6, "crawling": 3}
    assert np.flatnonzero(np.isfinite(seconds["crawling"])).tolist() == [0, 4, 8]  # spread evenly


def test_sides_take_turns_in_a_random_order_that_the_seed_fixes(clock):
    def order(seed):
        names = []
        calls = {name: lambda name=name: names.append(name) or clock.taking(1.0)() for name in "abc"}
        measure(calls, seed=seed, rounds=6)
        return ["".join(names[i : i + 3]) for i in range(6, len(names), 3)]

    rounds = order(1)
    assert len(rounds) == 6
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    assert order(1) == rounds


# The peers


def without(monkeypatch, *packages):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find_spec(name))


def test_missing_peers_are_named_with_the_reason(monkeypatch):
    without(monkeypatch, "torch", "jax")
    found, missing = peers.find(peers.ENTRIES, 1)
    assert [peer.name for peer in found] == ["NumPy"]
    assert missing == {
        "PyTorch": "the package torch is not installed",
        "torch.compile": "the package torch is not installed",
        "JAX": "the package jax is not installed",
    }


def test_a_peer_that_does_not_start_is_named_with_the_reason(monkeypatch):
    def make(n_threads):
        raise OSError("libfancy.so is missing\nand more")

    monkeypatch.setattr("normdrop.bench.peers.numpy_formulas.make", make)
    assert peers.find(["numpy"], 1) == ([], {"NumPy": "it does not start: OSError: libfancy.so is missing"})


def test_torch_compile_without_a_compiler_is_named_with_the_reason(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert peers.find(["torch.compile"], 1) == ([], {"torch.compile": "there is no C++ compiler"})


def test_torch_compile_with_a_compiler_that_fails_is_named_with_the_reason(monkeypatch):
    torch = pytest.importorskip("torch")

    def refuse(*_, **__):
        raise RuntimeError("the compiler has no headers")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr("shutil.which", lambda name: name)
    found, missing = peers.find(["torch.compile"], torch.get_num_threads())
    assert found == []
    assert missing["torch.compile"].endswith("RuntimeError: the compiler has no headers")


SHAPES = [((4, 3, 5, 6), False), ((4, 3, 5, 6), True), ((16, 5), False)]
DENSE = ("NumPy", "JAX")  # they return channels-last results as (N, H, W, C)


def results_of(key, shapes, path):
    """Store what a peer computes, twice for what is random; run in an interpreter of its own."""
    import sys

    import numpy as np

    from normdrop.bench.batch import Batch
    from normdrop.bench.peers import find

    found, missing = find([key], 2)
    if missing:
        sys.stdout.write(str(missing))
        return
    arrays = {}
    for i, (shape, channels_last) in enumerate(shapes):
        batch = Batch(shape, channels_last)
        for name in ("batch_norm", "batch_norm_backward", "batch_norm_inference"):
            values = getattr(found[0], name)(batch)()
            if name == "batch_norm" and key == "jax":
                values = values[:1]  # without the running statistics
            for j, value in enumerate(values if isinstance(values, tuple) else [values]):
                arrays[f"{name} {i} {j}"] = np.asarray(value)
    big, channels = Batch((1 << 16,)), Batch((64, 32, 3, 2))
    for name, batch in {"dropout": big, "channel_dropout": channels, "dropout_backward": big}.items():
        call = getattr(found[0], name)(batch, 0.25)
        for j in range(2):
            arrays[f"{name} {j}"] = np.asarray(call()).copy()
    np.savez(path, **arrays)


def expected_of(batch):
    """Compute what `results_of` stores of batch normalization, by normdrop."""
    y, context = functional.batch_norm(batch.x, batch.gamma, batch.beta)
    statistics = batch.mean, batch.var, batch.gamma, batch.beta
    return {
        "batch_norm": [y],
        "batch_norm_backward": functional.batch_norm_backward(batch.dy, context),
        "batch_norm_inference": [functional.batch_norm_inference(batch.x, *statistics)[0]],
    }


@pytest.mark.jit
@pytest.mark.parametrize(
    ("key", "shapes"),
    [
        ("numpy", SHAPES),
        ("torch", SHAPES),
        pytest.param("torch.compile", SHAPES[:1], marks=pytest.mark.slow),
        ("jax", SHAPES),
    ],
)
def test_a_peer_computes_what_normdrop_computes(key, shapes, in_subprocess, tmp_path):
    entry = peers.ENTRIES[key]
    if importlib.util.find_spec(entry.package) is None:
        pytest.skip(f"{entry.package} is not installed")
    call = f"results_of({key!r}, {shapes}, {str(tmp_path / 'results.npz')!r})"
    if missing := in_subprocess(f"{inspect.getsource(results_of)}\n{call}"):
        assert key == "torch.compile", missing
        pytest.skip(missing)  # there need not be a compiler
    got = np.load(tmp_path / "results.npz")
    for i, (shape, channels_last) in enumerate(shapes):
        batch = Batch(shape, channels_last)
        for name, arrays in expected_of(batch).items():
            for j, array in enumerate(arrays):
                expected = batch.dense(array) if entry.name in DENSE and array.ndim > 1 else array
                np.testing.assert_allclose(got[f"{name} {i} {j}"], expected, rtol=1e-4, atol=1e-4)
    check_dropout(got, Batch((1 << 16,)), Batch((64, 32, 3, 2)))


def check_dropout(got, big, channels):
    for j in range(2):
        y, dx, z = (got[f"{name} {j}"] for name in ("dropout", "dropout_backward", "channel_dropout"))
        for output, values in ((y, big.x), (dx, big.dy), (z, channels.x)):
            kept = output != 0
            np.testing.assert_allclose(output, np.where(kept, values / 0.75, 0), rtol=1e-5)
            n = np.prod(output.shape[:2])
            assert abs(kept.mean() - 0.75) < 5 * (0.75 * 0.25 / n) ** 0.5
        kept = (z != 0).reshape(64, 32, 6)
        np.testing.assert_array_equal(kept.any(axis=2), kept.all(axis=2))  # whole channels
    for name in ("dropout", "channel_dropout"):
        assert np.any(got[f"{name} 0"] != got[f"{name} 1"])  # a new mask in each call
    np.testing.assert_array_equal(got["dropout_backward 0"], got["dropout_backward 1"])


@pytest.mark.jit
@pytest.mark.parametrize("name", sides.OURS)
@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_own_sides_compute_the_passes_and_reuse_the_output_only_if_they_shall(name, shape, channels_last):
    batch, ours = Batch(shape, channels_last), sides.Normdrop(name)
    for method, arrays in expected_of(batch).items():
        call = getattr(ours, method)(batch)
        results = [value if isinstance(value, tuple) else (value,) for value in (call(), call())]
        for got, expected in zip(results[0], arrays, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert (results[0][0] is results[1][0]) == (name == "normdrop")
        assert results[0][0].strides == batch.x.strides
    y = ours.dropout(batch, 0.5)()
    assert set(np.unique(np.asarray(y / batch.x).round(4))) == {0, 2}
    assert ours.dropout_backward(batch, 0.5)().shape == shape


def test_channels_last_batches_are_views_of_such_memory():
    batch = Batch((4, 3, 5, 6), channels_last=True)
    for array in (batch.x, batch.dy, batch.buffer()):
        assert array.shape == (4, 3, 5, 6)
        assert batch.dense(array).flags.c_contiguous
        assert batch.dense(array).shape == (4, 5, 6, 3)
    assert batch.axes == (0, 1, 2)
    assert batch.channel_mask == (4, 1, 1, 3)


def test_copies_copy(monkeypatch):
    batch = Batch((5, 3, 2, 2), channels_last=True)
    y = batch.buffer()
    monkeypatch.setattr(batch, "buffer", lambda: y)
    with study.ThreadPoolExecutor(2) as pool:
        for call in sides.copies(batch, pool, 2).values():
            y[...] = 0
            call()
            np.testing.assert_array_equal(y, batch.x)


# Files and tables, with sides that only move the clock


@pytest.fixture
def fake_sides(clock, monkeypatch):
    """Let a copy take 1 ms, normdrop 2 ms, 3 ms when allocating, and a peer 8 ms on 64 elements and 6 ms on others."""

    class Fake:
        version = "1.2"

        def __init__(self, name, seconds):
            self.name = name
            self.seconds = seconds

        def dropout(self, batch, p):
            return clock.taking(self.seconds(batch.x.size))

        def batch_norm(self, batch):
            return clock.taking(self.seconds(batch.x.size))

    class Ours(Fake):
        def __init__(self, name):
            super().__init__(name, lambda size: {"normdrop": 0.002, "normdrop, allocating": 0.003}[name])

        dropout_backward = Fake.dropout

    class Failing(Fake):
        def batch_norm(self, batch):
            raise ValueError("no such shape\nin line 3")

    peer = Fake("NumPy", lambda size: 0.008 if size == 64 else 0.006)
    failing = Failing("JAX", lambda size: 0.004)
    monkeypatch.setattr(study, "Normdrop", Ours)
    copies = dict(zip(sides.COPIES, (clock.taking(0.005), clock.taking(0.001)), strict=True))
    monkeypatch.setattr(study, "copies", lambda *_: copies)
    monkeypatch.setattr(command, "find", lambda keys, n_threads: ([peer, failing], {"PyTorch": "it is ill"}))
    return [peer, failing]


@pytest.mark.usefixtures("fake_sides")
def test_files_hold_what_was_measured(tmp_path, capsys):
    command.run(FEW, tmp_path, peers=["numpy", "torch", "jax"])
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    first = results["cases"][0]
    assert (first["family"], first["pass"], first["shape"]) == (cases.IN_CACHE, "dropout forward, p=0.5", [64])
    assert first["microseconds"]["normdrop"] == pytest.approx(2000)
    assert first["microseconds"]["copy"] == pytest.approx(1000)  # the faster one
    assert first["over_copy"]["normdrop, allocating"] == pytest.approx([3, 3, 3])
    assert first["over_normdrop"]["NumPy"] == pytest.approx([4, 4, 4])
    assert first["seconds"]["NumPy"] == pytest.approx([0.008] * 4)
    assert results["missing"] == {"PyTorch": "it is ill"}
    assert results["failures"][0]["library"] == "JAX"
    assert results["machine"]["versions"]["NumPy"] == "1.2"

    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| pass | shape | normdrop, µs | ÷ copy | allocating ÷ copy | NumPy | JAX |" in text
    assert "| dropout forward, p=0.5 | 64 | 2000 | 2.00 | 3.00 | 4.00 | 2.00 |" in text
    assert "| dropout forward, p=0.5 | 16 | 2000 | 2.00 | 3.00 | 3.00 | 2.00 |" in text
    assert "| batch norm forward | 2×3×2×2 | 2000 | 2.00 | 3.00 | 3.00 |\n" in text  # no column for who cannot
    printed = capsys.readouterr()
    for words in ("2.00", "3.00", "4.00", "normdrop, µs", "PyTorch: it is ill", "2×3×2×2: ValueError: no such shape."):
        assert words in text.replace("\n", " ")
        assert words in " ".join(printed.out.split())
    assert printed.err == ""  # no progress bar where nobody sees it move
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("fake_sides")
def test_a_pass_that_a_peer_does_not_have_is_a_dash(tmp_path):
    command.run(FEW, tmp_path, peers=["numpy"])
    assert "| dropout backward | 64 | 2000 | 2.00 | 3.00 | - | - |" in (tmp_path / "table.md").read_text("utf-8")


@pytest.mark.usefixtures("fake_sides")
def test_families_of_one_name_share_a_table(tmp_path):
    twice = dataclasses.replace(FEW, families=(FEW.families[0], dataclasses.replace(FEW.families[0], shapes=((8,),))))
    command.run(twice, tmp_path, peers=["numpy"])
    text = (tmp_path / "table.md").read_text("utf-8")
    assert text.count(f"**{FEW.families[0].name}, float32**") == 1
    assert text.count("| dropout forward, p=0.5 | 8 |") == 1


@pytest.mark.usefixtures("fake_sides")
def test_json_prints_the_results_and_nothing_else(tmp_path, capsys):
    command.run(FEW, tmp_path, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert printed.err == ""


@pytest.mark.usefixtures("fake_sides")
def test_peers_that_a_quick_run_leaves_out_are_named(tmp_path, capsys):
    command.run(FEW, tmp_path)
    assert "torch.compile: it takes too long for --quick" in capsys.readouterr().out


def test_copies_and_own_sides_take_part_in_every_round(fake_sides):
    done = study.Study(dataclasses.replace(FEW, longest=0.001), fake_sides)
    done.carry_out()
    for measured in done.measurements:
        counts = {side: int(np.isfinite(values).sum()) for side, values in measured.seconds.items()}
        assert all(counts[side] == 4 for side in (*sides.COPIES, *sides.OURS, study.COPY))
        assert all(counts.get(peer.name, 2) == 2 for peer in fake_sides)


def test_the_plot_has_one_line_per_library_with_the_measured_ratios(fake_sides):
    done = study.Study(FEW, fake_sides)
    done.carry_out()
    figure = plot.draw(done)
    found = {
        axes.get_title(): {
            line.get_label(): line.get_xydata().tolist()
            for line in axes.lines
            if not line.get_label().startswith("_")  # the line of the copy
        }
        for axes in figure.axes
    }
    assert list(found) == ["dropout forward, p = 0.5", "dropout backward", "batch norm forward, channels first"]
    forward = found["dropout forward, p = 0.5"]
    assert list(forward) == ["normdrop", "NumPy", "JAX"]
    np.testing.assert_allclose(forward["normdrop"], [[16, 2], [64, 2]])
    np.testing.assert_allclose(forward["NumPy"], [[16, 6], [64, 8]])
    assert list(found["batch norm forward, channels first"]) == ["normdrop", "NumPy"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_where_there_is_nothing_to_plot_there_is_no_plot(tmp_path):
    done = study.Study(FEW, [], "inference")
    done.carry_out()
    assert not plot.plot(done, tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.jit
def test_speed_up_of_threads_is_measured_with_that_many_threads(clock, monkeypatch):
    import numba

    n_threads = numba.get_num_threads()
    if n_threads == 1:
        pytest.skip("there is one thread")

    class Scaling:
        def __init__(self, name):
            pass

        def dropout(self, batch, p):
            def call():
                clock.now += 0.01 / numba.get_num_threads()

            return call

    monkeypatch.setattr(study, "Normdrop", Scaling)
    threads = (cases.Case("in cache", cases.HALF, (64,)),)
    done = study.Study(dataclasses.replace(FEW, on_threads=threads), [], "forward")
    done.cases = []
    done.carry_out()
    assert numba.get_num_threads() == n_threads
    assert done.speedups[0].ratio(study.ONE, study.ALL) == pytest.approx([n_threads] * 3)
    (table,) = report.tables(done)
    assert table.rows[0] == [
        "dropout forward, p=0.5",
        "64",
        "in cache",
        "10000",
        report.number(1e4 / n_threads),
        report.number(n_threads, 2),
    ]


@pytest.mark.parametrize("chosen", [settings.FULL, settings.QUICK])
def test_every_case_can_be_prepared_and_plotted(chosen):
    passes = {case.operation for case in (*chosen.cases(), *chosen.on_threads)}
    assert passes <= set(cases.PASSES)
    assert all(hasattr(sides.Normdrop, operation.method) for operation in passes)
    families = {family.name: {operation.name for operation in family.passes} for family in chosen.families}
    for panel in plot.PANELS:
        assert all(panel.operation.name in families[family] for family in panel.families)
    assert len({(case.family, case.operation, case.shape) for case in chosen.cases()}) == len(list(chosen.cases()))


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("batch_norm", {"batch norm forward", "batch norm backward", "batch norm inference"}),
        ("Channel", {"channel dropout forward"}),
        ("p=0.1", {"dropout forward, p=0.1"}),
        ("polka", set()),
    ],
)
def test_only_selects_passes_by_a_part_of_their_name(only, names):
    assert {case.operation.name for case in settings.FULL.cases(only)} == names


# The command line


@pytest.fixture
def small(monkeypatch):
    """Let --quick measure little."""
    small = dataclasses.replace(FEW, rounds=2, seconds=0.0001, on_threads=settings.QUICK.on_threads[:1])
    monkeypatch.setattr(settings, "QUICK", small)


@pytest.mark.jit
@pytest.mark.usefixtures("small")
def test_the_command_measures_with_a_real_clock(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert __main__.main(["bench", "--quick", "--peers", "numpy", "--json", "--output", str(folder)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["cases"]) == 5
    for case in results["cases"]:
        assert {"copy", "normdrop", "NumPy"} <= case["microseconds"].keys()
        assert all(0 < value < 1e6 for value in case["microseconds"].values())
    assert results["machine"]["versions"].keys() == {"Python", "normdrop", "Numba", "NumPy"}
    assert sorted(path.name for path in folder.iterdir()) == ["plot.png", "results.json", "table.md"]


def test_ctrl_c_gives_one_line_and_status_130(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    assert __main__.main(["bench", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "python -m normdrop: stopped\n"


def test_help_gives_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["bench", "--help"])
    assert stop.value.code == 0
    assert "python -m normdrop bench --quick" in capsys.readouterr().out


def test_unknown_peers_are_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["bench", "--peers", "numpy,theano"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "'theano'" in message
    assert "numpy,torch,torch.compile,jax" in message


def test_no_peers_can_be_asked_for(monkeypatch, tmp_path):
    asked = SimpleNamespace()
    monkeypatch.setattr(command, "run", lambda *arguments, **options: vars(asked).update(options))
    assert __main__.main(["bench", "--peers", "none", "--output", str(tmp_path)]) == 0
    assert asked.peers == []


def test_only_without_a_match_gives_one_line_with_the_passes(tmp_path, capsys):
    assert __main__.main(["bench", "--only", "polka", "--output", str(tmp_path / "new")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "'polka'" in message
    assert "batch norm backward" in message
    assert not (tmp_path / "new").exists()


def test_output_that_is_a_file_gives_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    for path in (file, file / "below"):
        assert __main__.main(["bench", "--quick", "--output", str(path)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert str(path) in message
    assert file.read_text() == "kept"


@pytest.mark.parametrize("module", ["rich", "matplotlib"])
def test_missing_extra_gives_one_line_that_says_what_to_install(module, tmp_path):
    code = (
        f"import sys; sys.modules[{module!r}] = None\nfrom normdrop.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    call = [sys.executable, "-c", code, "bench", "--output", str(tmp_path / "new")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "normdrop[bench]"' in done.stderr
    assert not (tmp_path / "new").exists()


def test_importing_the_bench_imports_no_peer(in_subprocess):
    code = """
    import sys
    import normdrop.bench.command, normdrop.__main__
    print([name for name in ("torch", "jax", "matplotlib") if name in sys.modules])
    """
    assert in_subprocess(code).strip() == "[]"


def test_peers_have_no_passes_but_those_of_normdrop():
    known = {operation.method for operation in cases.PASSES}
    assert all(hasattr(sides.Normdrop, method) for method in known)
    assert sides.Normdrop.version == normdrop.__version__
