"""Sphinx configuration. The pages are MyST, the reference comes from numpydoc docstrings; nothing needs the network."""

import os
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
    "batches",
    "channels",
    "ensembles",
    "figures",
    "gallery",
    "performance",
    "scale_facts",
    "scaling",
    "searching",
    "tracking",
    "tutorial",
    "uncertainty",
    "variance",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
]
needs_sphinx = "8.0"
exclude_patterns = ["_build", "_*.md"]  # parts that pages include
nitpicky = True
# Links to other projects take their inventories from the network, which a build elsewhere does not need.
intersphinx_mapping = (
    {
        "numba": ("https://numba.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)
nitpick_ignore_regex = [] if intersphinx_mapping else [("py:.*", r"(numpy|torch)\..*")]
default_role = "autolink"
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
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
copybutton_exclude = ".linenos, .gp, .go"  # without prompts and output
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "native"


def _close_blocks(app: Sphinx, name: str, source: list[str]) -> None:
    """Drop the blank line that tells doctest where the expected output of a code block ends."""
    source[0] = re.sub(r"\n\n```$", "\n```", source[0], flags=re.MULTILINE)


def setup(app: Sphinx) -> None:
    app.connect("source-read", _close_blocks)
