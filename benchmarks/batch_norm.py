"""Batch normalization in training on images and rows, and in inference on one sample."""

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


class BatchNormInference(_Passes):
    """One sample with running statistics."""

    kind = "batch_norm_inference"
    params = [["inference"], DTYPES, ONE_LAYOUT, SINGLE]
