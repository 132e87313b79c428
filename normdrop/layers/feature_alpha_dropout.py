"""Alpha dropout of whole channels."""

from __future__ import annotations

from normdrop import _checks
from normdrop.layers.alpha_dropout import AlphaDropout, Integers
from normdrop.layers.attributes import Fixed
from normdrop.layers.base import Array
from normdrop.random import RNG


class FeatureAlphaDropout(AlphaDropout):
    """Drop whole channels to the floor of SELU while training, and keep mean and variance.

    Parameters
    ----------
    p : float, default 0.5
        Probability of dropping a channel of a sample, from 0 to 1.
    mean : float, default 0.0
        Mean of the input.
    var : float, default 1.0
        Variance of the input; positive.
    channel_axis : int, default 1
        Axis of the channels; the batch axis is the first of the others.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        As for `AlphaDropout`.

    See Also
    --------
    AlphaDropout : modes, streams, mean and variance.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017,
       section "New dropout technique".
    .. [2] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization using convolutional
       networks", CVPR 2015, section 3.2 (whole channels).

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> y = normdrop.FeatureAlphaDropout(0.5, rng=0)(np.ones((2, 3, 4, 4)))
    >>> bool(np.all(y == y[:, :, :1, :1]))
    True
    """

    def __init__(
        self, p: float = 0.5, *, mean: float = 0.0, var: float = 1.0, channel_axis: int = 1, rng: RNG = None
    ) -> None:
        axis = _checks.integer(channel_axis, "channel_axis", -(2**31))
        super().__init__(p, mean=mean, var=var, rng=rng)
        vars(self)["channel_axis"] = axis

    channel_axis = Fixed[int]("Axis of the channels.")

    def _axes(self, x: Array, sample_ids: Integers | None) -> tuple[int, ...]:
        axis = _checks.channel_axis(x, self.channel_axis)
        if axis == 0 and sample_ids is not None:
            raise ValueError(
                "sample_ids are those of samples along axis 0, where this layer has its channels (channel_axis="
                f"{self.channel_axis}); use an array with the samples first"
            )
        return tuple(a for a in range(x.ndim) if a not in (axis, 0 if axis else 1))

    def _options(self) -> str:
        return f", channel_axis={self.channel_axis}"
