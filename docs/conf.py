"""Sphinx configuration. The pages are MyST, the reference comes from numpydoc docstrings; nothing needs the network."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

import normdrop

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "normdrop"
author = "normdrop contributors"
project_copyright = "2026, normdrop contributors"
version = release = normdrop.__version__

extensions = [
    "ensembles",
    "figures",
    "performance",
    "uncertainty",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
needs_sphinx = "8.0"
exclude_patterns = ["_build", "_*.md"]  # parts that pages include
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(numpy|torch)\..*")]  # no links to other projects: that would need the network
default_role = "autolink"
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # types stand in the docstrings, in words
autodoc_mock_imports = [] if find_spec("torch") else ["torch"]
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"normdrop {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["normdrop.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "native"


def _close_blocks(app: Sphinx, name: str, source: list[str]) -> None:
    """Drop the blank line that tells doctest where the expected output of a code block ends."""
    source[0] = re.sub(r"\n\n```$", "\n```", source[0], flags=re.MULTILINE)


def setup(app: Sphinx) -> None:
    app.connect("source-read", _close_blocks)
