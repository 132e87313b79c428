"""Concrete dropout: p is learned together with the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _state, functional
from normdrop.functional._concrete_dropout import ConcreteDropoutContext, logit_of, temperature_of
from normdrop.functional._masking import DropoutContext
from normdrop.layers.attributes import Gradient, Option, Vector
from normdrop.layers.base import Array
from normdrop.layers.concrete_regularization import Regularization, factor, sigmoid
from normdrop.layers.drawing import Drawing
from normdrop.random import RNG, as_stream

S = TypeVar("S", bound=np.generic)

_STREAM = ("key", "call")


def _number(values: Any, name: str, own: dict[str, Any]) -> None:
    """Check an array that holds one number, which an optimizer is to change in place."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != ():
        what = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else _checks.kind(values)
        raise TypeError(f"{name} must be a float64 array of shape (); got {what}. Use layer.{name}[...] = number.")
    if not values.flags.writeable:
        raise ValueError(f"{name} is read-only and could not be changed in place; pass {name}.copy()")


class ConcreteDropout(Drawing):
    r"""Dropout whose p is learned: elements are kept by a continuous share while training.

    .. math:: y_i = \frac{(1 - z_i) x_i}{1 - p}, \qquad
        z_i = \sigma\left(\frac{1}{t} \left(\log\frac{p}{1 - p} - \log\frac{u_i}{1 - u_i}\right)\right)

    with uniform :math:`u_i`. What is learned is the logit of p, log(p / (1 - p)), which may be any number. Without
    a regularization, p would fall, as noise makes most losses larger; the paper's is that of `regularization`.

    Parameters
    ----------
    p : float, default 0.1
        Probability of dropping an element at first, between 0 and 1.
    temperature : float, default 0.1
        Positive; the lower, the nearer a share is to 0 or 1, and the more the gradients vary.
    weight_regularizer : float, default 1e-6
        Factor of the weights' part of the regularization: l² / N in the paper, N the number of training examples.
    dropout_regularizer : float, default 1e-5
        Factor of the part of p: 2 / N in the paper.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the random numbers come from. ``None``: a fresh key of its own.

    Attributes
    ----------
    logit : ndarray of float64, shape ()
        log(p / (1 - p)), the learned parameter; it stays on the host.
    dlogit : ndarray of float64, shape (), or None
        Its gradient, of the last backward pass.
    stream : MaskStream
        Key and call number of the next pass.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.concrete_dropout : the same without state.
    Dropout : with a given p.

    Notes
    -----
    Modes: each forward pass in training draws new numbers and moves the stream by one call. Inference draws nothing,
    moves nothing and returns a new array.

    References
    ----------
    .. [1] Y. Gal, J. Hron and A. Kendall, "Concrete dropout", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.ConcreteDropout(0.2, rng=0)
    >>> y = layer(np.ones((100, 8)))
    >>> dx = layer.backward(np.ones((100, 8)))
    >>> [(name, value.shape, gradient.shape) for name, value, gradient in layer.parameters()]
    [('logit', (), ())]
    >>> layer.logit -= 0.5  # a step of an optimizer
    >>> round(layer.p, 3)
    0.132
    """

    def __init__(
        self,
        p: float = 0.1,
        *,
        temperature: float = 0.1,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        rng: RNG = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight_regularizer = weight_regularizer
        self.dropout_regularizer = dropout_regularizer
        vars(self).update(logit=np.zeros(()), dlogit=None)
        self.p = p
        self.stream = as_stream(rng)  # last: it may draw from rng

    temperature = Option(temperature_of, "How soft the shares are.")
    weight_regularizer = Option(factor("weight_regularizer"), "Factor of the weights' part of regularization.")
    dropout_regularizer = Option(factor("dropout_regularizer"), "Factor of the part of p in regularization.")
    logit = Vector[Array](_number, "log(p / (1 - p)), the learned parameter.")
    dlogit = Gradient["Array | None"](_number, "Gradient of the logit.")

    @property
    def p(self) -> float:
        """Probability of dropping an element, as it is now; setting it sets the logit."""
        return sigmoid(float(self.logit))

    @p.setter
    def p(self, value: float) -> None:
        number = _checks.probability(value)
        if not 0.0 < number < 1.0:
            raise ValueError(f"p must be between 0 and 1, neither of them, for its logit is learned; got {value!r}")
        self.logit[...] = logit_of(math.log(number) - math.log1p(-number))

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[False] = ...
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self, x: npt.NDArray[S], *, out: npt.NDArray[S] | None = ..., return_context: Literal[True]
    ) -> tuple[npt.NDArray[S], ConcreteDropoutContext | DropoutContext]: ...

    def forward(
        self, x: Array, *, out: Array | None = None, return_context: bool = False
    ) -> Array | tuple[Array, ConcreteDropoutContext | DropoutContext]:
        """Apply concrete dropout in training mode, or pass `x` on.

        Parameters
        ----------
        x : ndarray of floats
            Input; any strides. In training it is held, not a copy of it, until backward: do not change it before.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        return_context : bool, default False
            Whether to return the context, too, for ``backward(dy, context=context)``; the pass then does not wait
            in the layer.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`.
        context : ConcreteDropoutContext or DropoutContext
            Only with ``return_context=True``; the second in inference.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` does not fit, or an optimizer has led the logit beyond 700; the layer and its stream are then
            unchanged.
        """
        x, own = _checks.array(x, "x"), vars(self)
        return_context = _checks.flag(return_context, "return_context")
        if not own["training"]:
            return self._passed(lambda: functional.dropout_inference(x, 0.0, out=out), return_context=return_context)
        options: Any = {"temperature": own["temperature"], "rng": own["stream"], "out": out}
        return self._trained(
            lambda: functional.concrete_dropout(x, float(own["logit"]), **options),
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
        context: ConcreteDropoutContext | DropoutContext | None = None,
        accumulate: bool = False,
        out: npt.NDArray[S] | None = None,
    ) -> npt.NDArray[S]:
        """Compute the gradients of a forward pass, and keep that of the logit; after inference it is 0.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : ConcreteDropoutContext or DropoutContext, optional
            What the forward pass returned; it may be used any number of times. Without it, the pass is the one that
            waits in the layer, which then waits no more.
        accumulate : bool, default False
            Whether to add to `dlogit` instead of setting it, as for a layer that several branches share.
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
        accumulate = _checks.flag(accumulate, "accumulate")
        made = self._waiting() if context is None else context
        dx: npt.NDArray[S]
        if isinstance(made, DropoutContext):
            dx, dlogit = functional.dropout_backward(dy, made, out=out), 0.0
        else:
            dx, dlogit = functional.concrete_dropout_backward(dy, made, out=out)
        gradients = {"dlogit": np.array(dlogit)}
        self._take_gradients(vars(self), gradients, accumulate=accumulate, waited=context is None)
        return dx

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield name, value and gradient of the logit.

        Yields
        ------
        name : str
            "logit".
        value : ndarray of float64, shape ()
            The parameter itself.
        gradient : ndarray of float64, shape (), or None
            Gradient of the last backward pass; ``None`` if there was none.
        """
        yield "logit", self.logit, self.dlogit

    def regularization(self, weight: Array, *, input_axis: int = 0) -> float:
        r"""Compute what is to be added to the mean loss of an example: the paper's regularization.

        .. math:: \frac{\lambda_w}{1 - p} \sum W^2 + \lambda_d K \left(p \log p + (1 - p) \log(1 - p)\right)

        where K is the number of inputs that `weight` has, which are what the layer drops, λ_w `weight_regularizer` and
        λ_d `dropout_regularizer`.

        Parameters
        ----------
        weight : ndarray
            The weights that the layer's output is multiplied by.
        input_axis : int, default 0
            Axis of `weight` along which its inputs lie.

        Returns
        -------
        float
            The regularization.
        """
        return self._regularization().value(weight, input_axis)

    def regularization_gradients(self, weight: Array, *, input_axis: int = 0) -> tuple[Array, float]:
        """Compute the gradients of `regularization`, to be added to those of the loss.

        Parameters
        ----------
        weight : ndarray
            As there.
        input_axis : int, default 0
            As there.

        Returns
        -------
        dweight : ndarray, shape and dtype of `weight`
            Gradient with respect to the weights.
        dlogit : float
            Gradient with respect to the logit: ``layer.dlogit += dlogit``.
        """
        return self._regularization().gradients(weight, input_axis)

    def _regularization(self) -> Regularization:
        return Regularization(float(self.logit), self.weight_regularizer, self.dropout_regularizer)

    def state_dict(self) -> dict[str, Array]:
        """Return the logit, and key and call of the stream.

        Returns
        -------
        dict
            ``logit`` (float64, shape ()), ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()).
        """
        return {"logit": self.logit.copy()} | super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the logit, key and call.

        Parameters
        ----------
        state : mapping
            Exactly the entries of `state_dict`.
        """
        _state.check_keys(state, ("logit", *_STREAM))
        logit = logit_of(float(_state.entry(state, "logit", (), "f")))
        stream = self.stream, {name: state[name] for name in _STREAM}
        _state.assign({"logit": self.logit}, {"logit": np.array(logit)}, self, {}, stream)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p:.4g}, temperature={self.temperature}, "
            f"weight_regularizer={self.weight_regularizer}, dropout_regularizer={self.dropout_regularizer}, "
            f"rng={self.stream!r}, training={self.training})"
        )
