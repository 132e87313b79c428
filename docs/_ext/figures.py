"""Figures and numbers of the pages, computed while they are built: none is typed by hand.

A module of this folder calls `register` with its drawings, its tables and a function that returns its numbers. On a
page, the directive `figure-of` draws one, `table-of` sets a table, and {number}`name` is one number. A figure is SVG
inside the page, its letters text and its black the color of the page's text, so that it is read in light and dark, and
at the width of a phone.
"""

import doctest
import functools
import html
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from docutils import nodes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# Okabe and Ito's colors, which color-blind people tell apart.
BLACK, ORANGE, SKY, GREEN, RED, PINK, BLUE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#0072B2",
)
GRAY = "#808080"  # seen on white and on black
WIDTH = 5.2  # inches: 500 pixels, hardly made smaller on a phone
STYLE = {
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PINK]),
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
PAGES = Path(__file__).parents[1]

Drawing = Callable[[Any], None]
Table = Callable[[], list[list[str]]]

_drawings: dict[str, tuple[Drawing, float, bool]] = {}
_numbers: list[Callable[[], Mapping[str, str]]] = []
_tables: dict[str, Table] = {}


def register(
    drawings: Mapping[str, Drawing] | None = None,
    numbers: Callable[[], Mapping[str, str]] | None = None,
    tables: Mapping[str, Table] | None = None,
    *,
    height: float = 3.2,
    whole: bool = False,
) -> None:
    """Make drawings, numbers and tables known; a drawing gets axes, or with `whole` the figure itself."""
    for name, drawing in (drawings or {}).items():
        _drawings[name] = drawing, height, whole
    if numbers is not None:
        _numbers.append(numbers)
    _tables.update(tables or {})


@functools.cache
def names_of(page: str) -> dict[str, Any]:
    """Run the code of a page and return its names."""
    found: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples((PAGES / page).read_text(encoding="utf-8")):
        exec(example.source, found)  # the page's own code
    return found


@functools.cache
def svg(name: str, *, transparent: bool = True) -> str:
    """Return a figure, the same text from the same numbers."""
    drawing, height, whole = _drawings[name]
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        if whole:
            drawing(figure)
        else:
            axes = figure.subplots()
            drawing(axes)
            if axes.get_legend_handles_labels()[1] and axes.get_legend() is None:
                axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        to = io.StringIO()
        figure.savefig(to, format="svg", metadata={"Date": None}, transparent=transparent)
    return to.getvalue()


def in_page(name: str, text: str) -> str:
    """Return a figure as a part of a page; its text is for those who do not see it."""
    drawn = re.sub(r"^.*?(?=<svg)", "", svg(name), flags=re.DOTALL)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"#000000\b", "currentColor", drawn)
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", drawn)
    # Text has no color of its own where it is black.
    drawn = drawn.replace("<svg ", '<svg class="drawn" fill="currentColor" ', 1)
    return f'<figure class="drawn" role="img" aria-label="{html.escape(text, quote=True)}">{drawn}</figure>'


@functools.cache
def numbers() -> dict[str, str]:
    """Return all numbers, by name."""
    found: dict[str, str] = {}
    for each in _numbers:
        more = each()
        twice = found.keys() & more.keys()
        if twice:
            raise ValueError(f"numbers have one name: {sorted(twice)}")
        found.update(more)
    return found


def _number(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[Any]]:
    return [nodes.Text(numbers()[text])], []


class FigureOf(SphinxDirective):
    """A figure by its name; the content says what is seen, for those who do not see it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", in_page(self.arguments[0], " ".join(self.content)), format="html")]


class TableOf(SphinxDirective):
    """A table by its name: rows of text, the first of them the heads; all columns but the first to the right."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        head, *body = _tables[self.arguments[0]]()
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += [nodes.thead("", self._row(head)), nodes.tbody("", *map(self._row, body))]
        return [nodes.table("", group, classes=["numbers"])]

    @staticmethod
    def _row(cells: list[str]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("number", _number)
    app.add_directive("figure-of", FigureOf)
    app.add_directive("table-of", TableOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
