"""The code of the page about PyTorch runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "pytorch.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the docs do not lie beside the tests")
def test_the_page_about_pytorch_swaps_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, fourth = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    exec(first, names)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "is",
        "3",  # normdrop.torch.BatchNorm1d, fused with 2, 3
        "normdrop.torch.Dropout",
    ]
    assert int(names["model"][1].num_batches_tracked) == 1  # type: ignore[index]
    exec(second, names)
    assert names["Block"](4)(torch.ones(2, 4, 5, 5)).shape == (2, 4, 5, 5)  # type: ignore[operator]
    exec(third, names)
    assert names["net"](torch.ones(4, 64)).shape == (4, 256)  # type: ignore[operator]
    exec(fourth, names)
    assert type(names["model"][1]).__name__ == "SyncBatchNorm"  # type: ignore[index]
