"""The commands with --device cuda, and what they say where there is no GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.simulated

pytest.importorskip("rich")


@pytest.mark.parametrize("name", ["demo", "bench"])
def test_without_a_gpu_a_command_says_what_is_missing(in_subprocess, name):
    pytest.importorskip("sklearn")
    code = f"""
    import contextlib, io
    from normdrop import _device
    from normdrop.__main__ import main

    if _device.describe().startswith("no: "):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main([{name!r}, "--quick", "--device", "cuda"]) == 2
        assert "--device cuda: " in said.getvalue(), said.getvalue()
        assert "GPU" in said.getvalue()
    """
    in_subprocess(code, NUMBA_ENABLE_CUDASIM="0")


@pytest.mark.cuda
def test_bench_measures_every_pass_beside_a_copy(tmp_path, capsys):
    from normdrop.bench import cuda

    amount = cuda.Amount((40,), ((2, 2, 2, 4),), rounds=1, calls=1)
    cuda.run(amount, tmp_path)
    table = capsys.readouterr().out
    assert (tmp_path / "cuda.md").read_text(encoding="utf-8") == table
    rows = json.loads((tmp_path / "cuda.json").read_text())["rows"]
    passes = {"dropout", "dropout backward", "batch norm", "batch norm backward"}
    assert {row["name"] for row in rows} == passes
    assert {row["layout"] for row in rows} == {"", "first", "last"}
    assert len(rows) == 12
    for row in rows:
        assert row["microseconds"].keys() >= {"copy", "normdrop"}
        assert row["of_copy"] > 0
        assert f"| {row['name']} | {' × '.join(map(str, row['shape']))} | {row['layout']} | {row['dtype']} |" in table
    for entry in table.splitlines()[2:-2]:
        assert entry.count("|") == 12
    cuda.run(amount, tmp_path, only="dropout_back", as_json=True)
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"dropout backward"}


def test_bench_takes_turns_in_both_orders_on_a_gpu_and_compares_within_a_round(monkeypatch):
    from normdrop.bench import cuda

    sides = {"copy": lambda: "copy", "normdrop": lambda: "normdrop"}
    seconds = {"copy": iter([1.0, 2.0, 9.0]), "normdrop": iter([4.0, 1.0, 9.0])}
    turns = []

    def fake_time(call, n_calls):
        turns.append(call())
        return next(seconds[call()]), 1.0

    monkeypatch.setattr(cuda, "_sides", lambda arrays, name: sides.items())
    monkeypatch.setattr(cuda, "_time", fake_time)
    arrays = SimpleNamespace(shape=(8,), dtype=np.dtype(np.float32))
    (row,) = cuda._measured(cuda.Amount((), (), rounds=3, calls=1), arrays, "", ["dropout"])
    rounds = [tuple(turns[i : i + 2]) for i in range(0, 6, 2)]
    assert rounds[0] == rounds[1][::-1] == rounds[2]
    numbers = row.numbers()
    assert numbers["of_copy"] == 1  # of 1/4, 2 and 1; the medians of the times are 2 and 4
    assert numbers["microseconds"] == {"copy": 2e6, "normdrop": 4e6}


@pytest.mark.cuda
def test_bench_leaves_out_shapes_that_do_not_fit_into_the_gpu(tmp_path, capsys, monkeypatch):
    from normdrop._cuda import launch
    from normdrop.bench import cuda

    context = SimpleNamespace(get_memory_info=lambda: (5 * 4 * 50, 1 << 30))
    monkeypatch.setattr(launch.cuda, "current_context", lambda: context)
    monkeypatch.setattr(cuda, "_torch", lambda: None)
    cuda.run(cuda.Amount((40, 60), (), rounds=1, calls=1), tmp_path, only="dropout_back", as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["shape"] for row in rows if row["dtype"] == "float32"] == [[40]]


def test_bench_on_a_gpu_needs_no_other_packages_and_names_its_passes(in_subprocess):
    code = """
    import contextlib, importlib.util, io
    from normdrop import _device
    from normdrop.__main__ import main

    importlib.util.find_spec = lambda name: None
    _device.describe = lambda: "no: GPU"
    for option, words in (("nothing", "dropout backward, batch norm"), ("batch_norm_back", "--device cuda: GPU")):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main(["bench", "--device", "cuda", "--only", option]) == 2
        assert words in said.getvalue(), said.getvalue()
    """
    in_subprocess(code)


@pytest.mark.cuda
def test_layers_of_the_demo_learn_on_a_gpu_as_on_the_host():
    import normdrop
    from normdrop.demo import networks

    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    outcomes = []
    for gpu in (False, True):
        networks.use_gpu(gpu)
        try:
            network = networks.Network([normdrop.BatchNorm(4), normdrop.Dropout(0.5, rng=0)])
        finally:
            networks.use_gpu(False)
        assert isinstance(network.layers[0], normdrop.Layer) is not gpu
        optimizer = networks.SGD(network)
        network.train()
        for _ in range(2):
            y = network.forward(x)
            network.backward(x)
            optimizer.step(0.1)
        network.thin()
        outcomes.append([y, network.forward(x), *(value for _, value, _ in network.parameters())])
        assert all(isinstance(value, np.ndarray) for value in outcomes[-1])
    for expected, computed in zip(*outcomes, strict=True):
        np.testing.assert_allclose(computed, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.cuda
def test_info_names_what_arrays_would_be_moved_to():
    from normdrop import _device

    assert not _device.describe().startswith("no: ")
