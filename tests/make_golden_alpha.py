"""Write data/golden_alpha.json: alpha dropout by the mask law, in 60 digits.

Nothing of normdrop and no NumPy takes part: masks are those of `make_golden_masks.py`, and mpmath computes the rest,
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

GOLDEN = Path(__file__).parent / "data" / "golden_alpha.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**40 + 5
NAN = 0x7FC00000

mpmath.mp.dps = 60
FLOOR = -mpf("1.0507009873554804934193349852946") * mpf("1.6732632423543772848170429916717")


def float32(value: mpf) -> int:
    """The bits of the float32 nearest to a number."""
    size = abs(value)
    unit = mpf(2) ** (max(int(mpmath.floor(mpmath.log(size, 2))), -126) - 23) if size else mpf(1)
    return int(struct.unpack("<I", struct.pack("<f", float(mpmath.nint(value / unit) * unit)))[0])


def row(p: float, mean: float, var: float, n: int = 200) -> dict[str, object]:
    """Y and dx of n elements; x is a NaN at every third place that is dropped."""
    random_numbers = random.Random(f"{p} {mean} {var}")
    threshold = round(p * 2**32)
    dropped = mpf(threshold) / 2**32
    kept = 1 - dropped
    a = mpmath.sqrt(var / (kept * var + dropped * kept * (FLOOR - mean) ** 2))
    b = mean - a * (kept * mean + dropped * FLOOR)
    x, dy, y, dx = [], [], [], []
    for i in range(n):
        high, low = LAW["half_words"](i, KEY, CALL)
        keeps = (high << 16 | low) >= threshold
        u, v = (struct.unpack("<f", struct.pack("<f", random_numbers.gauss(mean, var**0.5)))[0] for _ in range(2))
        x.append(NAN if not keeps and i % 3 == 0 else float32(mpf(u)))
        dy.append(float32(mpf(v)))
        y.append(float32(a * (mpf(u) if keeps else FLOOR) + b))
        dx.append(float32(mpf(v) * mpf(struct.unpack("<f", struct.pack("<f", float(a)))[0])) if keeps else 0)
    return {"key": KEY, "call": CALL, "p": p, "mean": mean, "var": var, "x": x, "dy": dy, "y": y, "dx": dx}


if __name__ == "__main__":
    rows = [row(*law) for law in ((0.1, 0.0, 1.0), (0.5, 0.0, 1.0), (0.25, 3.0, 0.01), (2.0**-6, -2.0, 40.0))]
    text = ",\n".join(map(json.dumps, rows))
    GOLDEN.write_text(f"[\n{text}\n]\n", encoding="utf-8")
