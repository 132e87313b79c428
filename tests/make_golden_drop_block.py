"""Write data/golden_drop_block.json: masks that drop blocks, in plain integers, and rates of seeds, in fractions.

Nothing of normdrop and no NumPy takes part: seeds are those of `make_golden_masks.py`. Run it only to add rows; a row
that changes is a broken law.
"""

from __future__ import annotations

import itertools
import json
import math
import runpy
from fractions import Fraction
from pathlib import Path

GOLDEN = Path(__file__).parent / "data" / "golden_drop_block.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY = (0x243F6A88, 0x85A308D3)

# Shape (A, n1, n2, n3, B), blocks, call, T.
MASKS = [
    ((2, 1, 1, 40, 1), (1, 1, 5), 0, 2**28),
    ((3, 1, 9, 11, 1), (1, 3, 3), 1, 2**27),
    ((7, 1, 14, 14, 1), (1, 7, 7), 2**32, 226075160),
    ((2, 1, 6, 5, 3), (1, 2, 4), 2**63 - 2, 2**28 + 12345),
    ((2, 5, 6, 7, 1), (2, 3, 4), 5, 2**27),
    ((1, 4, 5, 6, 5), (4, 1, 3), 6, 2**28),
    ((3, 1, 4, 5, 1), (1, 4, 5), 7, 2**31),
    ((2, 1, 5, 7, 2), (1, 1, 1), 8, 2**30),
    ((2, 1, 1, 300, 1), (1, 1, 17), 9, 2**26),
]
# Sides, blocks, p.
RATES = [
    ((14, 14), (7, 7), 0.1),
    ((28, 28), (7, 7), 0.1),
    ((14, 14), (5, 5), 0.3),
    ((14, 14), (7, 7), 0.5),
    ((28, 28), (7, 7), 0.5),
    ((30,), (4,), 0.25),
    ((5, 7), (2, 7), 0.9),
    ((6, 7, 8), (3, 2, 5), 0.05),
    ((9, 9), (1, 4), 0.2),
    ((13, 13), (6, 6), 2.0**-20),
    ((13, 13), (6, 6), 1 - 2.0**-12),
    ((11, 10), (1, 1), 0.3),
]


def mask_row(shape: tuple[int, ...], blocks: tuple[int, ...], call: int, threshold: int) -> dict[str, object]:
    """Bit i of ``kept`` says whether element i, in C order, is kept."""
    sides = [n - b + 1 for n, b in zip(shape[1:4], blocks, strict=True)]
    seeds = (shape[0], *sides, shape[4])
    kept = 2 ** math.prod(shape) - 1
    for number, (a, i, j, k, b) in enumerate(itertools.product(*map(range, seeds))):
        if not LAW["is_kept"](number, KEY, call, threshold):
            for di, dj, dk in itertools.product(*map(range, blocks)):
                at = ((((a * shape[1]) + i + di) * shape[2] + j + dj) * shape[3] + k + dk) * shape[4] + b
                kept &= ~(1 << at)
    return {"shape": shape, "blocks": blocks, "key": KEY, "call": call, "T": threshold, "kept": f"{kept:x}"}


def share(sides: tuple[int, ...], blocks: tuple[int, ...], threshold: int) -> Fraction:
    """Expected share of the places that are covered: exactly, place by place."""
    spared, power = Fraction(0), 1 - Fraction(threshold, 2**32)
    powers: dict[int, Fraction] = {}
    for place in itertools.product(*map(range, sides)):
        ranges = (range(max(0, i - b + 1), min(i, n - b) + 1) for i, n, b in zip(place, sides, blocks, strict=True))
        count = math.prod(map(len, ranges))
        powers.setdefault(count, power**count)
        spared += powers[count]
    return 1 - spared / math.prod(sides)


def rate_row(sides: tuple[int, ...], blocks: tuple[int, ...], p: float) -> dict[str, object]:
    """T of both rates, and what share they drop."""
    low, high = 0, 2**32
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(sides, blocks, middle) < Fraction(p) else (low, middle)
    exact = min((low, high), key=lambda t: abs(share(sides, blocks, t) - Fraction(p)))
    gamma = Fraction(p)
    for n, b in zip(sides, blocks, strict=True):
        gamma *= Fraction(n, b * (n - b + 1))
    paper = round(gamma * 2**32)
    found = {"exact": exact, "paper": paper}
    row: dict[str, object] = {"sides": sides, "blocks": blocks, "p": p}
    for name, threshold in found.items():
        row[name] = [threshold, float(share(sides, blocks, threshold))]
    return row


if __name__ == "__main__":
    parts = [[mask_row(*row) for row in MASKS], [rate_row(*row) for row in RATES]]
    text = [",\n".join(map(json.dumps, part)) for part in parts]
    GOLDEN.write_text(f'{{"masks": [\n{text[0]}\n],\n"rates": [\n{text[1]}\n]}}\n', encoding="utf-8")
