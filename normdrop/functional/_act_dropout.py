"""An activation, dropout and a residual sum in one pass, forward and backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from normdrop import _backend, _checks
from normdrop._passes import Pass
from normdrop.functional._masking import DropoutContext
from normdrop.functional._steps_of import Activation, activation_of, residual_of, steps_of, undrawn
from normdrop.random import RNG, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]


class ActDropoutContext(NamedTuple):
    """What `act_dropout_backward` needs.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.act_dropout(np.ones(4), p=0.5, rng=0)
    >>> context.activation, context.dropout.scale
    (('relu', 0.0), 2.0)
    """

    x: Array
    """The input itself, not to be changed before backward; a copy where it was overwritten."""
    activation: tuple[str, float]
    """Name of the activation, and its parameter."""
    dropout: DropoutContext
    """What dropout keeps: no mask, but what draws it again."""


def act_dropout(
    x: Array,
    *,
    residual: Array | None = None,
    activation: Activation = "relu",
    p: float = 0.0,
    shared_axes: int | Iterable[int] = (),
    rng: RNG = None,
    out: Array | None = None,
) -> tuple[Array, ActDropoutContext]:
    r"""Apply an activation and dropout, and add a residual: y = residual + dropout(activation(x)), in one pass.

    Memory is read and written once, as in a transformer's feed-forward block. Every step is rounded to the dtype of
    `x`: the bits are those of the steps one after the other, `dropout` for the second.

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        What the activation takes. Not modified unless it is also `out`. It is held, not a copy of it, until backward.
    residual : ndarray, shape and dtype of `x`, optional
        What is added to the result of dropout.
    activation : str or (str, float), default "relu"
        One of ``"identity"``, ``"relu"``, ``"leaky_relu"``, ``"relu6"``, ``"hardswish"``, ``"hardtanh"``,
        ``"silu"``, ``"gelu"``, ``"gelu_tanh"``, ``"tanh"``, ``"sigmoid"``, ``"elu"``, ``"selu"``; with its parameter,
        such as ``("leaky_relu", 0.2)``, where it has one.
    p : float, default 0.0
        Probability of dropping an element, from 0 to 1; as in `dropout`, with inverted scaling.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element, as in `dropout`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the mask comes from; a `MaskStream` moves on by one call, unless `p` is 0 or `x` is empty.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x` or `residual`; a copy of `x` is kept for backward if it is overwritten.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : ActDropoutContext
        For `act_dropout_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    act_dropout_backward : gradient with respect to `x`; that with respect to `residual` is `dy` itself.
    batch_norm_act : the same after batch normalization.

    Notes
    -----
    Activations are computed in float64 and rounded once. A dropped element is +0, whatever it was.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014)
       1929-1958.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> h = np.array([-1.0, 2.0, 3.0])
    >>> y, context = functional.act_dropout(h, residual=np.ones(3), activation="relu")
    >>> y
    array([1., 3., 4.])
    >>> functional.act_dropout_backward(np.ones(3), context)
    array([0., 1., 1.])
    """
    x = _checks.array(x, "x")
    act, r, drops = activation_of(activation), residual_of(residual, x), undrawn(x, p, shared_axes)
    if out is not None:
        out = _checks.out(out, x, [("x", x)] if r is None else [("x", x), ("residual", r)])
    check_rng(rng)
    if drops.threshold == 0:
        return _forward(x, r, ActDropoutContext(x, act, drops), out)
    return with_call(
        rng, lambda key, call: _forward(x, r, ActDropoutContext(x, act, drops._replace(key=key, call=call)), out)
    )


def _forward(
    x: Array, residual: Array | None, context: ActDropoutContext, out: Array | None
) -> tuple[Array, ActDropoutContext]:
    walk = Pass(x, out)
    walk.fold((x.size,))
    context = context._replace(x=walk.kept())
    if x.size:
        r = None if residual is None else walk.beside(residual)
        _backend.act_dropout(walk.y, (walk.x, r), steps_of(context.activation, context.dropout, x, walk))
    return walk.result(), context


def act_dropout_backward(dy: Array, context: ActDropoutContext, *, out: Array | None = None) -> Array:
    r"""Gradient of `act_dropout` with respect to `x`; that with respect to `residual` is `dy` itself.

    The gradient is +0 where an element was dropped or the derivative of the activation is 0, whatever `dy` is.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : ActDropoutContext
        What `act_dropout` returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape and dtype of `x`, memory order of `x` as the forward pass saw it, or `out`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014)
       1929-1958, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.act_dropout(np.array([-1.0, 0.5]), activation=("leaky_relu", 0.1))
    >>> functional.act_dropout_backward(np.ones(2), context)
    array([0.1, 1. ])
    """
    if not isinstance(context, ActDropoutContext):
        raise TypeError(f"context must be what act_dropout() returned; got {_checks.kind(context)}")
    x = _checks.array(context.x, "context.x")
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
    walk = Pass(x, out)
    walk.fold((x.size,))
    if x.size:
        steps = steps_of(activation_of(context.activation), context.dropout, x, walk)
        _backend.act_dropout_backward(walk.y, walk.beside(dy), walk.x, steps)
    return walk.result()
