"""Batch normalization, ReLU and dropout in one pass, on images and rows."""

from collections.abc import Mapping
from typing import Any

from normdrop.bench.batch import Batch
from normdrop.bench.protocol import Call

from .passes import _Passes
from .shapes import DTYPES, IMAGES, LAYOUTS, ONE_LAYOUT, ROWS

OPERATIONS = ["forward", "backward"]


class BatchNormAct(_Passes):
    """Images and volumes. PyTorch has the forward pass as layers one after another."""

    params = [OPERATIONS, DTYPES, LAYOUTS, IMAGES]
    track_vs_numpy = None  # it has no such pass

    def _calls(self, side: Any, batch: Batch, name: str) -> Mapping[str, Call]:
        methods = {"forward": "fused", "backward": "fused_backward"}
        if not hasattr(side, methods[self.operation]):
            raise NotImplementedError(f"{side.name} has no such pass")
        return {self.operation: getattr(side, methods[self.operation])(batch, 0.5)}


class BatchNormActRows(BatchNormAct):
    """Rows of features."""

    params = [OPERATIONS, DTYPES, ONE_LAYOUT, ROWS]
