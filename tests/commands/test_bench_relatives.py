"""The bench's relatives of dropout: normdrop's and PyTorch's do the same, and the table has each of them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from normdrop.bench import cases, sides
from normdrop.bench.batch import Batch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.jit


@pytest.mark.parametrize("name", sides.OURS)
@pytest.mark.parametrize("operation", cases.RELATIVES, ids=lambda operation: operation.method)
def test_own_relatives_draw_anew_in_each_call_but_not_for_their_gradients(name, operation):
    batch = Batch((6, 8, 9, 10))
    call = getattr(sides.Normdrop(name), operation.method)(batch, *operation.arguments)
    results = [call(), call()]
    assert (results[0] is results[1]) == (name == "normdrop")
    first, second = (call().copy() for _ in range(2))
    assert first.shape == batch.shape
    assert np.array_equal(first, second) == operation.method.endswith("_backward")
    values = batch.dy if operation.method.endswith("_backward") else batch.x
    assert np.array_equal(first, values) == (operation.method == "gaussian_noise_backward")


def torch_relatives(path):
    """Store what PyTorch's relatives of dropout compute; run in an interpreter of its own."""
    import numpy as np

    from normdrop.bench import cases
    from normdrop.bench.batch import Batch
    from normdrop.bench.peers import find

    (peer,), _ = find(["torch"], 1)
    arrays, batch = {}, Batch((64, 16, 9, 9))
    for operation in cases.RELATIVES:
        if hasattr(peer, operation.method):
            arrays[operation.method] = np.asarray(getattr(peer, operation.method)(batch, *operation.arguments)())
    np.savez(path, **arrays)


def test_relatives_of_pytorch_have_the_moments_of_ours(in_subprocess, tmp_path):
    pytest.importorskip("torch")
    in_subprocess(f"{inspect.getsource(torch_relatives)}\ntorch_relatives({str(tmp_path / 'results.npz')!r})")
    got, batch, ours = np.load(tmp_path / "results.npz"), Batch((64, 16, 9, 9)), sides.Normdrop(sides.OURS[1])
    here = {operation.method for operation in cases.RELATIVES}
    assert here - set(got) == {
        "gaussian_noise_backward",  # the gradient itself
        *(f"varied_{what}{way}" for what in ("channels", "elements") for way in ("", "_backward")),
    }
    for operation in cases.RELATIVES:
        if operation.method in got:
            y, expected = got[operation.method], getattr(ours, operation.method)(batch, *operation.arguments)()
            values = batch.dy if operation.method.endswith("_backward") else batch.x
            # What is dropped together is one draw, of which a batch has 64 at least.
            spread = 8 / 64**0.5 if "path" in operation.method else 8 / (64 * 16) ** 0.5
            for a, b in ((y, expected), (y * values, expected * values), (y**2, expected**2), (y == 0, expected == 0)):
                assert abs(a.mean() - b.mean()) < spread * (np.abs(b).mean() + 0.05), operation.name


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the tests run without the repository around them")
def test_the_table_of_relatives_has_each_pass_beside_what_it_is_held_to(tmp_path):
    call = [sys.executable, "-W", "error", str(FOLDER), "family", "--output", str(tmp_path)]
    env = os.environ | {"NORMDROP_BENCH_SMOKE": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "family.txt").read_text(encoding="utf-8").splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, _, *rows = rows
    assert header[3:7] == ["bound", "÷ bound", "÷ copy", "÷ dropout"]
    relatives = ["gaussian dropout", "gaussian noise", "alpha dropout", "dropout, p per element,"]
    relatives += ["dropout, p per channel,", "feature alpha dropout", "drop path", "drop block", "drop connect"]
    assert {row[0] for row in rows if "one mask" not in row[0]} == {
        f"{name} {way}" for name in relatives for way in ("forward", "backward")
    }
    for row in rows:
        held, copy, dropout = row[4:7]
        assert float(held) > 0 < float(copy)
        assert (dropout == "-") == row[0].startswith("drop connect")
        if row[3] == "3 copies":
            assert float(held) == pytest.approx(float(copy) / 3, abs=0.01)
        if row[3] == "1.5 dropouts":
            assert float(held) == pytest.approx(float(dropout) / 1.5, abs=0.01)
