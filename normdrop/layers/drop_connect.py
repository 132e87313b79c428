"""DropConnect: a dense layer's connections are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional._drop_connect import MASKS, DropConnectContext, Masks
from normdrop.functional._masking import SCALINGS, Scaling
from normdrop.layers.attributes import Fixed, Option
from normdrop.layers.base import Array
from normdrop.layers.drawing import Drawing
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)


class DropConnect(Drawing):
    r"""Apply a dense layer of whose connections each is dropped with probability p while training.

    .. math:: y_{no} = \frac{1}{1 - p} \sum_i m_{noi} w_{oi} x_{ni} + b_o, \qquad
        m_{noi} \sim \mathrm{Bernoulli}(1 - p)

    The layer has the masks and not the weights: those are the caller's, who gives them to every forward pass and gets
    their gradients from every backward pass.

    Parameters
    ----------
    p : float, default 0.5
        Probability of dropping a connection, from 0 to 1. May be changed later through the attribute.
    masks : {"sample", "batch"}, default "sample"
        Whether each sample has a mask of its own, or all of a batch have one, which is quicker.
    scaling : {"inverted", "original"}, default "inverted"
        Whether sums are scaled by 1/(1 - p) in training, or by 1 - p in inference.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the masks come from. ``None``: a fresh key of its own.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next mask.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.drop_connect : the same without state, with all that is promised of it.
    Dropout : drops inputs, with all connections of each.

    Notes
    -----
    Modes: each forward pass in training draws new masks and moves the stream by one call. Inference takes the mean over
    all masks; for the variance, too, see `normdrop.functional.drop_connect_inference`.

    References
    ----------
    .. [1] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of neural networks using DropConnect",
       ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.DropConnect(0.5, rng=0)
    >>> x, weight, bias = np.ones((5, 3)), np.ones((2, 3)), np.zeros(2)
    >>> y = layer(x, weight, bias)
    >>> dx, dweight, dbias = layer.backward(np.ones((5, 2)))
    >>> weight -= 0.1 * dweight  # a step
    >>> layer.eval()(x[:1], np.ones((2, 3)), bias)
    array([[3., 3.]])
    """

    def __init__(
        self, p: float = 0.5, *, masks: Masks = "sample", scaling: Scaling = "inverted", rng: RNG = None
    ) -> None:
        super().__init__()
        self.p = p
        own = vars(self)
        own["masks"] = _checks.choice(masks, "masks", MASKS)
        own["scaling"] = _checks.choice(scaling, "scaling", SCALINGS)
        self.stream = as_stream(rng)  # last: it may draw from rng

    p = Option(_checks.probability, "Probability of dropping a connection.")
    masks = Fixed[Masks]('Who has a mask: each "sample", or the "batch".')
    scaling = Fixed[Scaling]('When the scale is applied: "inverted" or "original".')

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        weight: npt.NDArray[S],
        bias: npt.NDArray[S] | None = ...,
        *,
        out: npt.NDArray[S] | None = ...,
        return_context: Literal[False] = ...,
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        weight: npt.NDArray[S],
        bias: npt.NDArray[S] | None = ...,
        *,
        out: npt.NDArray[S] | None = ...,
        return_context: Literal[True],
    ) -> tuple[npt.NDArray[S], DropConnectContext]: ...

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        out: Array | None = None,
        return_context: bool = False,
    ) -> Array | tuple[Array, DropConnectContext]:
        """Apply the dense layer with dropped connections in training mode, or with all of them.

        Parameters
        ----------
        x : ndarray of floats, shape (N, in)
            Input. It is held, not a copy of it, until backward.
        weight : ndarray, shape (out, in), dtype of `x`
            Weights, held as `x` is: change them after backward.
        bias : ndarray, shape (out,), dtype of `x`, optional
            Added.
        out : ndarray, shape (N, out), dtype of `x`, optional
            Where to write the result; it may not share memory with what is read.
        return_context : bool, default False
            Whether to return the context, too, for ``backward(dy, context=context)``; the pass then does not wait in
            the layer.

        Returns
        -------
        y : ndarray, shape (N, out)
            In the dtype of `x`, or `out`.
        context : DropConnectContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the layer and its stream are then unchanged.
        """
        own = vars(self)
        return_context = _checks.flag(return_context, "return_context")
        if not own["training"]:
            options = {name: own[name] for name in ("p", "scaling")}
            return self._passed(
                lambda: functional.drop_connect_inference(x, weight, bias, out=out, **options),
                return_context=return_context,
            )
        x, weight = _checks.array(x, "x"), _checks.array(weight, "weight")
        drawn = x.size > 0 and weight.size > 0
        options = {name: own[name] for name in ("p", "masks", "scaling")}
        return self._trained(
            lambda: functional.drop_connect(x, weight, bias, rng=own["stream"], out=out, **options),
            moves=drawn,
            asked=drawn,
            return_context=return_context,
        )

    if TYPE_CHECKING:

        def __call__(
            self,
            x: npt.NDArray[S],
            weight: npt.NDArray[S],
            bias: npt.NDArray[S] | None = ...,
            *,
            out: npt.NDArray[S] | None = ...,
        ) -> npt.NDArray[S]:
            """Return ``forward(x, weight, bias, out=out)``."""

    def backward(
        self, dy: npt.NDArray[S], *, context: DropConnectContext | None = None
    ) -> tuple[npt.NDArray[S], npt.NDArray[S], npt.NDArray[S] | None]:
        """Compute the gradients of a forward pass, by its masks.

        Parameters
        ----------
        dy : ndarray, shape (N, out), dtype of that pass's input
            Gradient with respect to the output.
        context : DropConnectContext, optional
            What the forward pass returned; it may be used any number of times. Without it, the pass is the one that
            waits in the layer, which then waits no more.

        Returns
        -------
        dx : ndarray, shape (N, in)
            Gradient with respect to the input.
        dweight : ndarray, shape (out, in)
            With respect to the weights.
        dbias : ndarray, shape (out,), or None
            With respect to the bias; None where there was none.

        Raises
        ------
        RuntimeError
            No forward pass waits, or several do.
        TypeError, ValueError
            `dy` or `context` does not match the forward pass; the layer is then unchanged.
        """
        made = functional.drop_connect_backward(dy, self._waiting() if context is None else context)
        if context is None:
            self._passes.waiting = None, 0, False
        return made

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, masks={self.masks!r}, scaling={self.scaling!r}, rng={self.stream!r}, "
            f"training={self.training})"
        )
