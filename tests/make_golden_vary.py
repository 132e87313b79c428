"""Write data/golden_vary.json: dropout with a p of each channel, sample or element, by the mask law.

Nothing of normdrop and no NumPy takes part: masks are those of `make_golden_masks.py`. The floats of Python are
float64, which holds every product of two float32, so that each result is rounded once, or to float32 and then to
float16. Run it only to add rows; a row that changes is a broken law.
"""

from __future__ import annotations

import itertools
import json
import math
import runpy
import struct
from pathlib import Path

GOLDEN = Path(__file__).parent / "data" / "golden_vary.json"
LAW = runpy.run_path(str(Path(__file__).parent / "make_golden_masks.py"))
KEY, CALL = (0x9E6C63D0, 0x1B56C4E9), 2**40 + 12345
RATES = [0.1, 0.0, 0.5, 0.25 + 2.0**-20, 1.0, 0.9, 2.0**-32, 0.75, 0.3, 1.0 - 2.0**-32, 0.6]
FORMATS = {"float16": "<e", "float32": "<f", "float64": "<d"}
# Name, shape of x, shape of p, shared axes, ids of samples.
KINDS: list[tuple[str, list[int], list[int], list[int], list[int] | None]] = [
    ("channels", [2, 5, 29], [1, 5, 1], [], None),
    ("samples", [7, 41], [7, 1], [], None),
    ("elements", [287], [287], [], None),
    ("shared axes", [3, 11, 4], [1, 11, 1], [2], None),
    ("sample ids", [3, 37], [1, 37], [], [5, -1, 2**40 + 1]),
]


def rounded(value: float, dtype: str) -> float:
    """The nearest number of a dtype, ties to even."""
    try:
        return float(struct.unpack(FORMATS[dtype], struct.pack(FORMATS[dtype], value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def x_of(i: int, dtype: str) -> float:
    """Element i of x, from -4 to 4, of 24 bits."""
    return rounded(((i * 2654435761 + 12345) % 2**24 - 2**23) / 2**21, dtype)


def ties(n: int) -> list[float]:
    """The p of n elements: T is the element's own number, which keeps it, one more, which drops it, or any."""
    numbers = [high << 16 | low for high, low in (LAW["half_words"](i, KEY, CALL) for i in range(n))]
    return [(numbers[i] + i % 3) / 2**32 if i % 3 < 2 else RATES[i % len(RATES)] for i in range(n)]


def row(kind: tuple[str, list[int], list[int], list[int], list[int] | None], dtype: str, scaling: str) -> object:
    """One golden vector: y has the bytes of the output, little-endian, in C order."""
    name, shape, p_shape, axes, ids = kind
    p = ties(math.prod(p_shape)) if name == "elements" else [RATES[j % len(RATES)] for j in range(math.prod(p_shape))]
    mask_shape = [1 if axis in axes else n for axis, n in enumerate(shape)]
    y = b""
    for i, place in enumerate(itertools.product(*map(range, shape))):
        in_mask = flat(place, mask_shape)
        if ids is None:
            key = KEY
        else:
            key, in_mask = LAW["key_of_sample"](ids[place[0]], KEY), flat(place[1:], mask_shape[1:])
        threshold = LAW["threshold_of"](p[flat(place, p_shape)])
        value = 0.0
        if LAW["is_kept"](in_mask, key, CALL, threshold):
            factor = 1.0 / (1.0 - threshold / 2**32) if scaling == "inverted" else 1.0
            between = "float64" if dtype == "float64" else "float32"
            value = rounded(rounded(x_of(i, dtype) * rounded(factor, between), between), dtype)
        y += struct.pack(FORMATS[dtype], value)
    own = {"name": name, "dtype": dtype, "scaling": scaling, "shape": shape, "p_shape": p_shape}
    return own | {"shared_axes": axes, "sample_ids": ids, "key": KEY, "call": CALL, "p": p, "y": y.hex()}


def flat(place: tuple[int, ...], shape: list[int]) -> int:
    """Index in C order of a place, in what is broadcast along the axes of length 1."""
    index = 0
    for i, n in zip(place, shape, strict=True):
        index = index * n + (i if n > 1 else 0)
    return index


if __name__ == "__main__":
    rows = [row(kind, dtype, "inverted") for kind in KINDS[:3] for dtype in FORMATS]
    rows += [row(kind, "float32", "original") for kind in KINDS[:3]]
    rows += [row(kind, "float32", "inverted") for kind in KINDS[3:]]
    text = ",\n".join(map(json.dumps, rows))
    GOLDEN.write_text(f"[\n{text}\n]\n", encoding="utf-8")
