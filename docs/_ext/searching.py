"""What the search of the pages must find: words that people come with, each in a title of the page that answers."""

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util.logging import getLogger

# Titles come first among what is found.
WORDS = {
    "Dask": "how-to/shared-batch",
    "freeze": "how-to/running-statistics",
    "Keras": "how-to/convert",
    "MPI": "how-to/shared-batch",
    "njit": "how-to/njit",
    "ONNX": "how-to/convert",
    "padding": "how-to/padded",
    "PyTorch": "how-to/pytorch",
    "scikit-learn": "how-to/pieces",
    "uncertainty": "uncertainty",
}


def _check(app: Sphinx, exception: Exception | None) -> None:
    """Warn of words that are not found where they must be."""
    index = Path(app.outdir, "searchindex.js")
    if exception or app.builder.name != "html" or not index.is_file():
        return
    found = json.loads(index.read_text(encoding="utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    search = SearchEnglish({})
    for words, page in WORDS.items():
        for word in search.split(words):
            places = found["titleterms"].get(search.stem(word.lower()), [])
            pages = [found["docnames"][place] for place in (places if isinstance(places, list) else [places])]
            if page not in pages:
                getLogger(__name__).warning("a search for %r finds no title of %s", word, page)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
