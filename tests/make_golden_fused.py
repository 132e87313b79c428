"""Write data/golden_fused.json: relu, dropout and a residual sum in one pass, in exact arithmetic.

Nothing of normdrop and no NumPy takes part: values are fractions, rounded after every step, and masks those of
`make_golden_masks.py`. Run it only to add rows; a row that changes is a broken law.
"""

from __future__ import annotations

import json
import random
import runpy
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

GOLDEN = Path(__file__).parent / "data" / "golden_fused.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL, N = (0x243F6A88, 0x85A308D3), 2**40 + 5, 48


class Format(NamedTuple):
    """Digits of a significand, exponent of the smallest normal number, bits of the stored significand and exponent."""

    digits: int
    least: int
    fraction_bits: int
    exponent_bits: int


FORMATS = {
    "float16": Format(11, -14, 10, 5),
    "bfloat16": Format(8, -126, 7, 8),
    "float32": Format(24, -126, 23, 8),
    "float64": Format(53, -1022, 52, 11),
}


def rounded(value: Fraction, to: Format) -> Fraction:
    """To nearest, ties to even; what is too large does not occur here."""
    if value == 0:
        return value
    exponent = to.least
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - to.digits + 1)
    return round(value / unit) * unit  # Python's round goes to even


def stored(value: Fraction, name: str) -> Fraction:
    """16-bit values are computed in float32, and rounded again."""
    return rounded(rounded(value, FORMATS["float64" if name == "float64" else "float32"]), FORMATS[name])


def bits(value: Fraction, name: str) -> int:
    """The bits of a value of the format; 0 is +0."""
    to = FORMATS[name]
    if value == 0:
        return 0
    sign, value, exponent = value < 0, abs(value), to.least
    while value >= Fraction(2) ** (exponent + 1):
        exponent += 1
    significand = value / Fraction(2) ** (exponent - to.digits + 1)
    assert significand.denominator == 1
    biased = exponent - to.least + 1 if int(significand) >> to.fraction_bits else 0
    return (
        sign << to.fraction_bits + to.exponent_bits
        | biased << to.fraction_bits
        | int(significand) & ((1 << to.fraction_bits) - 1)
    )


def row(name: str, p: float) -> dict[str, object]:
    """y of `N` elements; x is a NaN wherever it is dropped and divisible by 3."""
    threshold = LAW["threshold_of"](p)
    scale = 1.0 / (1.0 - threshold / 2**32)
    factor = rounded(Fraction(scale), FORMATS["float64" if name == "float64" else "float32"])
    numbers = random.Random(f"{name} {p}")
    x, r, y = [], [], []
    for i in range(N):
        a, b = (stored(Fraction(numbers.gauss(0.5, 2.0)), name) for _ in range(2))
        kept = LAW["is_kept"](i, KEY, CALL, threshold)
        dropped_nan = not kept and i % 3 == 0
        to = FORMATS[name]
        x.append((1 << to.fraction_bits + to.exponent_bits) - 1 if dropped_nan else bits(a, name))
        r.append(bits(b, name))
        y.append(bits(stored((stored(max(a, Fraction(0)) * factor, name) if kept else Fraction(0)) + b, name), name))
    return {"dtype": name, "key": KEY, "call": CALL, "T": threshold, "scale": scale, "x": x, "r": r, "y": y}


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(row(name, p)) for name in FORMATS for p in (0.1, 0.25 + 2.0**-20))
    GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
