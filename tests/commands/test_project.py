"""The project's files say the same as the package."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

import normdrop

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def text(name: str) -> str:
    if not (ROOT / name).exists():
        pytest.skip(f"{name} does not lie beside the tests")
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("recipe/recipe.yaml", r'^  version: "(.+)"$'),
        ("CHANGELOG.md", r"^## (\S+) - (?:unreleased|\d{4}-\d\d-\d\d)$"),
    ],
)
def test_a_file_names_the_version_of_the_package(name: str, pattern: str) -> None:
    assert re.findall(pattern, text(name), re.M)[0] == normdrop.__version__


def test_the_oldest_packages_that_are_allowed_are_those_that_are_tested() -> None:
    tested = dict(re.findall(r"^(\w+)==(\S+)$", text("tests/oldest.txt"), re.M))
    allowed = dict(re.findall(r"(\w+)>=([\d.]+)", " ".join(PYPROJECT["project"]["dependencies"])))
    assert {name: f"{version}.0"[: len(tested[name])] for name, version in allowed.items()} == tested


def test_asv_measures_all_commits_with_the_same_numba_numpy_and_pytorch() -> None:
    required = json.loads(re.sub(r"^ *//.*$", "", text("benchmarks/asv.conf.json"), flags=re.M))["matrix"]["req"]
    pinned = {name: versions for name, versions in required.items() if versions != [""]}
    assert set(pinned) >= {"numba", "numpy", "torch"}
    assert all(len(versions) == 1 and re.fullmatch(r"\d+\.\d+\.\d+", versions[0]) for versions in pinned.values())
    assert PYPROJECT["project"]["optional-dependencies"]["peers"] == [f"torch=={pinned['torch'][0]}"]


@pytest.mark.parametrize("name", [".github/workflows/tests.yml"])
def test_sessions_that_are_called_are_in_the_noxfile(name: str) -> None:
    called = set(re.findall(r'(?:session "\$\S+bin"|session "\$bin"|session:) ([\w-]+)', text(name)))
    known = re.findall(r"^def (\w+)\(session", text("noxfile.py"), re.M)
    assert called
    assert {session.replace("-", "_") for session in called} <= set(known)


def test_commands_and_files_of_the_contributors_page_exist_and_it_has_every_session() -> None:
    page = text("CONTRIBUTING.md") + text("docs/contributing.md")
    known = re.findall(r"^def ([a-z]\w+)\(session", text("noxfile.py"), re.M)
    named = re.findall(r"nox -s ([\w-]+)", page)
    assert {name.replace("-", "_") for name in named} == set(known)
    spans = re.findall(r"`([^`\n]+)`", page)
    paths = {word for span in spans for word in span.split() if re.search(r"^[.\w]+/|^\w+\.(md|toml|cff)$", word)}
    paths = {path for path in paths if not path.startswith((".venv/", "build/"))}
    assert len(paths) > 30
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    commands = re.findall(r'"(\w+)"', re.findall(r"^COMMANDS = .*", text("benchmarks/__main__.py"), re.M)[0])
    assert {span.split()[2] for span in spans if span.startswith("python benchmarks ")} <= set(commands)
