"""Write data/golden_connections.json: DropConnect by the mask law and fractions, exact until one rounding.

Nothing of normdrop and no NumPy takes part: masks are those of `make_golden_masks.py`. Run it only to add rows; a row
that changes is a broken law.
"""

from __future__ import annotations

import json
import random
import runpy
import struct
from fractions import Fraction
from pathlib import Path

GOLDEN = Path(__file__).parent / "data" / "golden_connections.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**40 + 5
NAN = 0x7FC00000


def float32(value: Fraction) -> int:
    """The bits of the float32 nearest to a value, ties to even."""
    if value == 0:
        return 0
    size, exponent = abs(value), 0
    while size >= 2:
        size, exponent = size / 2, exponent + 1
    while size < 1:
        size, exponent = size * 2, exponent - 1
    nearest = float(round(size * 2**23)) * 2.0 ** (exponent - 23)
    return int(struct.unpack("<I", struct.pack("<f", -nearest if value < 0 else nearest))[0])


def matrix(source: random.Random, rows: int, columns: int) -> list[list[Fraction]]:
    """Numbers of float32."""
    return [
        [Fraction(struct.unpack("<f", struct.pack("<f", source.uniform(-2, 2)))[0]) for _ in range(columns)]
        for _ in range(rows)
    ]


def bits(values: list[list[Fraction]]) -> list[list[int]]:
    return [list(map(float32, row)) for row in values]


def row(p: float, shape: tuple[int, int, int], masks: str) -> dict[str, object]:
    """Y, dx, dweight and dbias of a pass; weights of connections that no sample keeps are NaN."""
    n_samples, n_out, n_in = shape
    source = random.Random(f"{p} {shape}")
    x, weight, dy = matrix(source, n_samples, n_in), matrix(source, n_out, n_in), matrix(source, n_samples, n_out)
    bias, samples, outputs, inputs = matrix(source, 1, n_out)[0], range(n_samples), range(n_out), range(n_in)
    threshold = round(p * 2**32)
    scale = 1 / (1 - Fraction(threshold, 2**32))

    def kept(n: int, o: int, i: int) -> bool:
        place = (n * n_out + o) * n_in + i if masks == "sample" else o * n_in + i
        return bool(LAW["is_kept"](place, KEY, CALL, threshold))

    keep = [[[kept(n, o, i) for i in inputs] for o in outputs] for n in samples]
    y = [
        [scale * sum(weight[o][i] * x[n][i] for i in inputs if keep[n][o][i]) + bias[o] for o in outputs]
        for n in samples
    ]
    dx = [[scale * sum(weight[o][i] * dy[n][o] for o in outputs if keep[n][o][i]) for i in inputs] for n in samples]
    dw = [[scale * sum(dy[n][o] * x[n][i] for n in samples if keep[n][o][i]) for i in inputs] for o in outputs]
    given = bits(weight)
    for o in outputs:
        for i in inputs:
            if not any(keep[n][o][i] for n in samples):
                given[o][i] = NAN
    numbers = {"x": bits(x), "weight": given, "bias": bits([bias])[0], "dy": bits(dy), "y": bits(y), "dx": bits(dx)}
    gradients = {"dweight": bits(dw), "dbias": bits([[sum(dy[n][o] for n in samples) for o in outputs]])[0]}  # type: ignore[misc]
    return {"key": KEY, "call": CALL, "p": p, "masks": masks} | numbers | gradients


if __name__ == "__main__":
    rows = [row(p, shape, masks) for p, shape, masks in (
        (0.5, (3, 5, 37), "sample"), (0.25 + 2.0**-20, (2, 3, 16), "sample"), (0.9, (4, 3, 7), "sample"),
        (0.5, (3, 4, 9), "batch"),
    )]  # fmt: skip
    GOLDEN.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
