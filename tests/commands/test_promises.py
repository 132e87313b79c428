"""The page of promises names tests that exist, in every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
DOCS = HERE.parent / "docs"
PAGES = ["promises.md", "_promises_safety.md"]

pytestmark = pytest.mark.skipif(not (DOCS / "promises.md").exists(), reason="the docs do not lie beside the tests")


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_promise_names_exists(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert named
    assert text.count("::test_") == len(named), "a name that is not written as `file.py::test`"
    files = {path.name: path for path in HERE.rglob("test_*.py")}
    missing = [f"{file}::{name}" for file, name in named if file not in files or name not in _functions(files[file])]
    assert missing == []


def test_no_two_files_of_tests_have_one_name():
    names = [path.name for path in HERE.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_a_test(page):
    rows = [line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    bare = [row for row in rows if row != "| promise | test |" and "::test_" not in row]
    assert rows
    assert bare == []


def test_the_table_of_errors_keeps_the_bounds():
    """The committed table, whose numbers of normdrop must be within what the law promises."""
    lines = (DOCS / "_accuracy.md").read_text(encoding="utf-8").splitlines()
    heads = [head.strip() for head in lines[0].strip("|").split("|")]
    bounds = {"variance, normdrop": 1e-9, "output, normdrop": 1e-7}
    assert len(lines) > 20
    for line in lines[2:]:
        cells = dict(zip(heads, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        for head, bound in bounds.items():
            assert float(cells[head]) <= bound, line
