"""The reference has every public name: on one of its pages, and with an example."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import normdrop

PAGES = Path(__file__).parents[2] / "docs" / "reference"
COMMANDS = ("bench", "demo")  # their page is that of the command line
PUBLIC = sorted(m.name for m in pkgutil.iter_modules(normdrop.__path__) if m.name[0] != "_" and m.name not in COMMANDS)
MODULES = ["normdrop", *(f"normdrop.{name}" for name in PUBLIC), "normdrop.torch.functional"]

pytestmark = pytest.mark.same


def _offered(module: str) -> Iterator[tuple[str, Any]]:
    """Names and values of what a module offers, but for its modules."""
    found = pytest.importorskip(module, exc_type=ImportError)
    for name in found.__all__:
        if not inspect.ismodule(getattr(found, name)):
            yield name, getattr(found, name)


@cache
def _described() -> tuple[list[str], str]:
    """Full names of what the pages describe, and their text."""
    if not PAGES.exists():
        pytest.skip("the docs do not lie beside the tests")
    names, text = [], ""
    for page in sorted(PAGES.glob("*.md")):
        words, current = page.read_text(encoding="utf-8"), ""
        text += words
        for directive, name in re.findall(r"^\.\. (currentmodule|autofunction|autoclass):: (\S+)", words, re.M):
            if directive == "currentmodule":
                current = name
            else:
                names.append(name if name.startswith("normdrop.") else f"{current}.{name}")
    return names, text


def _is_code(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _value(full_name: str) -> Any:
    module, _, name = full_name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:  # of a door whose library is missing
        return None


def _is_described(module: str, name: str, value: Any) -> bool:
    """Whether a page has a class or function, under any of the names that it has; or names anything else."""
    names, text = _described()
    if not _is_code(value):
        return f"`{module}.{name}`" in text
    return any(_value(full) is value for full in names if full.endswith(f".{name}"))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_page_of_the_reference(module: str) -> None:
    assert [name for name, value in _offered(module) if not _is_described(module, name, value)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_class_and_function_has_an_example(module: str) -> None:
    having = re.compile(r"^Examples\n-{8}\n(.*\n)*?>>> ", re.M)
    offered = [(name, inspect.getdoc(value) or "") for name, value in _offered(module) if _is_code(value)]
    assert [name for name, text in offered if not having.search(text)] == []
