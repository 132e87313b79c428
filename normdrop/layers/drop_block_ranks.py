"""DropBlock layers: whole regions of feature maps, with the number of axes in their name."""

from __future__ import annotations

from normdrop.layers.drop_block import DropBlock


class DropBlock1d(DropBlock):
    """Drop runs of neighbors in (N, C, L) inputs while training.

    Parameters
    ----------
    p : float, default 0.1
        Share of elements to be dropped, from 0 to 1. May be changed later through the attribute.
    block_size : int or tuple of one int, default 7
        Length of a run; one that is longer than the input counts as that long.
    channel_axis : int, default 1
        Axis of the channels: 0, 1 or -1; the batch axis is the first of the others.
    shared_channels : bool, default False
        As for `DropBlock2d`.
    rate : {"exact", "paper"}, default "exact"
        As for `DropBlock2d`.
    scaling : {"counted", "expected"}, default "counted"
        As for `DropBlock2d`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    DropBlock2d : what the options mean.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, algorithm 1, for maps of two axes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> y = normdrop.DropBlock1d(0.4, 3, rng=3)(np.ones((1, 1, 12)))
    >>> print((y[0, 0] != 0).astype(int))
    [1 1 1 1 1 1 1 1 0 0 0 1]
    """

    _ndim = 3
    _shape = "(N, C, L)"


class DropBlock2d(DropBlock):
    r"""Drop contiguous regions of (N, C, H, W) feature maps while training.

    .. math:: y_i = m_i x_i \frac{|M|}{\sum_j m_j}

    where m is 0 in all blocks that begin at a seed, and seeds fall at random: see `normdrop.functional.drop_block`.
    Neighbors in a feature map are correlated, so that single elements that are dropped can be told from those around
    them; a region cannot.

    Parameters
    ----------
    p : float, default 0.1
        Share of elements to be dropped, from 0 to 1. May be changed later through the attribute; the paper raises it
        linearly from 0 to 0.1 over the training.
    block_size : int or tuple of two ints, default 7
        Sides of a block. A side that is longer than the map's counts as that long, so that a block may be a whole map.
    channel_axis : int, default 1
        Axis of the channels: 0, 1, or -1 for (N, H, W, C); the batch axis is the first of the others.
    shared_channels : bool, default False
        Whether the channels of a sample have one mask. Otherwise each has its own, which the paper found to be better.
    rate : {"exact", "paper"}, default "exact"
        How often blocks fall. ``"exact"``: so that a share of p is dropped in expectation. ``"paper"``: by the paper's
        formula, which drops less than p, because it counts overlaps twice; `realized_p_of` says how much.
    scaling : {"counted", "expected"}, default "counted"
        What kept elements are multiplied by. ``"counted"``: the number of all elements of the batch by that of the kept
        ones, as in the paper. ``"expected"``: 1 by the expected share of kept ones, whatever else is in the batch.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    Attributes
    ----------
    stream : MaskStream
        Key and call number of the next mask.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.drop_block : the same without state.
    Dropout2d : whole channels.

    Notes
    -----
    Modes: each forward pass in training draws a new mask and moves the stream by one call. Inference is the identity,
    draws nothing, moves nothing and returns a new array.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.DropBlock2d(0.25, 2, rng=1)
    >>> print((layer(np.ones((1, 1, 5, 8)))[0, 0] != 0).astype(int))
    [[1 1 1 1 1 1 1 1]
     [1 1 1 1 0 0 1 1]
     [1 1 1 1 0 0 1 1]
     [1 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 1]]
    >>> round(layer.realized_p_of((5, 8)), 6)
    0.25
    >>> round(normdrop.DropBlock2d(0.25, 2, rate="paper").realized_p_of((5, 8)), 6)
    0.226141
    """

    _ndim = 4
    _shape = "(N, C, H, W)"


class DropBlock3d(DropBlock):
    """Drop contiguous regions of (N, C, D, H, W) feature maps while training.

    Parameters
    ----------
    p : float, default 0.1
        Share of elements to be dropped, from 0 to 1. May be changed later through the attribute.
    block_size : int or tuple of three ints, default 7
        Sides of a block. A side that is longer than the map's counts as that long.
    channel_axis : int, default 1
        Axis of the channels: 0, 1 or -1; the batch axis is the first of the others.
    shared_channels : bool, default False
        As for `DropBlock2d`.
    rate : {"exact", "paper"}, default "exact"
        As for `DropBlock2d`.
    scaling : {"counted", "expected"}, default "counted"
        As for `DropBlock2d`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    DropBlock2d : what the options mean.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, algorithm 1, for maps of two axes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.DropBlock3d(0.2, (1, 3, 3), rng=0)
    >>> x = np.ones((8, 4, 2, 16, 16))
    >>> y = layer(x)
    >>> bool(abs(np.mean(y == 0) - 0.2) < 0.02), round(float(y.mean()), 6)
    (True, 1.0)
    """

    _ndim = 5
    _shape = "(N, C, D, H, W)"
