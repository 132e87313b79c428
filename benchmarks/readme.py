"""Take the results of a benchmark over into docs/_results, and write what README.md shows of them."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLOT = ROOT / "docs" / "_static" / "peers.svg"


def _pages() -> Any:
    """Return the module that makes figures and tables of the results."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    import performance

    return performance


def readme(text: str) -> str:
    """Return README.md with the table of the results between its marks."""
    pages = _pages()
    table = f"{pages.markdown(pages.training_rows())}\n\nMeasured on {pages.numbers()['machine']}."
    done, n = re.subn(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", f"\n{table}\n\n", text, flags=re.DOTALL)
    if n != 1:
        raise ValueError("README.md must have the marks <!-- results --> and <!-- end of results --> once")
    return done


def take(folder: Path) -> None:
    """Take results over, without the single times of passes, which are many."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for each in (*found["cases"], *found["threads"]):
        del each["seconds"]
    lines = {key: [json.dumps(one) for one in found[key]] for key in ("cases", "threads")}
    rest = {key: value for key, value in found.items() if key not in lines}
    parts = [f'"{key}": {json.dumps(value)}' for key, value in rest.items()]
    parts += [f'"{key}": [\n' + ",\n".join(ones) + "\n]" for key, ones in lines.items()]
    results = _pages().RESULTS
    (results / "passes.json").write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    shutil.copy(folder / "table.md", PLOT.with_name("performance.txt"))
    shutil.copy(folder / "training.md", PLOT.with_name("training.txt"))


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python benchmarks readme", description=__doc__)
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="take the results in this folder over first")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if README is made of other results")
    options = parser.parse_args(arguments)
    if options.take:
        take(options.take)
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    made = readme(text)
    if options.check:
        if made != text:
            print("README.md is not what the results say; run python benchmarks readme", file=sys.stderr)
        return int(made != text)
    path.write_text(made, encoding="utf-8")
    PLOT.write_text(_pages().svg("peers-readme", transparent=False), encoding="utf-8")
    print("Written:", path, PLOT)
    return 0
