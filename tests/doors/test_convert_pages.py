"""The code of the pages about conversions and folding runs, for each library that is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGES = Path(__file__).parents[2] / "docs" / "how-to"

pytestmark = [
    pytest.mark.once,
    pytest.mark.same,
    pytest.mark.skipif(not PAGES.exists(), reason="the docs do not lie beside the tests"),
]


def code_of(section, page="convert.md"):
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.search(rf"^## {section}\n.*?^```python\n(.*?)^```$", text, re.M | re.S)[1]


def run(*section):
    names = {}
    exec(code_of(*section), names)
    return names


def test_the_page_converts_from_and_to_pytorch():
    pytest.importorskip("torch")
    page = run("PyTorch")
    assert [type(page[name]).__name__ for name in ("norm", "dropout")] == ["BatchNorm1d", "Dropout"]
    assert repr(page["model"][1]) == repr(page["torch"].nn.BatchNorm1d(3))


def test_the_page_converts_from_and_to_keras(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    page = run("Keras")
    assert page["norm"].eps == 1e-3
    assert page["layer"].built


def test_the_page_converts_from_and_to_onnx():
    pytest.importorskip("onnx")
    page = run("ONNX")
    assert (page["norm"].momentum, page["norm"].eps, page["norm"].training) == (0.9, 1e-5, False)
    assert np.array_equal(page["norm"].running_var, np.ones(3))


def test_the_page_converts_from_and_to_flax(in_subprocess):
    pytest.importorskip("flax")
    check = "print(np.allclose(y, x / np.sqrt(1 + 1e-5)), norm.momentum)"
    assert in_subprocess(code_of("Flax") + check, JAX_PLATFORMS="cpu").split() == ["True", "0.99"]


def test_the_page_folds_a_norm_of_pytorch_as_pytorch_does():
    torch = pytest.importorskip("torch")
    page = run("Layers of other libraries", "fold.md")
    conv, norm, x = page["conv"], page["norm"].eval(), torch.randn(2, 4, 5, 5)
    plain = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    plain.weight.data = conv.weight.data / scale.detach()[:, None, None, None]
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(plain.eval(), norm)
    assert torch.allclose(conv(x), norm(plain(x)), atol=1e-5)
    assert torch.allclose(conv(x), fused(x), atol=1e-5)
