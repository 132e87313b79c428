"""The bench on the command line: what it writes, and one line for each thing that is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from normdrop import __main__

pytest.importorskip("rich")
pytest.importorskip("psutil")
pytest.importorskip("matplotlib")

from normdrop.bench import command, settings

from ..bench_clock import FEW


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


@pytest.mark.parametrize("module", ["rich", "matplotlib", "psutil"])
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
