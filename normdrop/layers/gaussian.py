"""Layers of normal noise, multiplied or added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional._gaussian import GaussianDropoutContext, GaussianNoiseContext, p_of, std_of
from normdrop.functional._masking import DropoutContext
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array
from normdrop.layers.drawing import Drawing
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)
Context: TypeAlias = "GaussianDropoutContext | GaussianNoiseContext | DropoutContext"


class _NormalNoise(Drawing):
    """What both have in common: all but the formula, and how strong the noise is."""

    def _train(self, x: Array, out: Array | None) -> tuple[Array, GaussianDropoutContext | GaussianNoiseContext]:
        """Run the pass in training."""
        raise NotImplementedError

    def _differentiate(self, dy: Array, context: Any, out: Array | None) -> Array:
        """Run the backward pass of a pass in training."""
        raise NotImplementedError

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[False] = ...
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[True]
    ) -> tuple[npt.NDArray[S], Context]: ...

    def forward(
        self, x: Array, *, out: Array | None = None, return_context: bool = False
    ) -> Array | tuple[Array, Context]:
        """Apply the noise in training mode, or pass `x` on.

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
        context : GaussianDropoutContext, GaussianNoiseContext or DropoutContext
            Only with ``return_context=True``; the last one in inference.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` does not fit; the layer and its stream are then unchanged.
        """
        x, own = _checks.array(x, "x"), vars(self)
        return_context = _checks.flag(return_context, "return_context")
        if not own["training"]:
            return self._passed(lambda: functional.dropout_inference(x, 0.0, out=out), return_context=return_context)
        drawn = x.size > 0
        return self._trained(lambda: self._train(x, out), moves=drawn, asked=drawn, return_context=return_context)

    if TYPE_CHECKING:

        def __call__(self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ...) -> npt.NDArray[S]:
            """Return ``forward(x, out=out)``."""

    def backward(
        self, dy: npt.NDArray[S], *, context: Context | None = None, out: npt.NDArray[S] | None = None
    ) -> npt.NDArray[S]:
        """Compute the gradient of a forward pass.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : GaussianDropoutContext, GaussianNoiseContext or DropoutContext, optional
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
        dx: npt.NDArray[S]
        if isinstance(made, DropoutContext):
            dx = functional.dropout_backward(dy, made, out=out)
        else:
            dx = self._differentiate(dy, made, out)
        if context is None:
            self._passes.waiting = None, 0, False
        return dx


class GaussianDropout(_NormalNoise):
    r"""Multiply each element by a normal number while training, with the mean and variance of dropout's factors.

    .. math:: y_i = x_i (1 + \varepsilon_i), \qquad \varepsilon_i \sim N\left(0, \frac{p}{1 - p}\right)

    Parameters
    ----------
    p : float, default 0.5
        That of the dropout with this mean and variance, from 0 to below 1. May be changed later through the attribute.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the noise comes from. ``None``: a fresh key of its own. Layers given the same int or the same stream draw
        related noise; no others do.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next pass.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.gaussian_dropout : the same without state.
    Dropout : factors that are 0 or 1 / (1 - p).

    Notes
    -----
    Modes: each forward pass in training draws new noise and moves the stream by one call. Inference draws nothing,
    moves nothing and returns a new array.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014) 1929-1958, section 10.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.GaussianDropout(0.2, rng=0)
    >>> y = layer(np.ones((1000, 100)))
    >>> round(float(y.mean()), 2), round(float(y.var()), 2)
    (1.0, 0.25)
    >>> dx = layer.backward(np.ones((1000, 100)))
    >>> bool(np.all(dx == y))
    True
    >>> layer.eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, rng: RNG = None) -> None:
        super().__init__()
        self.p = p
        self.stream = as_stream(rng)  # last: it may draw from rng

    p = Option(p_of, "That of the dropout with the same mean and variance.")

    def _train(self, x: Array, out: Array | None) -> tuple[Array, GaussianDropoutContext]:
        own = vars(self)
        return functional.gaussian_dropout(x, own["p"], rng=own["stream"], out=out)

    def _differentiate(self, dy: Array, context: Any, out: Array | None) -> Array:
        return functional.gaussian_dropout_backward(dy, context, out=out)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p}, rng={self.stream!r}, training={self.training})"


class GaussianNoise(_NormalNoise):
    r"""Add a normal number to each element while training.

    .. math:: y_i = x_i + \varepsilon_i, \qquad \varepsilon_i \sim N(0, \mathrm{std}^2)

    Parameters
    ----------
    std : float
        Standard deviation of the noise, in units of the input: finite, 0 or more. May be changed later through the
        attribute.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the noise comes from. ``None``: a fresh key of its own. Layers given the same int or the same stream draw
        related noise; no others do.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next pass.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.gaussian_noise : the same without state.

    Notes
    -----
    Modes: each forward pass in training draws new noise and moves the stream by one call. Inference draws nothing,
    moves nothing and returns a new array. The gradient passes in both.

    References
    ----------
    .. [1] C. M. Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7 (1995)
       108-116.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.GaussianNoise(2.0, rng=0)
    >>> y = layer(np.zeros((1000, 100)))
    >>> round(float(y.std()), 1)
    2.0
    >>> bool(np.all(layer.backward(np.ones((1000, 100))) == 1))
    True
    """

    def __init__(self, std: float, *, rng: RNG = None) -> None:
        super().__init__()
        self.std = std
        self.stream = as_stream(rng)  # last: it may draw from rng

    std = Option(std_of, "Standard deviation of the noise.")

    def _train(self, x: Array, out: Array | None) -> tuple[Array, GaussianNoiseContext]:
        own = vars(self)
        return functional.gaussian_noise(x, own["std"], rng=own["stream"], out=out)

    def _differentiate(self, dy: Array, context: Any, out: Array | None) -> Array:
        return functional.gaussian_noise_backward(dy, context, out=out)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(std={self.std}, rng={self.stream!r}, training={self.training})"
