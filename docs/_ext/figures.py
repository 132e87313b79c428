"""Figures that the build makes: each file of docs/_figures draws some, and pages show them from docs/_drawn."""

import importlib.util
from pathlib import Path

from sphinx.application import Sphinx


def _draw(app: Sphinx) -> None:
    target = Path(app.srcdir) / "_drawn"
    target.mkdir(exist_ok=True)
    for path in sorted((Path(app.srcdir) / "_figures").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, figure in module.figures():
            figure.savefig(target / f"{path.stem}-{name}.png", dpi=120)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
