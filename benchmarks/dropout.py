"""Dropout of elements in transformers, perceptrons and images, and dropout of channels."""

from normdrop.bench.shapes import TRANSFORMERS, family_of

from .passes import _Passes
from .shapes import DTYPES, LAYOUTS, MAPS, ONE_LAYOUT, OPERATIONS, TOKENS


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
