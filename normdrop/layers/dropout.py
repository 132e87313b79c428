"""Dropout layers: element-wise, with shared axes, and whole channels of a fixed rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from normdrop import _checks, functional
from normdrop.functional.masking import SCALINGS, Mask, Scaling
from normdrop.layers.base import Array, Layer
from normdrop.random import RNG, MaskStream, as_stream


class Dropout(Layer):
    r"""Drop each element with probability p while training.

    .. math:: y_i = \frac{m_i x_i}{1 - p}, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    Parameters
    ----------
    p : float, default 0.5
        Probability of dropping an element, from 0 to 1. May be changed later through the attribute.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element: ``(2, 3)`` drops whole channels of (N, C, H, W), ``1``
        locks the mask along the time axis of (N, T, D).
    scaling : {"inverted", "original"}, default "inverted"
        ``"inverted"``: training multiplies kept elements by 1/(1 - p), inference is the identity. ``"original"``:
        training only masks, inference multiplies by 1 - p.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the masks come from. ``None``: a fresh key of its own. Layers given the same int or the same stream draw
        related masks; no others do.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next mask.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.dropout : the same without state.

    Notes
    -----
    Modes: each forward pass in training draws a new mask and moves the stream by one call. Inference draws nothing,
    moves nothing and returns a new array.

    Dropped elements are set to +0, so a NaN or infinity there disappears. The mask depends on key, call, index and p
    alone.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014) 1929-1958.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.Dropout(0.5, rng=0)
    >>> y = layer(np.ones((2, 4)))
    >>> bool(np.all((y == 0) | (y == 2)))
    True
    >>> dx = layer.backward(np.ones((2, 4)))
    >>> bool(np.all(dx == y))
    True
    >>> layer.eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        shared_axes: int | Iterable[int] = (),
        scaling: Scaling = "inverted",
        rng: RNG = None,
    ) -> None:
        super().__init__()
        self.p = p
        self._shared_axes = _checks.axes(shared_axes)
        _checks.choice(scaling, "scaling", SCALINGS)
        self._scaling = scaling
        self.stream: MaskStream = as_stream(rng)

    @property
    def p(self) -> float:
        """Probability of dropping an element."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = _checks.probability(value)

    @property
    def scaling(self) -> Scaling:
        """When the scale is applied: "inverted" or "original"."""
        return self._scaling

    def _axes(self, x: Array) -> tuple[int, ...]:  # subclasses check its rank
        """Shared axes for this input."""
        return self._shared_axes

    def forward(self, x: Array, *, mask: Mask | None = None, out: Array | None = None) -> Array:  # type: ignore[override]
        """Apply dropout in training mode, or the inference map.

        Parameters
        ----------
        x : ndarray of float32 or float64
            Input; any strides.
        mask : ndarray of bool, shape of `x` with 1 on the shared axes, optional
            A mask to use instead of a drawn one, True = kept; the stream does not move. Only in training.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.

        Returns
        -------
        ndarray
            Shape, dtype and memory order of `x`, or `out`.

        Raises
        ------
        TypeError, ValueError
            `x`, `mask` or `out` does not fit; the layer and its stream are then unchanged.
        """
        x = _checks.array(x, "x")
        axes = self._axes(x)
        if not self.training:
            if mask is not None:
                raise ValueError("mask is for training; inference drops nothing. Call train() or leave out mask.")
            y, self._context = functional.dropout_inference(x, self._p, scaling=self._scaling, out=out)
            return y
        stream = self.stream if mask is None else None
        before, context = self._context, None
        try:  # all or nothing, whatever interrupts it
            y, context = functional.dropout(
                x, self._p, shared_axes=axes, scaling=self._scaling, rng=stream, mask=mask, out=out
            )
            self._context = context
            return y
        except BaseException:
            self._context = before
            if context is not None and stream is not None and x.size:
                stream.give_back(context.call)
            raise

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """Apply the mask and scale of the last forward pass to the gradient.

        Parameters
        ----------
        dy : ndarray, shape and dtype of the last input
            Gradient with respect to the output.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write the result. It may be `dy`.

        Returns
        -------
        ndarray
            Gradient with respect to the input.

        Raises
        ------
        RuntimeError
            There was no forward pass since the last backward.
        TypeError, ValueError
            `dy` or `out` does not match the forward pass; backward can then be called again.
        """
        dx = functional.dropout_backward(dy, self._take_context(), out=out)
        self._context = None
        return dx

    def state_dict(self) -> dict[str, Array]:
        """Return key and call of the stream.

        Returns
        -------
        dict
            ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()).
        """
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over key and call.

        Parameters
        ----------
        state : mapping
            Exactly the entries of `state_dict`.
        """
        self.stream.load_state_dict(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self._p}{self._options()}, scaling={self._scaling!r})"

    def _options(self) -> str:
        return f", shared_axes={self._shared_axes}"
