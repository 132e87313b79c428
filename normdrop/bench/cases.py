"""What can be measured: passes on shapes."""

import math
from dataclasses import dataclass

from normdrop.bench.shapes import Shape


@dataclass(frozen=True)
class Pass:
    """A pass of a layer.

    Attributes
    ----------
    name : str
        Name in the tables.
    method : str
        The method of a library that prepares it.
    arguments : tuple of float
        What that method takes beside the batch: p of dropout.
    """

    name: str
    method: str
    arguments: tuple[float, ...] = ()


@dataclass(frozen=True)
class Family:
    """Shapes of one kind, and the passes that are measured on each of them.

    Attributes
    ----------
    name : str
        Name in the tables.
    shapes : tuple of tuple of int
        Shapes, channels on axis 1.
    passes : tuple of Pass
        The passes.
    channels_last : bool
        Whether the memory is that of (N, H, W, C), of which (N, C, H, W) is a view.
    """

    name: str
    shapes: tuple[Shape, ...]
    passes: tuple[Pass, ...]
    channels_last: bool = False


@dataclass(frozen=True)
class Case:
    """One pass on one shape; the attributes are those of `Family`.

    Attributes
    ----------
    family : str
        Name of the family.
    operation : Pass
        The pass.
    shape : tuple of int
        Shape of the input.
    channels_last : bool
        As in `Family`.
    """

    family: str
    operation: Pass
    shape: Shape
    channels_last: bool = False

    @property
    def size(self) -> int:
        """Number of elements of the input."""
        return math.prod(self.shape)


def matches(operation: Pass, only: str) -> bool:
    """Say whether a pass is wanted.

    Parameters
    ----------
    operation : Pass
        The pass.
    only : str
        Part of the names of those that are wanted; "_" counts as a space.

    Returns
    -------
    bool
        Whether it is.
    """
    return only.lower().replace("_", " ") in operation.name


LOW = Pass("dropout forward, p=0.1", "dropout", (0.1,))
HALF = Pass("dropout forward, p=0.5", "dropout", (0.5,))
BACK = Pass("dropout backward", "dropout_backward", (0.5,))
CHANNELS = Pass("channel dropout forward", "channel_dropout", (0.5,))
CONNECTED = Pass("drop connect forward", "connected", (0.5,))
CONNECTED_BACK = Pass("drop connect backward", "connected_backward", (0.5,))
CONNECTED_BATCH = Pass("drop connect forward, one mask", "connected_batch", (0.5,))
NORM = Pass("batch norm forward", "batch_norm")
NORM_BACK = Pass("batch norm backward", "batch_norm_backward")
INFERENCE = Pass("batch norm inference", "batch_norm_inference")

MASKED = Pass("masked batch norm forward", "masked")
MASKED_BACK = Pass("masked batch norm backward", "masked_backward")

FUSED = Pass("fused norm, ReLU, dropout forward", "fused", (0.5,))
APART = Pass("the same, one after another", "apart", (0.5,))
RESIDUAL = Pass("fused norm, residual, ReLU, dropout forward", "fused_residual", (0.5,))
FUSED_BACK = Pass("fused norm, ReLU, dropout backward", "fused_backward", (0.5,))
FUSED_INFERENCE = Pass("fused norm, ReLU inference", "fused_inference")
BLOCK = Pass("fused ReLU, dropout, residual forward", "block", (0.1,))

DROPOUT = (LOW, HALF, BACK)
CONNECTIONS = (CONNECTED, CONNECTED_BACK, CONNECTED_BATCH)
FUSED_PASSES = (FUSED, APART, RESIDUAL, FUSED_BACK, FUSED_INFERENCE, BLOCK)
BATCH_NORM = (NORM, NORM_BACK, INFERENCE)
MASKED_PASSES = (NORM, MASKED, NORM_BACK, MASKED_BACK)
PASSES = (*DROPOUT, CHANNELS, *CONNECTIONS, *BATCH_NORM, MASKED, MASKED_BACK, *FUSED_PASSES)

# The families that differ in nothing but size, for the plot.
IN_CACHE, IN_MEMORY, GROWING = "dropout, in cache", "dropout, in memory", "batch norm, growing images"
