"""DropBlock without state: forward in training, and backward."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy.typing as npt

from normdrop import _checks, _device
from normdrop.functional._drop_block_mask import (
    BLOCK_SCALINGS,
    BlockScaling,
    DropBlockContext,
    applied,
    blocks_of,
    check_context,
    counted_scale,
    dropped,
    mask_of,
)
from normdrop.functional._drop_block_rate import Rate, checked_rate, seeds_of
from normdrop.functional._masking import Mask
from normdrop.random import RNG, Key, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]


@overload
def drop_block(
    x: Array,
    p: float,
    block_size: int | tuple[int, ...] = ...,
    *,
    channel_axis: int = ...,
    shared_channels: bool = ...,
    rate: Rate = ...,
    scaling: BlockScaling = ...,
    rng: RNG = ...,
    out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> tuple[Array, DropBlockContext]: ...


@overload
def drop_block(
    x: Array,
    p: float,
    block_size: int | tuple[int, ...] = ...,
    *,
    channel_axis: int = ...,
    shared_channels: bool = ...,
    rate: Rate = ...,
    scaling: BlockScaling = ...,
    rng: RNG = ...,
    out: Array | None = ...,
    return_mask: Literal[True],
) -> tuple[Array, DropBlockContext, Mask]: ...


def drop_block(  # noqa: PLR0913  # what decides the mask, by keyword
    x: Array,
    p: float,
    block_size: int | tuple[int, ...] = 7,
    *,
    channel_axis: int = 1,
    shared_channels: bool = False,
    rate: Rate = "exact",
    scaling: BlockScaling = "counted",
    rng: RNG = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> tuple[Array, DropBlockContext] | tuple[Array, DropBlockContext, Mask]:
    r"""Drop contiguous blocks of feature maps, and scale what is left.

    .. math:: y_i = m_i x_i \frac{|M|}{\sum_j m_j}

    where m is the mask, 0 where the block of a seed covers an element, and the sum is over the whole batch. Seeds fall
    with a probability γ wherever a whole block has room, by the mask law; see `drop_block_rate`. A dropped element is
    set to +0, not multiplied by it: a NaN or infinity there disappears. No mask is stored; backward draws it again.

    Parameters
    ----------
    x : ndarray of floats, shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), any strides
        Input; not modified unless it is also `out`.
    p : float
        Share of elements to be dropped, from 0 to 1; with ``rate="paper"`` fewer are.
    block_size : int or tuple of int, default 7
        Sides of a block, or one for all; even ones, too. A side that is longer than the map's counts as that long, so
        that a block may be a whole map.
    channel_axis : int, default 1
        Axis of the channels: 1, or -1 for (N, H, W, C), or 0 for (C, N, H, W).
    shared_channels : bool, default False
        Whether the channels of a sample have one mask. Otherwise each has its own, which the paper found to be better.
    rate : {"exact", "paper"}, default "exact"
        Whether a share of p is dropped in expectation, or γ is the paper's.
    scaling : {"counted", "expected"}, default "counted"
        Whether the scale is the number of all elements by that of the kept ones in this batch, as in the paper, or 1 by
        the expected share of kept ones. The latter does not depend on what else is in the batch.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the seeds come from; a `MaskStream` moves on by one call, unless `x` is empty. ``None`` is a fresh key.
    out : ndarray, shape and dtype of `x`, optional
        Where to write `y`. It may be `x`.
    return_mask : bool, default False
        Whether to return the mask as a third item.

    Returns
    -------
    y : ndarray
        Shape, dtype and memory order of `x`, or `out`.
    context : DropBlockContext
        For `drop_block_backward`.
    mask : ndarray of bool, shape of `x`, with 1 for the channels if they share it
        Only with ``return_mask=True``; True = kept.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    drop_block_backward : gradient with respect to `x`.
    drop_block_rate : γ, and how much of a map is dropped.
    dropout : the same for blocks of one element.

    Notes
    -----
    Where nothing is kept, y is zero. The scale is a constant for backward: it does not depend on `x`.

    Elements near the borders are dropped less often than those in the middle, because fewer blocks cover them.

    The mask is drawn to memory: a bit for each element, or a byte where it is returned, where channels share it, or
    where `x` does not lie in C order.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x = np.ones((1, 1, 6, 6))
    >>> y, context, mask = functional.drop_block(x, 0.3, 3, rng=4, return_mask=True)
    >>> print(mask[0, 0].astype(int))
    [[0 0 0 1 1 1]
     [0 0 0 0 0 1]
     [0 0 0 0 0 1]
     [1 1 0 0 0 1]
     [1 1 1 1 1 1]
     [1 1 1 1 1 1]]
    >>> bool(np.all(y == np.where(mask, 36 / 20, 0)))
    True
    >>> dx = functional.drop_block_backward(np.ones_like(x), context)
    >>> bool(np.all(dx == y))
    True
    """
    x = _checks.array(x, "x")
    p, rate = _checks.probability(p), checked_rate(rate)
    scaling_ = _checks.choice(scaling, "scaling", BLOCK_SCALINGS)
    return_mask = _checks.flag(return_mask, "return_mask")
    shared = _checks.flag(shared_channels, "shared_channels")
    blocks, axis = blocks_of(x, block_size, channel_axis)
    if out is not None:
        out = _checks.out(out, x, [("x", x)])
    check_rng(rng)
    threshold = seeds_of(x.shape, blocks, p, rate) if x.size else 0
    context = DropBlockContext(x.shape, x.dtype, threshold, 1.0, blocks, (axis,) if shared else ())

    def drawn(key: Key, call: int) -> tuple[Array, DropBlockContext] | tuple[Array, DropBlockContext, Mask]:
        made, counted = context._replace(key=key, call=call), scaling_ == "counted"
        if not counted:
            keep_prob = 1.0 - made.realized_p
            made = made._replace(scale=1.0 / keep_prob if keep_prob > 0.0 else 0.0)
        if not return_mask:
            return dropped(x, made, out, counted=counted)
        mask, n_kept = mask_of(made, x)
        made = counted_scale(made, n_kept) if counted else made
        return applied(x, made, mask, out), made, _device.native(mask)

    return drawn((0, 0), 0) if x.size == 0 else with_call(rng, drawn)


def drop_block_backward(dy: Array, context: DropBlockContext, *, out: Array | None = None) -> Array:
    r"""Gradient of `drop_block` with respect to `x`: the mask and scale of the forward pass, applied to `dy`.

    .. math:: dx_i = m_i\, dy_i \frac{|M|}{\sum_j m_j}

    Parameters
    ----------
    dy : ndarray, shape and dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified unless it is also `out`.
    context : DropBlockContext
        What `drop_block` returned. It can be used any number of times.
    out : ndarray, shape and dtype of `dy`, optional
        Where to write `dx`. It may be `dy`.

    Returns
    -------
    dx : ndarray
        Shape, dtype and memory order of `dy`, or `out`.

    Raises
    ------
    TypeError, ValueError
        `dy`, `context` or `out` does not match the forward pass.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> y, context = functional.drop_block(np.ones((2, 3, 8)), 0.5, 3, rng=1)
    >>> bool(np.all(functional.drop_block_backward(np.ones((2, 3, 8)), context) == y))
    True
    """
    if not isinstance(context, DropBlockContext):
        raise TypeError(f"context must be what drop_block() returned; got {_checks.kind(context)}")
    dy = _checks.gradient(dy, context.shape, context.dtype)
    check_context(context)
    if out is not None:
        out = _checks.out(out, dy, [("dy", dy)])
    return dropped(dy, context, out, counted=False)[0]
