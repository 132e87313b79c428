"""Concrete dropout without state: forward and backward, with a gradient for p."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks, _device
from normdrop._concrete import Relaxation
from normdrop._passes import Pass
from normdrop.functional._numbered import counted, flat
from normdrop.random import RNG, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]

_MOST = 700.0  # of the logit: beyond it, 1 - p or p would be 0 or subnormal


class ConcreteDropoutContext(NamedTuple):
    """What `concrete_dropout_backward` needs. No mask is kept: it is drawn again from key and call.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.concrete_dropout(np.ones(4), 0.0, rng=0)
    >>> context.relaxation.temperature, context.call
    (0.1, 0)
    """

    x: Array
    """The input itself, not to be changed before backward; a copy where it was overwritten."""
    relaxation: Relaxation
    """Key and call of the stream, the logit of p and the temperature."""

    @property
    def call(self) -> int:
        """Call of the stream."""
        return self.relaxation.call


def logit_of(value: object) -> float:
    """Return a logit of p as a float, after checks."""
    remedy = f"log(p / (1 - p)), from {-_MOST:g} to {_MOST:g}"
    number = _checks.real(value, "logit", remedy)
    if not -_MOST <= number <= _MOST:
        raise ValueError(f"logit must be {remedy}; got {value!r}. Take smaller steps if it was learned.")
    return number


def temperature_of(value: object) -> float:
    """Return a temperature as a float, after checks."""
    remedy = "positive, for example 0.1"
    number = _checks.real(value, "temperature", remedy)
    if not 0.0 < number < math.inf or math.isinf(1.0 / number):
        raise ValueError(f"temperature must be {remedy}, and so that its inverse is finite; got {value!r}")
    return number


def concrete_dropout(
    x: Array, logit: float, *, temperature: float = 0.1, rng: RNG = None, out: Array | None = None
) -> tuple[Array, ConcreteDropoutContext]:
    r"""Keep each element by a random share, whose distribution p can be learned from: dropout made continuous.

    .. math:: y_i = \frac{(1 - z_i) x_i}{1 - p}, \qquad
        z_i = \sigma\left(\frac{1}{t} \left(\log\frac{p}{1 - p} - \log\frac{u_i}{1 - u_i}\right)\right)

    where :math:`u_i` is uniform, t the temperature and :math:`\log (p / (1 - p))` the `logit`. The lower the
    temperature, the nearer z is to 0 or 1, as in `dropout` with the same p and stream, which is the limit. A share that
    is 0 in float64 sets its element to +0, whatever that was.

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        Input. Not modified unless it is also `out`. It is held, not a copy of it, until backward.
    logit : float
        log(p / (1 - p)), from -700 to 700.
    temperature : float, default 0.1
        Positive: t above.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the random numbers come from; a `MaskStream` moves on by one call, unless `x` is empty.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; a copy of `x` is kept for backward then.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : ConcreteDropoutContext
        For `concrete_dropout_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    concrete_dropout_backward : gradients with respect to `x` and the logit.
    dropout : the limit for a temperature of 0, with a given p.

    Notes
    -----
    z is computed in float64 from the number that the mask law compares with p, and y is rounded once, so that its bits
    are the same on every processor. The paper has the other sign before :math:`\log(u / (1 - u))`: its u is ours from
    the other end, and so has the same distribution. The mean of (1 - z) / (1 - p) is 1 only in the limit.

    An array in another order than C is copied on the way.

    References
    ----------
    .. [1] Y. Gal, J. Hron and A. Kendall, "Concrete dropout", NeurIPS 2017, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.ones(1000)
    >>> y, context = functional.concrete_dropout(x, 0.0, temperature=0.1, rng=1)
    >>> bool(np.all((y >= 0) & (y <= 2)))
    True
    >>> hard, _ = functional.concrete_dropout(x, 0.0, temperature=1e-12, rng=1)
    >>> bool(np.all(hard == functional.dropout(x, 0.5, rng=1)[0]))
    True
    """
    x = _checks.array(x, "x")
    number, t = logit_of(logit), temperature_of(temperature)
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    check_rng(rng)
    if x.size == 0:
        return _forward(x, Relaxation((0, 0), 0, number, t), out)
    return with_call(rng, lambda key, call: _forward(x, Relaxation(key, call, number, t), out))


def _forward(x: Array, relaxation: Relaxation, out: Array | None) -> tuple[Array, ConcreteDropoutContext]:
    walk = Pass(x, out)
    context = ConcreteDropoutContext(walk.kept(), relaxation)
    if x.size:
        y, turn = flat(walk)
        _backend.concrete_dropout(y, counted(walk.dense), relaxation)
        turn()
    return walk.result(), context


def concrete_dropout_backward(
    dy: Array, context: ConcreteDropoutContext, *, out: Array | None = None
) -> tuple[Array, float]:
    r"""Gradients of `concrete_dropout` with respect to `x` and to the logit of p.

    .. math:: dx_i = \frac{1 - z_i}{1 - p} dy_i, \qquad
        d\mathrm{logit} = \sum_i dx_i\, x_i \left(p - \frac{z_i}{t}\right)

    The sum is taken in float64, in an order that depends on the size of `x` alone. Where 1 - z is 0 in float64, dx and
    what is added are +0.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : ConcreteDropoutContext
        What `concrete_dropout` returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.
    dlogit : float
        Gradient with respect to the logit; with respect to p it is dlogit / (p (1 - p)).

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] Y. Gal, J. Hron and A. Kendall, "Concrete dropout", NeurIPS 2017, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.concrete_dropout(np.ones(1000), 0.0, rng=1)
    >>> dx, dlogit = functional.concrete_dropout_backward(np.ones(1000), context)
    >>> bool(np.all(dx == y))
    True
    """
    if not isinstance(context, ConcreteDropoutContext):
        raise TypeError(f"context must be what concrete_dropout() returned; got {_checks.kind(context)}")
    x, relaxation = _checks.array(context.x, "context.x"), _relaxation_of(context)
    dy = _checks.gradient(dy, x.shape, x.dtype)
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy), ("x", x)])
    walk, dlogit = Pass(dy, out), _device.empty((1,), np.float64, dy)
    dlogit.fill(0.0)
    if dy.size:
        dx, turn = flat(walk)
        _backend.concrete_dropout_backward(dx, dlogit, counted(walk.dense), counted(x), relaxation)
        turn()
    return walk.result(), float(_device.to_host(dlogit)[0])


def _relaxation_of(context: ConcreteDropoutContext) -> Relaxation:
    """Return the context's numbers, after checks: a context may come from anywhere."""
    given = context.relaxation
    if not isinstance(given, Relaxation):
        raise TypeError(f"context.relaxation must be a Relaxation; got {_checks.kind(given)}")
    return given._replace(logit=logit_of(given.logit), temperature=temperature_of(given.temperature))
