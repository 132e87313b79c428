"""Batch normalization, ReLU and dropout in one pass, on images and rows."""

from collections.abc import Mapping
from typing import Any

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call

from .passes import _Passes
from .shapes import DTYPES, IMAGES, LAYOUTS, ONE_LAYOUT, ROWS

OPERATIONS = ["forward", "backward"]


class BatchNormAct(_Passes):
    """Images and volumes; PyTorch has three layers for it."""

    params = [OPERATIONS, DTYPES, LAYOUTS, IMAGES]
    track_vs_numpy = None  # it has no such pass

    def _calls(self, side: Any, batch: Batch, name: str) -> Mapping[str, Call]:
        return {"forward": side.fused(batch, 0.5), "backward": side.fused_backward(batch, 0.5)}


class BatchNormActRows(BatchNormAct):
    """Rows of features."""

    params = [OPERATIONS, DTYPES, ONE_LAYOUT, ROWS]
