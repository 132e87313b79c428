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
    beside : Pass, optional
        A pass of normdrop on the same batch that is measured, too.
    """

    name: str
    method: str
    arguments: tuple[float, ...] = ()
    beside: "Pass | None" = None


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


def _relatives(name: str, method: str, argument: float = 0.5) -> tuple[Pass, Pass]:
    """Return the passes of a relative of dropout, forward and backward, beside those of dropout."""
    return (
        Pass(f"{name} forward", method, (argument,), HALF),
        Pass(f"{name} backward", f"{method}_backward", (argument,), BACK),
    )


GAUSSIAN = _relatives("gaussian dropout", "gaussian_dropout")
NOISE = _relatives("gaussian noise", "gaussian_noise", 0.1)
ALPHA = _relatives("alpha dropout", "alpha_dropout")
CHANNEL_ALPHA = _relatives("feature alpha dropout", "feature_alpha_dropout")
PATH = _relatives("drop path", "drop_path")
BLOCKS = _relatives("drop block", "drop_block", 0.1)
CHANNEL_PS = _relatives("dropout, p per channel,", "varied_channels")
ELEMENT_PS = _relatives("dropout, p per element,", "varied_elements")

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
OF_ELEMENTS = (*GAUSSIAN, *NOISE, *ALPHA, *ELEMENT_PS)
OF_IMAGES = (*CHANNEL_ALPHA, *PATH, *CHANNEL_PS, *BLOCKS)
FUSED_PASSES = (FUSED, APART, RESIDUAL, FUSED_BACK, FUSED_INFERENCE, BLOCK)
BATCH_NORM = (NORM, NORM_BACK, INFERENCE)
MASKED_PASSES = (NORM, MASKED, NORM_BACK, MASKED_BACK)
RELATIVES = (*OF_ELEMENTS, *OF_IMAGES)
PASSES = (*DROPOUT, CHANNELS, *CONNECTIONS, *RELATIVES, *BATCH_NORM, MASKED, MASKED_BACK, *FUSED_PASSES)

# The families that differ in nothing but size, for the plot.
IN_CACHE, IN_MEMORY, GROWING = "dropout, in cache", "dropout, in memory", "batch norm, growing images"
