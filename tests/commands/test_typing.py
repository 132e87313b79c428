"""Type checkers see what is right and what is misspelt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

GOOD = """
import numpy as np
import normdrop
from normdrop.functional import BatchNormContext, InferenceContext

norm, drop = normdrop.BatchNorm(4), normdrop.Dropout2d(0.5)
x = np.ones((2, 4), np.float32)
y: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = drop(norm(x))
y, context = norm.forward(x, return_context=True)
kept: BatchNormContext | InferenceContext = context
dx: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = norm.backward(y, context=context, accumulate=True)
masked = drop(x, mask=np.ones((2, 4), np.bool_))
norm(x, keep_x=True)
children: list[normdrop.Dropout2d] = drop.spawn(2)
fused = normdrop.BatchNormAct2d(4, activation=("leaky_relu", 0.2), p=0.1, shared_axes=(2, 3))
y = fused(x, y)
dx, dresidual = fused.backward(y)
y, both = fused.forward(x, out=y, return_context=True)
norm.momentum = None
drop.p = 0.25
"""

BAD = {
    "drop(x, msk=None)": "call-arg",
    "drop(x, keep_x=True)": "call-arg",
    "norm(x, keepx=True)": "call-arg",
    "norm.momentun = 0.5": "attr-defined",
    "norm.backward(x, contxt=None)": "call-arg",
    "fused(x, residul=x)": "call-arg",
    "z: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = norm(x)": "arg-type",
}


@pytest.mark.slow
def test_what_the_layers_offer_passes_a_type_checker_and_what_is_misspelt_does_not(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    programs = {"good": GOOD, "bad": GOOD + "\n".join(BAD) + "\n"}
    if README.exists():  # the tests may run without the tree
        lines = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", README.read_text(), re.MULTILINE)
        assert any("norm.parameters()" in line for line in lines)
        programs["readme"] = "\n".join(lines) + "\n"
    for name, code in programs.items():
        (tmp_path / f"{name}.py").write_text(code)
    files = [str(tmp_path / f"{name}.py") for name in programs]
    out, err, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), *files])
    assert not err
    errors = re.findall(r"(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]", out)
    assert {name for name, _, _ in errors} == {"bad"}, out
    first = len(GOOD.splitlines()) + 1
    assert {int(line) - first: kind for _, line, kind in errors} == dict(enumerate(BAD.values())), out
