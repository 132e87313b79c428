"""The bench: files, tables and the plot hold what was measured."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("psutil")

from normdrop.bench import cases, command, plot, report, settings, sides, study

from ..bench_clock import FEW, stopped_clock


@pytest.fixture
def clock(monkeypatch):
    """Time by a clock that only moves when it is told to."""
    return stopped_clock(monkeypatch)


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

        def gaussian_dropout(self, batch, p):
            return clock.taking(0.007)

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
def test_relatives_of_dropout_stand_beside_dropout(tmp_path):
    family = cases.Family("noise", ((64,),), (cases.GAUSSIAN[0], cases.HALF))
    command.run(dataclasses.replace(FEW, families=(family,)), tmp_path, peers=["numpy"])
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "| normdrop, µs | ÷ copy | allocating ÷ copy | ÷ dropout | NumPy | JAX |" in text
    assert "| gaussian dropout forward | 64 | 7000 | 7.00 | 7.00 | 3.50 | - | - |" in text
    assert "| dropout forward, p=0.5 | 64 | 2000 | 2.00 | 3.00 | - | 4.00 | 2.00 |" in text


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
def test_what_available_memory_cannot_hold_is_left_out_and_named(tmp_path, capsys, monkeypatch):
    memory = SimpleNamespace(available=15_000_000_000, free=0)  # nothing would fit free memory alone
    monkeypatch.setattr(study.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(study, "bytes_of", lambda case: case.size * 250_000_000)
    monkeypatch.setattr(report, "bytes_of", study.bytes_of)
    command.run(FEW, tmp_path, peers=["numpy"])
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {tuple(case["shape"]) for case in results["cases"]} == {(16,), (2, 3, 2, 2)}
    assert {tuple(case["shape"]) for case in results["left_out"]} == {(64,)}
    printed = " ".join(capsys.readouterr().out.split())
    assert "Not measured: 64 (dropout forward, p=0.5, dropout backward): needs 16.0 GB of memory; available" in printed


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
        ("masked_batch_norm", {"masked batch norm forward", "masked batch norm backward"}),
        ("Channel_dropout", {"channel dropout forward"}),
        ("Drop_block", {"drop block forward", "drop block backward"}),
        ("p=0.1", {"dropout forward, p=0.1"}),
        ("polka", set()),
    ],
)
def test_only_selects_passes_by_a_part_of_their_name(only, names):
    assert {case.operation.name for case in settings.FULL.cases(only)} == names
