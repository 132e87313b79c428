"""Batch normalization in training on images and rows, with a mask, and in inference on one sample."""

from collections.abc import Mapping
from typing import Any

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call

from .passes import _Passes
from .shapes import DTYPES, IMAGES, LAYOUTS, ONE_LAYOUT, OPERATIONS, ROWS, SINGLE


class BatchNorm(_Passes):
    """Images and volumes."""

    kind = "batch_norm"
    params = [OPERATIONS, DTYPES, LAYOUTS, IMAGES]


class BatchNormRows(_Passes):
    """Rows of features."""

    kind = "batch_norm"
    params = [OPERATIONS, DTYPES, ONE_LAYOUT, ROWS]


class MaskedBatchNorm(_Passes):
    """Images of which some positions do not count."""

    params = [["forward", "backward"], DTYPES, LAYOUTS, IMAGES]
    track_vs_numpy = None  # it has no such pass
    track_vs_torch = None

    def _calls(self, side: Any, batch: Batch, name: str) -> Mapping[str, Call]:
        return {"forward": side.masked(batch), "backward": side.masked_backward(batch)}


class BatchNormInference(_Passes):
    """One sample with running statistics."""

    kind = "batch_norm_inference"
    params = [["inference"], DTYPES, ONE_LAYOUT, SINGLE]
