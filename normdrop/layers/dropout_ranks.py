"""Dropout of whole channels: layers with a number of axes in their name, who know which of them are shared."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from normdrop import _checks
from normdrop.functional._masking import Scaling
from normdrop.layers.attributes import Fixed
from normdrop.layers.base import Array
from normdrop.layers.dropout import Dropout
from normdrop.layers.given_p import Probability
from normdrop.random import RNG


class _ChannelDropout(Dropout):
    """Drop whole channels of inputs with a fixed number of axes."""

    _ndim: ClassVar[int]
    _shape: ClassVar[str]

    def __init__(
        self, p: Probability = 0.5, *, channel_axis: int = 1, scaling: Scaling = "inverted", rng: RNG = None
    ) -> None:
        axis = _checks.axis(channel_axis, "channel_axis", self._ndim)
        batch_axis = 1 if axis == 0 else 0
        shared_axes = tuple(a for a in range(self._ndim) if a not in (batch_axis, axis))
        super().__init__(p, shared_axes=shared_axes, scaling=scaling, rng=rng)
        vars(self)["channel_axis"] = axis

    channel_axis = Fixed[int]("Axis of the channels.")

    def _axes(self, x: Array) -> tuple[int, ...]:
        _checks.rank(
            x,
            (self._ndim,),
            type(self).__name__,
            f"Its input is {self._shape}; use x[np.newaxis] for a single sample, "
            f"{_layer_for(x.ndim)} for this number of axes.",
        )
        return self.shared_axes

    def _p_for(self, x: Array) -> Any:
        p = super()._p_for(x)
        if not isinstance(p, np.ndarray) or p.ndim != 1:
            return p
        axis = self.channel_axis
        if p.shape != (x.shape[axis],):
            raise ValueError(
                f"p has one axis, and so must have one number for each of the {x.shape[axis]} channels of x; got shape "
                f"{p.shape}. Give it the axes of x for anything else."
            )
        return p.reshape([-1 if a == axis else 1 for a in range(x.ndim)])

    def _without_ids(self) -> str:
        here = self.channel_axis == 0
        return "this layer has its channels there (channel_axis=0); use an array with the samples first" * here

    def _options(self) -> str:
        return f", channel_axis={self.channel_axis}"


def _layer_for(ndim: int) -> str:
    return {3: "Dropout1d", 4: "Dropout2d", 5: "Dropout3d"}.get(ndim, "Dropout(shared_axes=...)")


class Dropout1d(_ChannelDropout):
    """Drop whole channels of (N, C, L) inputs while training.

    Parameters
    ----------
    p : float, ndarray of floats, or callable, default 0.5
        Probability of dropping a channel, from 0 to 1. An array of one axis has one number for each channel, others
        are broadcast to the mask; a callable is a schedule. See `Dropout`.
    channel_axis : int, default 1
        Axis of the channels; the batch axis is the first of the others.
    scaling : {"inverted", "original"}, default "inverted"
        As for `Dropout`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    Dropout : modes, scaling, streams; any ``shared_axes``.

    References
    ----------
    .. [1] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization using convolutional
       networks", CVPR 2015, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> y = normdrop.Dropout1d(0.5, rng=0)(np.ones((2, 3, 4)))
    >>> bool(np.all(y == y[:, :, :1]))
    True
    """

    _ndim = 3
    _shape = "(N, C, L)"


class Dropout2d(_ChannelDropout):
    """Drop whole channels of (N, C, H, W) inputs while training.

    Neighbors in a feature map are correlated, so dropping single elements removes little information; dropping the
    map does.

    Parameters
    ----------
    p : float, ndarray of floats, or callable, default 0.5
        Probability of dropping a channel, from 0 to 1. An array of one axis has one number for each channel, others
        are broadcast to the mask; a callable is a schedule. See `Dropout`.
    channel_axis : int, default 1
        Axis of the channels, -1 for (N, H, W, C); the batch axis is the first of the others.
    scaling : {"inverted", "original"}, default "inverted"
        As for `Dropout`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    Dropout : modes, scaling, streams; any ``shared_axes``.

    References
    ----------
    .. [1] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization using convolutional
       networks", CVPR 2015, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> y = normdrop.Dropout2d(0.5, rng=0)(np.ones((2, 3, 4, 4)))
    >>> bool(np.all(y == y[:, :, :1, :1]))
    True
    """

    _ndim = 4
    _shape = "(N, C, H, W)"


class Dropout3d(_ChannelDropout):
    """Drop whole channels of (N, C, D, H, W) inputs while training.

    Parameters
    ----------
    p : float, ndarray of floats, or callable, default 0.5
        Probability of dropping a channel, from 0 to 1. An array of one axis has one number for each channel, others
        are broadcast to the mask; a callable is a schedule. See `Dropout`.
    channel_axis : int, default 1
        Axis of the channels; the batch axis is the first of the others.
    scaling : {"inverted", "original"}, default "inverted"
        As for `Dropout`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `Dropout`.

    See Also
    --------
    Dropout : modes, scaling, streams; any ``shared_axes``.

    References
    ----------
    .. [1] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization using convolutional
       networks", CVPR 2015, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> y = normdrop.Dropout3d(0.5, rng=0)(np.ones((2, 3, 4, 4, 4)))
    >>> bool(np.all(y == y[:, :, :1, :1, :1]))
    True
    """

    _ndim = 5
    _shape = "(N, C, D, H, W)"
