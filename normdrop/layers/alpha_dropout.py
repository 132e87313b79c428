"""Alpha dropout: what is dropped goes to SELU's floor, and mean and variance stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional._alpha_dropout import mean_of, var_of
from normdrop.functional._masking import DropoutContext, Mask
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array
from normdrop.layers.drawing import Drawing
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)
Integers: TypeAlias = npt.NDArray[np.integer[Any]]


class AlphaDropout(Drawing):
    r"""Drop elements to the floor of SELU while training, and keep mean and variance.

    .. math:: y_i = a \left(m_i x_i + (1 - m_i) \alpha'\right) + b, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with :math:`\alpha' \approx -1.7581`, and a and b such that y has the mean and variance of x: see
    `normdrop.functional.alpha_dropout`. It is meant for networks of SELU.

    Parameters
    ----------
    p : float, default 0.5
        Probability of dropping an element, from 0 to 1; the paper's networks have 0.05 or 0.1. May be changed later
        through the attribute, as may the next two.
    mean : float, default 0.0
        Mean of the input.
    var : float, default 1.0
        Variance of the input; positive.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the masks come from. ``None``: a fresh key of its own. The mask is that of `Dropout` with the same stream.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next mask.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.alpha_dropout : the same without state, and what p = 1 gives.
    FeatureAlphaDropout : whole channels.

    Notes
    -----
    Modes: each forward pass in training draws a new mask and moves the stream by one call. Inference draws nothing,
    moves nothing and returns a new array.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017,
       section "New dropout technique".

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.AlphaDropout(0.1, rng=0)
    >>> x = np.random.default_rng(0).normal(size=(1000, 64))
    >>> y = layer(x)
    >>> bool(abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.02)
    True
    >>> dx = layer.backward(np.ones((1000, 64)))
    >>> bool(np.array_equal(layer.eval()(x), x))
    True
    """

    def __init__(self, p: float = 0.5, *, mean: float = 0.0, var: float = 1.0, rng: RNG = None) -> None:
        super().__init__()
        self.p = p
        self.mean = mean
        self.var = var
        self.stream = as_stream(rng)  # last: it may draw from rng

    p = Option(_checks.probability, "Probability of dropping an element.")
    mean = Option(mean_of, "Mean of the input.")
    var = Option(var_of, "Variance of the input.")

    def _axes(self, x: Array, sample_ids: Integers | None) -> tuple[int, ...]:
        """Shared axes for this input."""
        return ()

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        *,
        mask: Mask | None = ...,
        sample_ids: Integers | None = ...,
        out: npt.NDArray[S] | None = ...,
        return_context: Literal[False] = ...,
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        *,
        mask: Mask | None = ...,
        sample_ids: Integers | None = ...,
        out: npt.NDArray[S] | None = ...,
        return_context: Literal[True],
    ) -> tuple[npt.NDArray[S], DropoutContext]: ...

    def forward(
        self,
        x: Array,
        *,
        mask: Mask | None = None,
        sample_ids: Integers | None = None,
        out: Array | None = None,
        return_context: bool = False,
    ) -> Array | tuple[Array, DropoutContext]:
        """Apply alpha dropout in training mode, or pass `x` on.

        Parameters
        ----------
        x : ndarray of floats
            Input; any strides. It is not held.
        mask : ndarray of bool, optional
            A mask to use instead of a drawn one, True = kept, of the shape of `x`, with 1 on shared axes; the stream
            does not move. Only in training. It is held, not a copy of it, until backward.
        sample_ids : ndarray of integers, shape (N,), optional
            An id for each sample along axis 0 of `x`: see `normdrop.functional.dropout`. Inference draws nothing and
            leaves it out of account.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        return_context : bool, default False
            Whether to return the context, too, for ``backward(dy, context=context)``; the pass then does not wait
            in the layer.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`.
        context : DropoutContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError
            `x`, `mask`, `sample_ids` or `out` does not fit; the layer and its stream are then unchanged.
        """
        x, own = _checks.array(x, "x"), vars(self)
        axes = self._axes(x, sample_ids)
        return_context = _checks.flag(return_context, "return_context")
        if not own["training"]:
            if mask is not None:
                raise ValueError("mask is for training; inference drops nothing. Call train() or leave out mask.")
            return self._passed(lambda: functional.dropout_inference(x, 0.0, out=out), return_context=return_context)
        options: Any = {"mean": own["mean"], "var": own["var"], "shared_axes": axes, "mask": mask}
        options |= {"rng": own["stream"] if mask is None else None, "sample_ids": sample_ids, "out": out}
        return self._trained(
            lambda: functional.alpha_dropout(x, own["p"], **options),
            moves=mask is None and x.size > 0,
            asked=x.size > 0,
            return_context=return_context,
        )

    if TYPE_CHECKING:

        def __call__(
            self,
            x: npt.NDArray[S],
            *,
            mask: Mask | None = ...,
            sample_ids: Integers | None = ...,
            out: npt.NDArray[S] | None = ...,
        ) -> npt.NDArray[S]:
            """Return ``forward(x, mask=mask, sample_ids=sample_ids, out=out)``."""

    def backward(
        self, dy: npt.NDArray[S], *, context: DropoutContext | None = None, out: npt.NDArray[S] | None = None
    ) -> npt.NDArray[S]:
        """Apply the mask and the scale a of a forward pass to the gradient.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : DropoutContext, optional
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
        dx = functional.alpha_dropout_backward(dy, self._waiting() if context is None else context, out=out)
        if context is None:
            self._passes.waiting = None, 0, False
        return dx

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, mean={self.mean}, var={self.var}{self._options()}, "
            f"rng={self.stream!r}, training={self.training})"
        )

    def _options(self) -> str:
        return ""
