"""The bits of batch normalization are those of the golden file, compiled or not, on every machine."""

from __future__ import annotations

import json
import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.same, pytest.mark.kinds]

HERE = Path(__file__).parents[1]
MAKER = runpy.run_path(str(HERE / "make_golden_statistics.py"))
GOLDEN = json.loads((HERE / "data" / "golden_statistics.json").read_text(encoding="utf-8"))


def _name(row):
    return f"{tuple(row['shape'])}-{row['dtype']}"


def test_the_golden_file_has_a_row_for_each_case():
    assert [(tuple(row["shape"]), row["dtype"], row["channel_axis"]) for row in GOLDEN] == MAKER["cases"]()


@pytest.mark.parametrize("golden", GOLDEN, ids=_name)
def test_kernels_give_the_golden_bits(golden):
    assert MAKER["row"](tuple(golden["shape"]), golden["dtype"], golden["channel_axis"]) == golden


@pytest.mark.parametrize("golden", [row for row in GOLDEN if np.prod(row["shape"]) < 2000], ids=_name)
def test_golden_statistics_are_the_exact_rational_ones_to_ten_digits(golden):
    x, dy, _, _ = MAKER["inputs"](tuple(golden["shape"]), golden["dtype"], golden["channel_axis"])
    channels = [
        np.moveaxis(values, golden["channel_axis"], 0).reshape(x.shape[golden["channel_axis"]], -1)
        for values in (x, dy)
    ]
    for c in range(len(golden["mean"])):
        numbers, gradients = ([Fraction(float(value)) for value in values[c]] for values in channels)
        mean = sum(numbers) / len(numbers)
        var = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        assert float.fromhex(golden["mean"][c]) == pytest.approx(float(mean), rel=1e-15)
        assert float.fromhex(golden["var"][c]) == pytest.approx(float(var), rel=1e-10)
        inv_std = (float(var) + 1e-5) ** -0.5
        products = sum(d * (number - mean) for d, number in zip(gradients, numbers, strict=True))
        scale = float(sum(map(abs, gradients)))
        assert abs(float.fromhex(golden["dbeta"][c]) - float(sum(gradients))) <= 1e-12 * scale
        assert abs(float.fromhex(golden["dgamma"][c]) - float(products) * inv_std) <= 1e-9 * scale
