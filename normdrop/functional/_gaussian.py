"""Normal noise without state, multiplied or added: forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from normdrop import _backend, _checks
from normdrop._normal_numbers import Noise
from normdrop._passes import Pass
from normdrop.functional._masking import DropoutContext, apply
from normdrop.functional._numbered import counted, flat
from normdrop.random import RNG, Key, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]
Launcher: TypeAlias = Callable[[Array, Array, Noise], None]
C = TypeVar("C")


class GaussianDropoutContext(NamedTuple):
    """What `gaussian_dropout_backward` needs. No noise is kept: it is drawn again from key and call.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.gaussian_dropout(np.ones(4), 0.2, rng=0)
    >>> context.std, context.call
    (0.5, 0)
    """

    shape: tuple[int, ...]
    """Shape of x."""
    dtype: np.dtype[Any]
    """Dtype of x."""
    std: float
    """Standard deviation of the factors, sqrt(p / (1 - p))."""
    key: Key = (0, 0)
    """Key of the stream."""
    call: int = 0
    """Call of the stream."""


class GaussianNoiseContext(NamedTuple):
    """What `gaussian_noise_backward` needs, and what the noise was made of.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> _, context = functional.gaussian_noise(np.ones(4), 0.1, rng=0)
    >>> context.std, context.call
    (0.1, 0)
    """

    shape: tuple[int, ...]
    """Shape of x."""
    dtype: np.dtype[Any]
    """Dtype of x."""
    std: float
    """Standard deviation of the noise."""
    key: Key = (0, 0)
    """Key of the stream."""
    call: int = 0
    """Call of the stream."""


def p_of(value: object) -> float:
    """Return the p of Gaussian dropout as a float, after checks."""
    p = _checks.probability(value)
    if p == 1.0:
        raise ValueError(
            f"p must be below 1, because the variance of the noise, p / (1 - p), would be infinite; got {value!r}. "
            "Use Dropout(1.0) if everything is to be dropped."
        )
    return p


def std_of(value: object) -> float:
    """Return a standard deviation as a float, after checks."""
    remedy = "finite and 0 or more, for example 0.1"
    std = _checks.real(value, "std", remedy)
    if not 0.0 <= std < math.inf:
        raise ValueError(f"std must be {remedy}; got {value!r}")
    return std


def gaussian_dropout(
    x: Array, p: float, *, rng: RNG = None, out: Array | None = None
) -> tuple[Array, GaussianDropoutContext]:
    r"""Multiply each element by a normal number with the mean and variance of dropout's factors.

    .. math:: y_i = x_i (1 + \varepsilon_i), \qquad \varepsilon_i \sim N\left(0, \frac{p}{1 - p}\right)

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        Input; not modified unless it is also `out`.
    p : float
        That of the dropout with this mean and variance, from 0 to below 1.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the noise comes from; a `MaskStream` moves on by one call, unless `x` is empty. ``None`` is a fresh key.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : GaussianDropoutContext
        For `gaussian_dropout_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    gaussian_dropout_backward : gradient with respect to `x`.
    gaussian_noise : the same noise, added.
    dropout : factors that are 0 or 1 / (1 - p).

    Notes
    -----
    y is computed in float64 from the normal number of the element, which the page of the mask law defines, and rounded
    once, so that its bits are the same on every processor. No element is dropped: a NaN stays one. With p = 0, `x` is
    passed on; the call is taken as with any other p.

    An array in another order than C is copied on the way.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014) 1929-1958, section 10.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.gaussian_dropout(np.ones(100_000), 0.2, rng=0)
    >>> round(float(y.mean()), 2), round(float(y.var()), 2)
    (1.0, 0.25)
    >>> bool(np.all(functional.gaussian_dropout_backward(np.ones(100_000), context) == y))
    True
    """
    p = p_of(p)
    return _forward(_backend.gaussian_dropout, GaussianDropoutContext, x, math.sqrt(p / (1.0 - p)), rng, out)


def gaussian_noise(
    x: Array, std: float, *, rng: RNG = None, out: Array | None = None
) -> tuple[Array, GaussianNoiseContext]:
    r"""Add a normal number to each element.

    .. math:: y_i = x_i + \varepsilon_i, \qquad \varepsilon_i \sim N(0, \mathrm{std}^2)

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        Input; not modified unless it is also `out`.
    std : float
        Standard deviation of the noise, in units of `x`: finite, 0 or more.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the noise comes from; a `MaskStream` moves on by one call, unless `x` is empty. ``None`` is a fresh key.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : GaussianNoiseContext
        For `gaussian_noise_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    gaussian_noise_backward : gradient with respect to `x`.
    gaussian_dropout : the same noise, multiplied.

    Notes
    -----
    As in `gaussian_dropout`, y is computed in float64 and rounded once, ``std=0`` passes `x` on and takes a call, and
    an array in another order than C is copied on the way.

    References
    ----------
    .. [1] C. M. Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7 (1995)
       108-116.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.gaussian_noise(np.zeros(100_000), 2.0, rng=0)
    >>> round(float(y.std()), 1)
    2.0
    """
    return _forward(_backend.gaussian_noise, GaussianNoiseContext, x, std_of(std), rng, out)


def gaussian_dropout_backward(dy: Array, context: GaussianDropoutContext, *, out: Array | None = None) -> Array:
    r"""Gradient of `gaussian_dropout` with respect to `x`: the factors of the forward pass, applied to `dy`.

    .. math:: dx_i = (1 + \varepsilon_i)\, dy_i

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : GaussianDropoutContext
        What the forward pass returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014) 1929-1958, section 10.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.gaussian_dropout(np.ones(4), 0.5, rng=1)
    >>> bool(np.all(functional.gaussian_dropout_backward(np.ones(4), context) == y))
    True
    """
    if not isinstance(context, GaussianDropoutContext):
        raise TypeError(f"context must be what gaussian_dropout() returned; got {_checks.kind(context)}")
    dy, out = _gradient(dy, context, out)
    return _run(_backend.gaussian_dropout, dy, Noise(context.key, context.call, std_of(context.std)), out)


def gaussian_noise_backward(dy: Array, context: GaussianNoiseContext, *, out: Array | None = None) -> Array:
    """Gradient of `gaussian_noise` with respect to `x`: `dy` itself, in a new array or in `out`.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`.
    context : GaussianNoiseContext
        What the forward pass returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.

    Raises
    ------
    TypeError, ValueError
        `dy` or `out` does not match the forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.gaussian_noise(np.ones(3), 0.1)
    >>> functional.gaussian_noise_backward(np.ones(3), context)
    array([1., 1., 1.])
    """
    if not isinstance(context, GaussianNoiseContext):
        raise TypeError(f"context must be what gaussian_noise() returned; got {_checks.kind(context)}")
    dy, out = _gradient(dy, context, out)
    return _passed_on(dy, out)


def _forward(
    launch: Launcher, kind: Callable[..., C], x: Array, std: float, rng: RNG, out: Array | None
) -> tuple[Array, C]:
    """Return what a forward pass returns: nothing happens between a call that is taken and the end."""
    x = _checks.array(x, "x")
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    check_rng(rng)
    if x.size == 0:
        return _passed_on(x, out), kind(x.shape, x.dtype, std)

    def drawn(key: Key, call: int) -> tuple[Array, C]:
        return _run(launch, x, Noise(key, call, std), out), kind(x.shape, x.dtype, std, key, call)

    return with_call(rng, drawn)


def _gradient(
    dy: object, context: GaussianDropoutContext | GaussianNoiseContext, out: Array | None
) -> tuple[Array, Array | None]:
    """Return dy and out, after checks."""
    values = _checks.gradient(dy, context.shape, context.dtype)
    return values, None if out is None else _checks.out(out, values, [("dy", values)])


def _run(launch: Launcher, x: Array, noise: Noise, out: Array | None) -> Array:
    if noise.std == 0.0 or x.size == 0:
        return _passed_on(x, out)
    walk = Pass(x, out)
    y, turn = flat(walk)
    launch(y, counted(walk.dense), noise)
    turn()
    return walk.result()


def _passed_on(x: Array, out: Array | None) -> Array:
    return apply(x, DropoutContext(x.shape, x.dtype, 0, 1.0), out)
