"""Dropout of elements in transformers, perceptrons and images, and dropout of channels."""

from functools import partial

import numpy as np

import normdrop as nd
from normdrop import functional

from .inputs import Batch
from .passes import Calls, _Passes, one_after_the_other, torch_passes
from .shapes import DTYPES, LAYOUTS, MAPS, ONE_LAYOUT, OPERATIONS, TOKENS, TRANSFORMERS, family_of


class _Dropout(_Passes):
    shared_axes = ()  # axes on which a mask has one element for all

    @staticmethod
    def p(name: str) -> float:
        return 0.1 if family_of(name) in TRANSFORMERS else 0.5

    def normdrop(self, batch: Batch, name: str) -> Calls:
        x, dy, y, dx = batch.x, batch.dy, batch.buffer(), batch.buffer()
        layer = nd.Dropout(self.p(name), shared_axes=self.shared_axes, rng=0)
        context = functional.dropout(x, self.p(name), shared_axes=self.shared_axes, rng=0, out=y)[1]
        return {
            "forward": lambda: layer(x, out=y),
            "backward": lambda: functional.dropout_backward(dy, context, out=dx),
            "step": lambda: (layer(x, out=y), layer.backward(dy, out=dx)),
        }

    def numpy(self, batch: Batch, name: str) -> Calls:
        x, dy, y, dx = map(batch.dense, (batch.x, batch.dy, batch.buffer(), batch.buffer()))
        p, rng = self.p(name), np.random.default_rng(0)
        lengths = [1 if axis in self.shared_axes else n for axis, n in enumerate(batch.shape)]
        shape = batch.dense(np.broadcast_to(False, lengths)).shape
        scale = batch.dtype.type(1 / (1 - p))
        kept = np.empty(shape, bool)

        def apply(values: np.ndarray, out: np.ndarray) -> np.ndarray:
            np.multiply(values, kept, out=out)
            return np.multiply(out, scale, out=out)

        def forward() -> np.ndarray:
            np.greater_equal(rng.random(shape, np.float32), p, out=kept)
            return apply(x, y)

        forward()
        return one_after_the_other(forward, partial(apply, dy, dx))

    def torch(self, batch: Batch, name: str) -> Calls:
        import torch.nn.functional as nn

        function = nn.dropout2d if self.shared_axes else nn.dropout
        return torch_passes(lambda x: function(x, self.p(name), True), batch)


class Dropout(_Dropout):
    """Elements; p is 0.1 in transformers, else 0.5."""

    params = [OPERATIONS, DTYPES, ONE_LAYOUT, TOKENS]


class ImageDropout(_Dropout):
    """Elements of images at p = 0.5."""

    params = [OPERATIONS, DTYPES, LAYOUTS, MAPS]


class ChannelDropout(_Dropout):
    """Whole channels of images at p = 0.5."""

    params = [OPERATIONS, DTYPES, LAYOUTS, MAPS]
    shared_axes = (2, 3)
