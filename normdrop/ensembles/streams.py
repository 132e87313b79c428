"""Masks that follow the number of a sample: the same alone and among others in one enlarged batch.

Sample s of a prediction has, of each stream, the calls from s * 2**32 on. In a batch of several samples, one after the
other along its first axis, a layer drops the rows of each sample by that sample's stream, as it would alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from normdrop import _checks
from normdrop.ensembles.modes import is_dropout_module, is_module
from normdrop.random import RNG, Key, MaskStream, as_stream

_CALLS = 1 << 32  # of one sample
_MISSING = object()


class Seat:
    """A layer that draws, and what it had."""

    def __init__(self, layer: Any) -> None:
        own = vars(layer)
        self.layer, self.had = layer, {name: own.get(name, _MISSING) for name in ("stream", "generator", "forward")}
        self.stream: MaskStream | None = layer.stream
        self.key: Key = (0, 0)
        self.shapes: list[tuple[int, ...]] = []  # of what it gets for one sample, pass by pass
        self.n_passes = 0

    def set(self, **attributes: Any) -> None:
        """Set attributes; those that are missing are deleted."""
        for name, value in attributes.items():
            if value is not _MISSING:
                setattr(self.layer, name, value)
            elif name in vars(self.layer):
                delattr(self.layer, name)

    def split(self, forward: Callable[..., Any], streams: Sequence[MaskStream]) -> Callable[..., Any]:
        """Return the layer's forward for a batch of several samples, each dropped by its own stream."""
        n, self.n_passes = len(streams), 0

        def run(x: Any, *args: Any, **options: Any) -> Any:
            alone = self.shapes[self.n_passes] if self.n_passes < len(self.shapes) else ()
            self.n_passes += 1
            if not alone or np.shape(x) != (n * alone[0], *alone[1:]):
                raise ValueError(
                    f"batch_samples must be 1 for this function: a {type(self.layer).__name__} layer got shape {alone} "
                    f"for one sample and {np.shape(x)} for {n} of them, which must follow one another on the first axis"
                )

            def part(value: Any, i: int) -> Any:
                is_split = isinstance(value, np.ndarray) and value.ndim and len(value) == len(x)
                return value[i * alone[0] : (i + 1) * alone[0]] if is_split else value

            results = []
            for i, stream in enumerate(streams):
                self.layer.stream = stream
                named = {name: part(value, i) for name, value in options.items()}
                results.append(forward(part(x, i), *(part(value, i) for value in args), **named))
            if isinstance(results[0], tuple):
                raise ValueError("batch_samples must be 1 for a function that asks layers for their contexts")
            return np.concatenate(results) if options.get("out") is None else options["out"]

        return run

    def record(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the layer's forward for one sample, which notes what it gets."""

        def run(x: Any, *args: Any, **options: Any) -> Any:
            self.shapes.append(np.shape(x))
            return forward(x, *args, **options)

        return run


class Seats:
    """The layers of a model that draw, and the streams of samples."""

    def __init__(self, layers: Sequence[Any], rng: RNG) -> None:
        drawing = [layer for layer in layers if isinstance(getattr(layer, "stream", None), MaskStream)]
        if rng is not None:
            dropping = [layer for layer in layers if is_module(layer) and is_dropout_module(layer)]
            for module in dropping:
                if not hasattr(module, "stream"):
                    raise ValueError(
                        f"rng must be None for a model with {_checks.kind(module)}, whose masks come from PyTorch's "
                        "generator; call torch.manual_seed, or normdrop.torch.accelerate(model) before"
                    )
            drawing += [module for module in dropping if module not in drawing]
        self.seats = [Seat(layer) for layer in drawing]
        self.streams = {id(seat.stream) if seat.stream else id(seat): seat.stream for seat in self.seats}
        self.parent = None if rng is None else as_stream(rng)
        spawning = self.streams.values() if self.parent is None else [self.parent]
        self.calls = [(stream, stream.call) for stream in spawning if stream is not None]

    def spawn(self) -> None:
        """Take one call of each stream, or of the given one, for the keys of this prediction."""
        if self.parent is not None:
            children = self.parent.spawn(len(self.streams))
        else:
            children = [child for stream, _ in self.calls for child in stream.spawn(1)]
        keys = dict(zip(self.streams, (child.key for child in children), strict=True))
        for seat in self.seats:
            seat.key = keys[id(seat.stream) if seat.stream else id(seat)]

    def place(self, first: int, n: int, *, record: bool = False) -> None:
        """Let the layers draw for `n` samples from number `first` on."""
        streams = {
            seat.key: [MaskStream.from_key(seat.key, sample * _CALLS) for sample in range(first, first + n)]
            for seat in self.seats
        }
        for seat in self.seats:
            seat.set(stream=streams[seat.key][0], forward=seat.had["forward"])
            if is_module(seat.layer):
                seat.set(generator=None)
            forward = seat.layer.forward
            if record:
                seat.set(forward=seat.record(forward))
            elif n > 1:
                seat.set(forward=seat.split(forward, streams[seat.key]))

    def have_drawn(self) -> bool:
        """Whether a layer has drawn for the samples that are placed."""
        return any(seat.layer.stream.call % _CALLS for seat in self.seats)

    def n_elements(self) -> int:
        """Number of all elements that the layers have got for one sample."""
        return sum(math.prod(shape) for seat in self.seats for shape in seat.shapes)

    def undo(self, *, kept: bool) -> None:
        """Give the layers back what they had, and, unless it is kept, the streams the call that was taken."""
        for seat in self.seats:
            seat.set(**seat.had)
        for stream, call in () if kept else self.calls:
            stream.give_back(call)


@contextmanager
def placed(layers: Sequence[Any], rng: RNG) -> Iterator[Seats]:
    """Let layers draw from streams of samples until the block ends, and all as it was if that fails."""
    seats, kept = Seats(layers, rng), False
    try:
        try:
            seats.spawn()
            yield seats
            kept = True
        finally:
            seats.undo(kept=kept)
    except BaseException:  # also an interrupt of the line before
        seats.undo(kept=False)
        raise
