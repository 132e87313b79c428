"""Write data/golden_concrete.json: the mask law's numbers, and concrete dropout by them, in 60 digits.

Nothing of normdrop and no NumPy takes part: numbers are those of `make_golden_masks.py`, and mpmath computes the rest,
rounded once to float32. Run it only to add rows; a row that changes is a broken law.
"""

from __future__ import annotations

import json
import random
import runpy
import struct
from pathlib import Path

import mpmath
from mpmath import mpf

GOLDEN = Path(__file__).parent / "data" / "golden_concrete.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**40 + 5
NAN = 0x7FC00000
PLACES = [0, 1, 15, 16, 31, 32, 95, 127, 128, 200, 255, 256, 999]

mpmath.mp.dps = 60


def number(i: int, key: tuple[int, int], call: int) -> int:
    """The 32-bit number of element i."""
    high, low = LAW["half_words"](i, key, call)
    return int(high << 16 | low)


def numbers(key: tuple[int, int], call: int) -> dict[str, object]:
    """The numbers of some elements."""
    return {"key": key, "call": call, "places": PLACES, "numbers": [number(i, key, call) for i in PLACES]}


def float32(value: mpf) -> int:
    """The bits of the float32 nearest to what is not negative."""
    if value == 0:
        return 0
    exponent = max(int(mpmath.floor(mpmath.log(value, 2))), -126)
    unit = mpf(2) ** (exponent - 23)
    return int(struct.unpack("<I", struct.pack("<f", float(mpmath.nint(value / unit) * unit)))[0])


def row(logit: float, temperature: float, n: int = 300) -> dict[str, object]:
    """Y, dx and dlogit of n elements; x is a NaN at every third place whose share is 0 in float64."""
    random_numbers = random.Random(f"{logit} {temperature}")
    p = 1 / (1 + mpmath.exp(-mpf(logit)))
    x, dy, y, dx, dlogit = [], [], [], [], mpf(0)
    for i in range(n):
        u = (mpf(number(i, KEY, CALL)) + mpf("0.5")) / 2**32
        v = (mpmath.log(u / (1 - u)) - mpf(logit)) / mpf(temperature)
        share = 1 / (1 + mpmath.exp(-v)) if v > -750 else mpf(0)
        a, b = (struct.unpack("<f", struct.pack("<f", random_numbers.uniform(0.1, 4)))[0] for _ in range(2))
        factor = share / (1 - p)
        x.append(NAN if share == 0 and i % 3 == 0 else float32(mpf(a)))
        dy.append(float32(mpf(b)))
        y.append(float32(a * factor))
        dx.append(float32(b * factor))
        dlogit += a * b * factor * (p - (1 - share) / mpf(temperature))
    numbers_ = {"x": x, "dy": dy, "y": y, "dx": dx, "dlogit": float(dlogit)}
    return {"key": KEY, "call": CALL, "logit": logit, "temperature": temperature} | numbers_


if __name__ == "__main__":
    rows = [numbers(key, call) for key in LAW["KEYS"] for call in LAW["CALLS"]]
    passes = [row(logit, t) for logit, t in ((-2.197, 0.1), (0.0, 0.5), (1.5, 0.01), (-0.25, 1.0))]
    text = [",\n".join(map(json.dumps, part)) for part in (rows, passes)]
    GOLDEN.write_text(f'{{"numbers": [\n{text[0]}\n],\n"passes": [\n{text[1]}\n]}}\n', encoding="utf-8")
