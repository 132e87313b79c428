"""Write data/golden_masks.json and data/golden_sample_masks.json: masks by the mask law, version 1, in plain integers.

Nothing of normdrop and no NumPy takes part: this is the text of the law and nothing else. Run it only to add rows; a
row that changes is a broken law.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

GOLDEN = Path(__file__).parent / "data" / "golden_masks.json"
GOLDEN_SAMPLES = GOLDEN.with_name("golden_sample_masks.json")
WORD = 2**32 - 1

KEYS = [(0, 0), (WORD, WORD), (1, 0), (0x243F6A88, 0x85A308D3), (0x9E6C63D0, 0x1B56C4E9)]
CALLS = [0, 1, 2**32 - 1, 2**32, 2**40 + 12345, 2**63 - 2]
RATES = [0.1, 0.5, 0.25 + 2.0**-20]
EXTREME_RATES = [0.0, 2.0**-32, 1.0 - 2.0**-32, 1.0]
LENGTHS = [1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000]
# The second counter word is 1 from index 2**35 on.
WINDOWS = [1, 100, 127, 128, 2**32 - 50, 2**32 + 3, 2**35 - 70, 2**35 + 77, 2**40 + 1, 2**62 + 5]
IDS = [0, 1, -1, 2**32 - 1, 2**32, 2**40 + 12345, 2**63 - 1, -(2**63), 2**64 - 2]
TIED = [0, 5, 16, 31, 32, 47, 63, 64, 79, 80, 96, 111, 112, 127, 128, 201]


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 (Salmon et al. 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product_1 >> 32) ^ c1 ^ k0, product_1 & WORD, (product_0 >> 32) ^ c3 ^ k1, product_0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def half_words(i: int, key: tuple[int, int], call: int) -> tuple[int, int]:
    """(u_hi, u_lo) of element i."""
    g, e = i // 128, i % 128
    r, h, t = e // 32, (e // 16) % 2, e % 16
    b = 16 * g + t
    halves = []
    for flip in (0, 1 << 31):
        words = philox((b & WORD, b >> 32, call & WORD, (call >> 32) ^ flip), key)
        halves.append((words[r] >> (16 * h)) & 0xFFFF)
    return halves[0], halves[1]


def is_kept(i: int, key: tuple[int, int], call: int, threshold: int) -> bool:
    """Whether element i is kept, T = threshold."""
    u_hi, u_lo = half_words(i, key, call)
    t_hi, t_lo = threshold >> 16, threshold & 0xFFFF
    return u_hi > t_hi if u_hi != t_hi else u_lo >= t_lo


def threshold_of(p: float) -> int:
    """T = round(p * 2**32), of the exact value of p."""
    return round(Fraction(p) * 2**32)


def row(key: tuple[int, int], call: int, p: float, n: int, first: int = 0) -> dict[str, object]:
    """One golden vector: bit j of ``kept`` says whether element first + j is kept."""
    threshold = threshold_of(p)
    kept = sum(is_kept(first + j, key, call, threshold) << j for j in range(n))
    return {"key": key, "call": call, "p": p, "T": threshold, "first": first, "n": n, "kept": f"{kept:x}"}


def rows() -> list[dict[str, object]]:
    """All golden vectors."""
    golden = [row(key, call, p, 257) for key in KEYS for call in CALLS for p in RATES]
    golden += [row(KEYS[3], 7, p, n) for n in LENGTHS for p in RATES[:2]]
    golden += [row(key, 3, p, 129) for key in KEYS[1:3] for p in EXTREME_RATES]
    golden += [row(key, 2**33 + 1, p, 200, first) for key in KEYS[3:] for first in WINDOWS for p in RATES]
    for key, call in ((KEYS[4], 2), (KEYS[1], 2**63 - 2)):  # T = u keeps the element, T = u + 1 drops it
        for i in TIED:
            u_hi, u_lo = half_words(i, key, call)
            golden += [row(key, call, ((u_hi << 16 | u_lo) + more) / 2**32, 257) for more in (0, 1)]
    return golden


def key_of_sample(s: int, key: tuple[int, int]) -> tuple[int, int]:
    """Key of the sample with id s, modulo 2**64, under a stream's key."""
    s %= 2**64
    first, second, _, _ = philox((0, WORD, s & WORD, s >> 32), key)
    return first, second


def sample_rows() -> list[dict[str, object]]:
    """Golden vectors of samples: the mask of the sample with this id, and the key that it has."""
    golden = []
    for key, call, p, n in [
        (KEYS[0], 0, 0.5, 257),
        (KEYS[1], 2**63 - 2, 0.1, 100),
        (KEYS[3], 2**32, RATES[2], 1000),
        (KEYS[4], 3, 2.0**-32, 129),
        (KEYS[4], 3, 1.0 - 2.0**-32, 129),
        (KEYS[2], 9, 0.75, 1),
    ]:
        for s in IDS:
            own = key_of_sample(s, key)
            golden.append({"id": s, "sample_key": own} | row(own, call, p, n) | {"key": key})
    return golden


def write(path: Path, golden: list[dict[str, object]]) -> None:
    """Write one vector per line."""
    lines = ",\n".join(json.dumps(one) for one in golden)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write(GOLDEN, rows())
    write(GOLDEN_SAMPLES, sample_rows())
