"""What a mask or weights cost in batch norm, beside the same pass without.

``python benchmarks masked --output DIR`` writes DIR/masked.txt, a table in Markdown, in about a minute.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import SMOKE
from .reductions import STATIC, _machine

# Large images, short planes, sequences, rows of few and of many features, padded sequences with channels last.
CASES = [((4, 8, 14, 14), 1), ((200, 64), 1)]
if not SMOKE:
    CASES = [
        ((32, 64, 56, 56), 1),
        ((64, 256, 14, 14), 1),
        ((64, 128, 50), 1),
        ((20_000, 64), 1),
        ((16_000, 256), 1),
        ((64, 100, 512), 2),
    ]
KINDS = ("padded", "random", "weights")


def main(arguments: list[str]) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks masked", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=STATIC, help="folder of the table (docs/_static)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    text = "\n".join([_machine(), "", *_table(), ""])
    (options.output / "masked.txt").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _table() -> Iterator[str]:
    from dataclasses import replace

    from normdrop.bench import protocol
    from normdrop.bench.settings import QUICK

    settings = replace(QUICK, rounds=3 if SMOKE else 31)
    yield "| shape | channel axis | pass | unmasked, µs | padded ÷ unmasked | random mask ÷ | weights ÷ |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: |"
    for shape, axis in CASES:
        for name, sides in _sides(shape, axis).items():
            times = protocol.Times(protocol.measure(sides, settings, always=len(sides)))
            ratios = " | ".join(f"{times.ratio(kind, 'none').middle:.2f}" for kind in KINDS)
            yield f"| {'×'.join(map(str, shape))} | {axis} | {name} | {times.microseconds('none'):.0f} | {ratios} |"


def _sides(shape: tuple[int, ...], axis: int) -> dict[str, dict[str, Any]]:
    """Return the calls of each pass, which allocate no results; three of four positions count."""
    from normdrop import functional

    rng = np.random.default_rng(0)
    x, dy = rng.normal(1.0, 2.0, (2, *shape)).astype(np.float32)
    y, dx = np.empty_like(x), np.empty_like(x)
    places = shape[:axis] + shape[axis + 1 :]
    n = places[-1]
    period = 100 if len(places) == 1 else n
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "padded": {"mask": np.broadcast_to(np.arange(n) % period < 0.75 * period, places)},
        "random": {"mask": rng.random(places) < 0.75},
        "weights": {"weights": rng.random(places).astype(np.float32)},
    }
    sides: dict[str, dict[str, Any]] = {"forward": {}, "backward": {}}
    for kind, how in options.items():
        _, context = functional.batch_norm(x, channel_axis=axis, **how)
        sides["forward"][kind] = lambda how=how: functional.batch_norm(x, channel_axis=axis, out=y, **how)
        sides["backward"][kind] = lambda context=context: functional.batch_norm_backward(dy, context, out=dx)
    return sides
