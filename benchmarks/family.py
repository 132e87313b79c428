"""The relatives of dropout: normal noise, alpha dropout, paths, blocks, and a p that varies; for asv, and as a table.

``python benchmarks family --output DIR`` writes DIR/family.txt, a table in Markdown that has DropConnect, too, in up to
four minutes.
"""

import argparse
import importlib.util
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normdrop.bench import cases, shapes, sides
from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call, Times
from normdrop.bench.protocol import measure as measure_sides
from normdrop.bench.shapes import family_of

from . import SMOKE
from .passes import _Passes
from .protocol import AMOUNT, n_threads
from .reductions import STATIC, _machine
from .shapes import DTYPES, LAYOUTS, MAPS, ONE_LAYOUT, TOKENS

OPERATIONS = ["forward", "backward"]
FLAT = [name for name in TOKENS if family_of(name) in ("BERT hidden", "MLP")]


class _Relative(_Passes):
    """Passes without a step, in float32."""

    passes: tuple[cases.Pass, ...]
    params = [OPERATIONS, DTYPES[:1], LAYOUTS[:1], MAPS]
    track_vs_numpy = None

    def _calls(self, side: Any, batch: Batch, name: str) -> Mapping[str, Call]:
        named = zip(self.params[0], self.passes, strict=True)
        return {operation: getattr(side, each.method)(batch, *each.arguments) for operation, each in named}


class _OfElements(_Relative):
    params = [OPERATIONS, DTYPES[:1], ONE_LAYOUT, FLAT]


class GaussianDropout(_OfElements):
    """Normal factors."""

    passes = cases.GAUSSIAN


class GaussianNoise(_OfElements):
    """A sum with normal noise, whose backward pass is a copy and is not tracked."""

    params = [OPERATIONS[:1], *_OfElements.params[1:]]
    passes = cases.NOISE[:1]


class AlphaDropout(_OfElements):
    """Elements, to the floor of SELU."""

    passes = cases.ALPHA


class FeatureAlphaDropout(_Relative):
    """Whole channels, to the floor of SELU."""

    passes = cases.CHANNEL_ALPHA


class DropPath(_Relative):
    """Whole samples."""

    passes = cases.PATH


class DropBlock2d(_Relative):
    """Blocks of 7 × 7."""

    passes = cases.BLOCKS


class ChannelsP(_Relative):
    """Elements, with a p for each channel."""

    passes = cases.CHANNEL_PS
    track_vs_torch = None


class ElementsP(_OfElements):
    """Elements, with a p for each."""

    passes = cases.ELEMENT_PS
    track_vs_torch = None


class Bound(NamedTuple):
    """What a pass is held to: so many times the time of a side."""

    text: str
    times: float
    side: str


COPY, DROPOUT, PARTS, OURS, PEER = "copy", "dropout", "parts", "normdrop", "PyTorch"
ELEMENTS = Bound("1.5 dropouts", 1.5, DROPOUT)
IMAGES = Bound("3 copies", 3.0, COPY)
COPIED = Bound("1 copy", 1.0, COPY)
NORMAL = Bound("bits, logarithm, root", 1.0, PARTS)
CONNECTED = Bound("bits, products", 1.0, PARTS)

IN_CACHE = 1 << 19  # elements of a piece of float32 that is drawn for again and again
IN_THREAD = 1 << 15  # float64 numbers of a piece for a thread's functions

_FLAT, _LARGE, _SMALL = shapes.RELATIVES, shapes.images(32, (256, 56)), shapes.images(32, (1024, 14))
_DENSE = shapes.DENSE
if SMOKE:
    _FLAT, _LARGE, _SMALL, _DENSE = ((64,),), ((2, 4, 8, 8),), ((2, 3, 7, 7),), ((4, 8),)
TABLE: list[tuple[tuple[cases.Pass, ...], tuple[shapes.Shape, ...], Bound]] = [
    (cases.GAUSSIAN, _FLAT, NORMAL),
    (cases.NOISE[:1], _FLAT, NORMAL),
    (cases.NOISE[1:], _FLAT, COPIED),
    (cases.ALPHA, _FLAT, ELEMENTS),
    (cases.ELEMENT_PS, _FLAT, ELEMENTS),
    (cases.CHANNEL_PS, _LARGE, ELEMENTS),
    (cases.CHANNEL_ALPHA, _LARGE, ELEMENTS),
    (cases.PATH, _LARGE, ELEMENTS),
    (cases.BLOCKS, _SMALL + _LARGE, IMAGES),
    (cases.CONNECTIONS, _DENSE, CONNECTED),
]


def main(arguments: list[str]) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks family", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=STATIC, help="folder of the table (docs/_static)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    peer = _peer()
    machine = _machine() + (f", PyTorch {peer.version}" if peer else "")
    lines = [machine, ""]
    for line in _table(peer):
        print(line, flush=True)  # each pass takes some seconds
        lines.append(line)
    (options.output / "family.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return 0


def _peer() -> Any:
    """Return PyTorch's side, or None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    from normdrop.bench.peers import torch_eager

    return torch_eager.make(n_threads())


def _table(peer: Any) -> Iterator[str]:
    yield "| pass | shape | µs | bound | ÷ bound | ÷ copy | ÷ dropout | PyTorch ÷ normdrop |"
    yield "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"
    for passes, chosen, bound in TABLE:
        for operation in passes:
            for shape in chosen:
                times = _times(operation, Batch(shape), bound, peer)
                ratios = [_shown(times, OURS, bound.side, bound.times), _shown(times, OURS, COPY)]
                ratios += [_shown(times, OURS, DROPOUT), _shown(times, PEER, OURS)]
                lengths, taken = "×".join(map(str, shape)), times.microseconds(OURS)
                yield f"| {operation.name} | {lengths} | {taken:.0f} | {bound.text} | {' | '.join(ratios)} |"


def _shown(times: Times, side: str, to: str, factor: float = 1.0) -> str:
    return f"{times.ratio(side, to).middle / factor:.2f}" if {side, to} <= times.seconds.keys() else "-"


def _times(operation: cases.Pass, batch: Batch, bound: Bound, peer: Any) -> Times:
    """Measure a pass, what it is held to, and PyTorch's if it has the pass."""
    n, own = n_threads(), sides.Normdrop(sides.OURS[0])

    def prepared(side: Any, each: cases.Pass) -> Call:
        return getattr(side, each.method)(batch, *each.arguments)

    with ThreadPoolExecutor(n) as pool:
        calls = {OURS: prepared(own, operation), **sides.copies(batch, pool, n, peer and peer.copy(batch))}
        if operation.beside:
            calls[DROPOUT] = prepared(own, operation.beside)
        if bound.side == PARTS:
            calls[PARTS] = _normal(batch.x.size, pool, n) if bound is NORMAL else _connected(operation, batch)
        always = len(calls)
        if hasattr(peer, operation.method):
            calls[PEER] = prepared(peer, operation)
        seconds = measure_sides(calls, AMOUNT, np.random.default_rng(0), always)
    seconds[COPY] = np.fmin(*(seconds.pop(name) for name in sides.COPIES))
    return Times(seconds)


def _draws(n: int) -> Call:
    """Return dropout in a cache that draws bits for so many elements: 16 for each."""
    import normdrop

    x, stream = np.ones(min(n, IN_CACHE), np.float32), normdrop.MaskStream(0)
    y = np.empty_like(x)

    def draw() -> None:
        for start in range(0, n, IN_CACHE):
            stop = min(n - start, IN_CACHE)
            normdrop.functional.dropout(x[:stop], 0.5, rng=stream, out=y[:stop])

    return draw


def _normal(n: int, pool: Executor, n_threads: int) -> Call:
    """Return what n normal numbers are made of by common formulas: 32 bits, a logarithm and a root each.

    The last two are NumPy's in float64, in which the law computes, on pieces in the caches of as many threads.
    """
    draw, share = _draws(2 * n), -(-n // n_threads)
    values = np.random.default_rng(0).random((n_threads, 2, min(share, IN_THREAD))) + 0.1

    def functions(u: np.ndarray, z: np.ndarray) -> None:
        for _ in range(math.ceil(share / u.size)):
            np.log(u, out=z)
            np.sqrt(u, out=z)

    def parts() -> None:
        draw()
        for future in [pool.submit(functions, *piece) for piece in values]:
            future.result()

    return parts


def _connected(operation: cases.Pass, batch: Batch) -> Call:
    """Return the bits of all masks, and the products of a dense layer without any."""
    x, dy, weight = batch.x, batch.dy, batch.weight
    if operation is cases.CONNECTED_BACK:
        draw = _draws(2 * len(x) * weight.size)
        return lambda: (draw(), dy @ weight, dy.T @ x)
    draw = _draws(weight.size if operation is cases.CONNECTED_BATCH else len(x) * weight.size)
    return lambda: (draw(), x @ weight.T)
