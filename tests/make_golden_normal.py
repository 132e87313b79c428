"""Write data/golden_normal.json: normal numbers of the mask law in 60 digits, and passes by them.

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

GOLDEN = Path(__file__).parent / "data" / "golden_normal.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**40 + 5
PLACES = [0, 1, 2, 430, 2**16, 2**24, 2**28, 2**30, 2**31 - 1]

mpmath.mp.dps = 60


def normal(n: int) -> mpf:
    """The z with Phi(z) = (n + 1/2) / 2**32."""
    if n >= 2**31:
        return -normal(2**32 - 1 - n)
    return -mpmath.sqrt(2) * mpmath.erfinv(1 - (2 * mpf(n) + 1) / 2**32)


def float32(value: mpf) -> float:
    """The float32 nearest to what is not subnormal."""
    if value == 0:
        return 0.0
    unit = mpf(2) ** (int(mpmath.floor(mpmath.log(abs(value), 2))) - 23)
    return float(mpmath.nint(value / unit) * unit)


def row(std: float, n: int = 300) -> dict[str, object]:
    """x of n elements, and both passes of it."""
    random_numbers = random.Random(str(std))
    x, multiplied, added = [], [], []
    for i in range(n):
        high, low = LAW["half_words"](i, KEY, CALL)
        z = normal(high << 16 | low)
        value = struct.unpack("<f", struct.pack("<f", random_numbers.uniform(-4, 4)))[0]
        x.append(value)
        multiplied.append(float32(value * (1 + mpf(std) * z)))
        added.append(float32(value + mpf(std) * z))
    return {"key": KEY, "call": CALL, "std": std, "x": x, "multiplied": multiplied, "added": added}


if __name__ == "__main__":
    numbers = {"numbers": PLACES, "normal": [mpmath.nstr(normal(n), 25) for n in PLACES]}
    passes = ",\n".join(json.dumps(row(std)) for std in (0.1, 0.5, 3.0))
    GOLDEN.write_text(f'{{"normal": {json.dumps(numbers)},\n"passes": [\n{passes}\n]}}\n', encoding="utf-8")
