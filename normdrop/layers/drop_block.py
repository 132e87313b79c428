"""What the layers of DropBlock share; their names have the number of axes in them (`drop_block_ranks`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional._drop_block_mask import BLOCK_SCALINGS, BlockScaling, DropBlockContext, block_channel_axis
from normdrop.functional._drop_block_rate import RATES, Rate, block_size_of
from normdrop.functional._masking import DropoutContext
from normdrop.layers.attributes import Fixed, Option
from normdrop.layers.base import Array
from normdrop.layers.drawing import Drawing
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)


class DropBlock(Drawing):
    """Drop blocks of the maps of inputs with a fixed number of axes."""

    _ndim: ClassVar[int]
    _shape: ClassVar[str]

    def __init__(
        self,
        p: float = 0.1,
        block_size: int | tuple[int, ...] = 7,
        *,
        channel_axis: int = 1,
        shared_channels: bool = False,
        rate: Rate = "exact",
        scaling: BlockScaling = "counted",
        rng: RNG = None,
    ) -> None:
        super().__init__()
        self.p = p
        own = vars(self)
        own["block_size"] = block_size_of(block_size, self._ndim - 2)
        own["channel_axis"] = block_channel_axis(channel_axis, self._ndim)
        own["shared_channels"] = _checks.flag(shared_channels, "shared_channels")
        own["rate"] = _checks.choice(rate, "rate", RATES)
        own["scaling"] = _checks.choice(scaling, "scaling", BLOCK_SCALINGS)
        self.stream = as_stream(rng)  # last: it may draw from rng

    p = Option(_checks.probability, "Share of elements to be dropped.")
    block_size = Fixed["tuple[int, ...]"]("Sides of a block.")
    channel_axis = Fixed[int]("Axis of the channels.")
    shared_channels = Fixed[bool]("Whether the channels of a sample have one mask.")
    rate = Fixed[Rate]('How the probability of a seed follows from p: "exact" or "paper".')
    scaling = Fixed[BlockScaling]('What the scale is made of: "counted" or "expected".')

    def realized_p_of(self, shape: tuple[int, ...]) -> float:
        """Return the share of a map that is dropped in expectation; with ``rate="exact"`` it is p, but for rounding.

        Parameters
        ----------
        shape : tuple of int
            Sides of the map, without batch and channels.

        Returns
        -------
        float
            What `normdrop.functional.drop_block_rate` gives.
        """
        return functional.drop_block_rate(shape, self.p, self.block_size, rate=self.rate).realized_p

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[False] = ...
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[True]
    ) -> tuple[npt.NDArray[S], DropBlockContext | DropoutContext]: ...

    def forward(
        self, x: Array, *, out: Array | None = None, return_context: bool = False
    ) -> Array | tuple[Array, DropBlockContext | DropoutContext]:
        """Drop blocks in training mode, nothing in inference.

        Parameters
        ----------
        x : ndarray of floats
            Input; any strides. It is not held.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        return_context : bool, default False
            Whether to return the context, too, for ``backward(dy, context=context)``; the pass then does not wait
            in the layer.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`.
        context : DropBlockContext, or DropoutContext of inference
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` does not fit; the layer and its stream are then unchanged.
        """
        x = _checks.array(x, "x")
        name = type(self).__name__
        _checks.rank(
            x, (self._ndim,), name, f"Its input is {self._shape}; use x[np.newaxis] for a single sample, "
            "DropBlock1d, DropBlock2d and DropBlock3d for 3, 4 and 5 axes."
        )  # fmt: skip
        return_context = _checks.flag(return_context, "return_context")
        own = vars(self)
        if not own["training"]:
            return self._passed(
                lambda: functional.dropout_inference(x, own["p"], out=out), return_context=return_context
            )
        options = {name: own[name] for name in ("channel_axis", "shared_channels", "rate", "scaling")}
        return self._trained(
            lambda: functional.drop_block(x, own["p"], own["block_size"], rng=own["stream"], out=out, **options),
            moves=x.size > 0,
            asked=x.size > 0,
            return_context=return_context,
        )

    if TYPE_CHECKING:

        def __call__(self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ...) -> npt.NDArray[S]:
            """Return ``forward(x, out=out)``."""

    def backward(
        self,
        dy: npt.NDArray[S],
        *,
        context: DropBlockContext | DropoutContext | None = None,
        out: npt.NDArray[S] | None = None,
    ) -> npt.NDArray[S]:
        """Apply the mask and scale of a forward pass to the gradient.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : DropBlockContext or DropoutContext, optional
            What the forward pass returned; it may be used any number of times. Without it, the pass is the one that
            waits in the layer, which then waits no more.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write the result. It may be `dy`.

        Returns
        -------
        ndarray
            Gradient with respect to the input.

        Raises
        ------
        RuntimeError
            No forward pass waits, or several do.
        TypeError, ValueError
            `dy`, `context` or `out` does not match the forward pass; the layer is then unchanged.
        """
        made = self._waiting() if context is None else context
        if isinstance(made, DropoutContext):
            dx = functional.dropout_backward(dy, made, out=out)
        else:
            dx = functional.drop_block_backward(dy, made, out=out)
        if context is None:
            self._passes.waiting = None, 0, False
        return dx

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, block_size={self.block_size}, channel_axis={self.channel_axis}, "
            f"shared_channels={self.shared_channels}, rate={self.rate!r}, scaling={self.scaling!r}, "
            f"rng={self.stream!r}, training={self.training})"
        )
