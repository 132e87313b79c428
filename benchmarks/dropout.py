"""Dropout of elements in transformers, perceptrons and images, dropout of channels, and of connections."""

from collections.abc import Mapping
from typing import Any

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call
from normdrop.bench.shapes import TRANSFORMERS, family_of

from .passes import _Passes
from .shapes import DTYPES, LAYOUTS, MAPS, ONE_LAYOUT, OPERATIONS, ROWS, TOKENS


class _Dropout(_Passes):
    kind = "dropout"

    @staticmethod
    def arguments(name: str) -> tuple[float, ...]:
        return (0.1,) if family_of(name) in TRANSFORMERS else (0.5,)


class Dropout(_Dropout):
    """Elements; p is 0.1 in transformers, else 0.5."""

    params = [OPERATIONS, DTYPES, ONE_LAYOUT, TOKENS]


class ImageDropout(_Dropout):
    """Elements of images at p = 0.5."""

    params = [OPERATIONS, DTYPES, LAYOUTS, MAPS]


class ChannelDropout(_Dropout):
    """Whole channels of images at p = 0.5."""

    kind = "channel_dropout"
    params = [OPERATIONS, DTYPES, LAYOUTS, MAPS]


class DropConnect(_Passes):
    """Connections of a dense layer with as many outputs as inputs, each sample with a mask of its own."""

    params = [
        ["forward", "backward", "one mask"],
        DTYPES,
        ONE_LAYOUT,
        [name for name in ROWS if family_of(name) == "MLP"],
    ]
    track_vs_numpy = None  # neither has such a pass
    track_vs_torch = None

    def _calls(self, side: Any, batch: Batch, name: str) -> Mapping[str, Call]:
        forward, backward = side.connected(batch, 0.5), side.connected_backward(batch, 0.5)
        return {"forward": forward, "backward": backward, "one mask": side.connected_batch(batch, 0.5)}
