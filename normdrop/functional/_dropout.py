"""Dropout without state: forward in training, forward in inference, backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device
from normdrop.functional import _varied
from normdrop.functional._masking import (
    SCALINGS,
    Affine,
    DropoutContext,
    Mask,
    Scaling,
    apply,
    inference_of,
    law_for,
    mask_of,
    sample_ids_of,
    shared_axes_of,
)
from normdrop.functional._varied import Varied
from normdrop.random import RNG, Key, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]


@overload
def dropout(
    x: Array,
    p: float | Array,
    *,
    shared_axes: int | Iterable[int] = ...,
    scaling: Scaling = ...,
    rng: RNG = ...,
    mask: Mask | None = ...,
    sample_ids: Integers | None = ...,
    out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> tuple[Array, DropoutContext]: ...


@overload
def dropout(
    x: Array,
    p: float | Array,
    *,
    shared_axes: int | Iterable[int] = ...,
    scaling: Scaling = ...,
    rng: RNG = ...,
    mask: Mask | None = ...,
    sample_ids: Integers | None = ...,
    out: Array | None = ...,
    return_mask: Literal[True],
) -> tuple[Array, DropoutContext, Mask]: ...


def dropout(  # noqa: PLR0913  # what decides the mask, by keyword
    x: Array,
    p: float | Array,
    *,
    shared_axes: int | Iterable[int] = (),
    scaling: Scaling = "inverted",
    rng: RNG = None,
    mask: Mask | None = None,
    sample_ids: Integers | None = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> tuple[Array, DropoutContext] | tuple[Array, DropoutContext, Mask]:
    r"""Drop each element with probability `p` and scale the others.

    .. math:: y_i = \frac{m_i x_i}{1 - p}, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with ``scaling="inverted"``, and :math:`y_i = m_i x_i` with ``scaling="original"``. A dropped element is set to
    +0, not multiplied by it: a NaN or infinity there disappears. No mask is stored; backward draws it again.

    Parameters
    ----------
    x : ndarray of floats, any shape and strides
        Input; not modified unless it is also `out`.
    p : float or ndarray of floats
        Probability of dropping an element, from 0 to 1. It is rounded to a multiple of 2**-32, and the scale is that
        of the rounded value, so that the expectation is exact. An array is broadcast to the mask, whose shape is that
        of `x` with 1 on the shared axes: (1, C, 1, 1) for a p of each channel, (N, 1, 1, 1) of each sample. It may be
        where `x` is, or on the host.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element. ``(2, 3)`` on (N, C, H, W) drops whole channels.
    scaling : {"inverted", "original"}, default "inverted"
        Whether kept elements are scaled now, or all elements in inference.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the mask comes from; a `MaskStream` moves on by one call. ``None`` is a fresh key.
    mask : ndarray of bool, shape of `x` with 1 on the shared axes, optional
        A mask to use instead of a drawn one; True = kept. Not copied, and needed again in backward.
    sample_ids : ndarray of integers, shape (N,), optional
        An id for each sample along axis 0 of `x`, modulo 2**64. The mask of a sample then follows from its id, and no
        longer from its place: at the same key and call it is the same alone, in any batch and at any position. Copied.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`.
    return_mask : bool, default False
        Whether to return the mask as a third item.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : DropoutContext
        For `dropout_backward`.
    mask : ndarray of bool, shape of `x` with 1 on the shared axes
        Only with ``return_mask=True``; True = kept.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    dropout_backward : gradient with respect to `x`.
    dropout_inference : the same layer in inference.

    Notes
    -----
    An empty `x` takes no call of the stream.

    With an array as p, elements have the random numbers that they would have with any other p, so that the same p
    everywhere has the mask and the bits of that number. Without `mask`, `sample_ids`, `shared_axes` and memory in
    another order than C order no mask is stored. An array on a GPU is copied to the host, whose copy is checked.

    With `sample_ids`, the mask of a sample is that of the sample alone, without its batch axis, under a key that is
    made of the stream's key and the id; samples with one id have one mask. Its mask is drawn to memory first, a byte
    for each element.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014) 1929-1958, section 4 and (inverted scaling) section 10.
    .. [2] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization using convolutional
       networks", CVPR 2015, section 3.2 (whole channels).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.arange(1.0, 9.0)
    >>> y, context, mask = functional.dropout(x, 0.5, rng=0, return_mask=True)
    >>> bool(np.all(y == np.where(mask, 2 * x, 0)))
    True
    >>> dx = functional.dropout_backward(np.ones(8), context)
    >>> bool(np.all(dx == 2 * mask))
    True
    """
    x = _checks.array(x, "x")
    given, chosen = _varied.probabilities(p), _checks.choice(scaling, "scaling", SCALINGS)
    numbers = (lambda axes: law_for(given, x, axes, chosen)), None
    return forward(x, numbers, shared_axes, rng, mask, sample_ids, out, return_mask)


def forward(
    x: Array,
    numbers: tuple[Callable[[tuple[int, ...]], tuple[int, float, Varied | None]], Affine | None],
    shared_axes: int | Iterable[int],
    rng: RNG,
    mask: Mask | None,
    sample_ids: Integers | None,
    out: Array | None,
    return_mask: bool,
) -> tuple[Array, DropoutContext] | tuple[Array, DropoutContext, Mask]:
    """Return what a forward pass returns, after checks.

    numbers = (T, scale of backward and the p of each as a function of the shared axes; affine map of forward or None).
    """
    of_axes, affine = numbers
    axes = shared_axes_of(shared_axes, x.ndim)
    threshold, scale, varied = of_axes(axes)
    law = x.shape, x.dtype, threshold, scale, axes
    ids = sample_ids_of(sample_ids, x, axes)
    if mask is not None:
        if rng is not None:
            raise ValueError("mask and rng are both given; leave out rng, because a given mask draws nothing")
        if ids is not None:
            raise ValueError("mask and sample_ids are both given; leave out sample_ids, because a mask is not drawn")
        mask = _checks.mask(mask, DropoutContext(*law).mask_shape, x)
    if out is not None:
        out = _checks.out(out, x, [("x", x)] if mask is None else [("x", x), ("mask", mask)])
    check_rng(rng)
    if mask is not None or x.size == 0:
        mask = None if mask is None else _device.native(mask)
        context = DropoutContext(*law, mask=mask, sample_ids=ids, varied=varied)
        return _result(apply(x, context, out, affine), x, context, return_mask)

    def drawn(key: Key, call: int) -> tuple[Array, DropoutContext] | tuple[Array, DropoutContext, Mask]:
        context = DropoutContext(*law, key, call, sample_ids=ids, varied=varied)
        return _result(apply(x, context, out, affine), x, context, return_mask)

    return with_call(rng, drawn)


def _result(
    y: Array, x: Array, context: DropoutContext, return_mask: bool
) -> tuple[Array, DropoutContext] | tuple[Array, DropoutContext, Mask]:
    return (y, context, _device.native(mask_of(context, x).copy())) if return_mask else (y, context)


def dropout_inference(
    x: Array, p: float | Array, *, scaling: Scaling = "inverted", out: Array | None = None
) -> tuple[Array, DropoutContext]:
    r"""Run dropout in inference: the identity, or for original scaling a factor.

    :math:`y = x` with ``scaling="inverted"``, :math:`y = (1 - p) x` with ``scaling="original"``. Nothing is drawn.

    Parameters
    ----------
    x : ndarray of floats
        Input.
    p : float or ndarray of floats
        Probability of dropping an element in training, from 0 to 1; an array is broadcast to `x`.
    scaling : {"inverted", "original"}, default "inverted"
        As in training.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`; without it, `y` is always a new array.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : DropoutContext
        For `dropout_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014)
       1929-1958, section 1, figure 2.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> functional.dropout_inference(np.ones(3), 0.25, scaling="original")[0]
    array([0.75, 0.75, 0.75])
    """
    x = _checks.array(x, "x")
    given = _varied.probabilities(p)
    original = _checks.choice(scaling, "scaling", SCALINGS) == "original"
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    context = inference_of(given, x, original)
    return apply(x, context, out), context


def dropout_backward(dy: Array, context: DropoutContext, *, out: Array | None = None) -> Array:
    r"""Gradient of dropout with respect to `x`: the mask and scale of the forward pass, applied to `dy`.

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : DropoutContext
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
    .. [1] N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014)
       1929-1958, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.dropout(np.ones(4), 0.5, rng=1)
    >>> bool(np.all(functional.dropout_backward(np.ones(4), context) == y))
    True
    """
    if not isinstance(context, DropoutContext):
        raise TypeError(f"context must be what dropout() returned; got {_checks.kind(context)}")
    dy = _checks.gradient(dy, context.shape, context.dtype)
    if out is not None:
        mask = None if context.mask is None else _checks.mask(context.mask, context.mask_shape, dy)
        out = _checks.out(out, dy, [("dy", dy)] if mask is None else [("dy", dy), ("mask", mask)])
    return apply(dy, context, out)
