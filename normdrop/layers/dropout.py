"""Dropout layers: element-wise, with shared axes, and whole channels of a fixed rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _state, functional
from normdrop.functional._masking import SCALINGS, DropoutContext, Mask, Scaling
from normdrop.functional._varied import realized
from normdrop.layers import given_p
from normdrop.layers.attributes import Fixed, Option
from normdrop.layers.base import Array
from normdrop.layers.drawing import Drawing
from normdrop.layers.given_p import Probability
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)
Integers: TypeAlias = npt.NDArray[np.integer[Any]]


class Dropout(Drawing):
    r"""Drop each element with probability p while training.

    .. math:: y_i = \frac{m_i x_i}{1 - p}, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    Parameters
    ----------
    p : float, ndarray of floats, or callable, default 0.5
        Probability of dropping an element, from 0 to 1. An array is broadcast to the mask, whose shape is that of the
        input with 1 on the shared axes; a copy is kept. A callable is a schedule: it is given the number of training
        passes so far, 0 for the first, and returns p. May be changed later through the attribute.
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
    realized_p : float or ndarray of float64
        Probability that is realized now: p rounded to a multiple of 2**-32.
    step : int
        Number of training passes under a schedule so far.
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

    A schedule moves on by one step with each training pass, with a given mask, too; not with one that fails or is of
    nothing, not in inference, and not within `normdrop.sampling`. Where gradients are accumulated over several passes,
    set `step` to the number of the optimizer's step before each. A schedule cannot be pickled if it is a lambda: use a
    function of a module, or an object with ``__call__``.

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

    A p for each feature, and one that rises over 1000 passes:

    >>> layer = normdrop.Dropout(np.array([0.0, 0.25, 0.5]), rng=0)
    >>> layer.realized_p
    array([0.  , 0.25, 0.5 ])
    >>> layer.p = lambda step: min(step / 1000, 1.0) / 2
    >>> y = layer(np.ones((2, 3)))
    >>> layer.step, round(layer.realized_p, 6)
    (1, 0.0005)
    """

    def __init__(
        self,
        p: Probability = 0.5,
        *,
        shared_axes: int | Iterable[int] = (),
        scaling: Scaling = "inverted",
        rng: RNG = None,
    ) -> None:
        super().__init__()
        self.p = p
        own = vars(self)
        own.update(step=0, _counts=True)
        own["shared_axes"] = _checks.axes(shared_axes)
        own["scaling"] = _checks.choice(scaling, "scaling", SCALINGS)
        self.stream = as_stream(rng)  # last: it may draw from rng

    p = Option[Any](given_p.taken, "Probability of dropping an element: a number, an array or a schedule.")
    step = Option(given_p.check_step, "Number of training passes under a schedule so far.")
    shared_axes = Fixed["tuple[int, ...]"]("Axes along which one mask element serves all.")
    scaling = Fixed[Scaling]('When the scale is applied: "inverted" or "original".')

    def train(self) -> Self:
        """Switch to training mode, in which a schedule moves; as of any layer."""
        vars(self)["_counts"] = True  # even of a copy that was made within `sampling`
        return super().train()

    @property
    def realized_p(self) -> float | npt.NDArray[np.float64]:
        """Probability that is realized now, T / 2**32 of the mask law."""
        return realized(given_p.at(self.p, self.step))

    def _p_for(self, x: Array) -> Any:
        """Return p for this input, now."""
        own = vars(self)
        return own["p"] if type(own["p"]) is float else given_p.at(own["p"], own["step"])

    def _axes(self, x: Array) -> tuple[int, ...]:  # subclasses check its rank
        """Shared axes for this input."""
        return self.shared_axes

    def _without_ids(self) -> str:
        """Why samples cannot have masks of their own, and what to do; nothing if they can."""
        return ""

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
        """Apply dropout in training mode, or the inference map.

        Parameters
        ----------
        x : ndarray of floats
            Input; any strides. It is not held.
        mask : ndarray of bool, shape of `x` with 1 on the shared axes, optional
            A mask to use instead of a drawn one, True = kept; the stream does not move. Only in training. It is held,
            not a copy of it, until backward.
        sample_ids : ndarray of integers, shape (N,), optional
            An id for each sample along axis 0 of `x`: the mask of a sample follows from its id, not from its place in
            the batch; see `normdrop.functional.dropout`. Inference draws nothing and leaves it out of account.
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
        x = _checks.array(x, "x")
        axes, own = self._axes(x), vars(self)
        return_context = _checks.flag(return_context, "return_context")
        if not own["training"]:
            if mask is not None:
                raise ValueError("mask is for training; inference drops nothing. Call train() or leave out mask.")
            return self._passed(
                lambda: functional.dropout_inference(x, self._p_for(x), scaling=own["scaling"], out=out),
                return_context=return_context,
            )
        if sample_ids is not None and self._without_ids():
            raise ValueError(f"sample_ids are those of samples along axis 0, and {self._without_ids()}")
        return self._trained(
            lambda: functional.dropout(
                x,
                self._p_for(x),
                shared_axes=axes,
                scaling=own["scaling"],
                rng=own["stream"] if mask is None else None,
                mask=mask,
                sample_ids=sample_ids,
                out=out,
            ),
            moves=mask is None and x.size > 0,
            asked=x.size > 0,
            return_context=return_context,
            counts=x.size > 0 and own["_counts"] and given_p.is_schedule(own["p"]),
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
        """Apply the mask and scale of a forward pass to the gradient.

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
        dx = functional.dropout_backward(dy, self._waiting() if context is None else context, out=out)
        if context is None:
            self._passes.waiting = None, 0, False
        return dx

    def state_dict(self) -> dict[str, Array]:
        """Return key and call of the stream, and the step of a schedule.

        Returns
        -------
        dict
            ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()); if p is a schedule, ``step`` (int64, shape ()).
        """
        state = super().state_dict()
        return state | {"step": np.array(self.step, np.int64)} if given_p.is_schedule(self.p) else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over key and call, and the step of a schedule.

        Parameters
        ----------
        state : mapping
            Exactly the entries of `state_dict`: of a layer whose p is a schedule, if p is one here.
        """
        given_p.check_state(state, self.p)
        if not given_p.is_schedule(self.p):
            super().load_state_dict(state)
            return
        _state.check_keys(state, ("key", "call", "step"))
        step = given_p.check_step(int(_state.entry(state, "step", (), "iu")))
        stream = self.stream, {name: state[name] for name in ("key", "call")}
        _state.assign({}, {}, self, {"step": step}, stream)

    def _sample(self) -> bool:
        vars(self)["_counts"] = False
        return super()._sample()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__({"step": 0, "_counts": True} | dict(state))  # pickles from before schedules have neither
        p = vars(self).get("p")
        if isinstance(p, np.ndarray):
            p.flags.writeable = False

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={given_p.text(self.p, self.step)}{self._options()}, scaling={self.scaling!r}, "
            f"rng={self.stream!r}, training={self.training})"
        )

    def _options(self) -> str:
        return f", shared_axes={self.shared_axes}"
