"""Batch normalization layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from normdrop import _checks
from normdrop.functional import _running as running
from normdrop.functional._as_one import Axes
from normdrop.layers.attributes import Fixed, Gradient, Option, Vector, parameter
from normdrop.layers.base import Array
from normdrop.layers.batch_norm_passes import BatchNormPasses
from normdrop.layers.batch_norm_state import STATE
from normdrop.random import RNG, as_generator, check_rng


def _on_nonfinite(value: object) -> running.OnNonfinite:
    return cast("running.OnNonfinite", _checks.choice(value, "on_nonfinite", running.ON_NONFINITE))


def _channel_axis(value: Any) -> Axes:
    if isinstance(value, tuple):
        return tuple(_checks.integer(axis, "channel_axis", -(2**31)) for axis in value)
    return _checks.integer(value, "channel_axis", -(2**31))


def _reduce(value: Any) -> Callable[[Any], Any] | None:
    if value is not None and not callable(value):
        raise TypeError(f"reduce must be callable, and return the sum over all processes; got {_checks.kind(value)}")
    return value  # type: ignore[no-any-return]


def _running(values: object, name: str, own: dict[str, Any]) -> None:
    running.check(values, name, own["num_features"])


class BatchNorm(BatchNormPasses):
    r"""Normalize each channel by the statistics of the batch, or in inference by running ones.

    .. math:: y = \gamma_c \, \frac{x - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + \beta_c

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance. Positive.
    momentum : float, None or "population", default 0.9
        Weight of the **old** running value, from 0 to 1: ``running = momentum * running + (1 - momentum) * batch``.
        PyTorch's momentum m is ``1 - m`` here. ``None`` is the average over all batches, each weighted by its number of
        values. ``"population"`` is mean and variance of all values so far, which have what the means of batches differ
        by.
    debias : bool, default False
        Whether the average starts with the first batch instead of 0 and 1: at batch t, the weight of the old value is
        (m - m**t) / (1 - m**t), for momentum m between 0 and 1 and t = ``num_batches + 1`` [2]_.
    affine : bool, default True
        Whether there are a learned scale `gamma` and shift `beta`.
    scale, shift : bool, optional
        Whether there is `gamma`, and whether there is `beta`, where only one of them is wanted; by default as `affine`
        says.
    track_running_stats : bool, default True
        Whether there are running statistics; without them, inference uses those of the batch.
    unbiased : bool, default True
        Whether `running_var` takes the unbiased variance, n/(n - 1) times that of the batch (the paper, PyTorch), or
        the biased one (Keras, ONNX).
    channel_axis : int or tuple of int, default 1
        Axis of the channels: 1 for (N, C, ...), -1 for (N, ..., C). Several axes are one, in C order: `num_features` is
        then the product of their lengths. A layer of one channel also takes (N,).
    gamma_init : {"ones", "uniform"}, default "ones"
        Whether `gamma` starts at 1 or is drawn from U(0, 1). `beta` starts at 0.
    dtype : float32 or float64, default float32
        Dtype of the parameters. Running statistics are float64 always; the output has the dtype of the input.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where ``gamma_init="uniform"`` draws from.
    on_nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What a batch does to the running statistics, in training, if its mean or variance is not finite: it makes them
        NaN or infinite; the call raises an error and changes nothing; or the output is returned, but neither the
        running statistics nor the counts change.
    reduce : callable, optional
        Makes one batch of those that several processes hold, in training: ``reduce(part)`` returns the sum over all
        processes of what it is given, by ``+``: `ChannelStatistics` in a forward pass, a float64 array of shape (3, C)
        in a backward one. ``comm.allreduce`` of mpi4py is such a callable. See "One batch in several processes".

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learned scale and shift; an optimizer changes them in place.
    dgamma, dbeta : ndarray, shape (C,), or None
        Their gradients: of the last backward pass, or the sum of those with ``accumulate=True``.
    running_mean, running_var : ndarray of float64, shape (C,), or None
        Running statistics; they start at 0 and 1.
    num_batches : int
        Number of batches in the running statistics.
    num_values : int
        Number of values per channel in all those batches, the weight of a cumulative average.
    training : bool
        Whether the layer is in training mode.
    frozen : bool
        Whether training uses the running statistics, too, and leaves them as they are; see `freeze`.

    See Also
    --------
    normdrop.functional.batch_norm : the same without state, with notes on accuracy.

    Notes
    -----
    Modes: training normalizes by the statistics of the batch and then updates the running ones; inference uses the
    running ones, which do not change. `backward` is right in both: in inference the statistics are constants. A frozen
    layer trains gamma and beta with the running statistics. The page "Which running statistics" says which to choose.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal
       covariate shift", ICML 2015, Algorithms 1 and 2.
    .. [2] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.BatchNorm(2, momentum=0.5, dtype=np.float64)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> np.round(layer(x), 2)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([ 1., 10.])
    >>> dx = layer.backward(np.ones((2, 2)))
    >>> layer.dbeta
    array([2., 2.])
    """

    def __init__(  # noqa: PLR0913  # the options of batch normalization, all but one by keyword
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | Literal["population"] | None = 0.9,
        debias: bool = False,
        affine: bool = True,
        scale: bool | None = None,
        shift: bool | None = None,
        track_running_stats: bool = True,
        unbiased: bool = True,
        channel_axis: int | tuple[int, ...] = 1,
        gamma_init: Literal["ones", "uniform"] = "ones",
        dtype: npt.DTypeLike = np.float32,
        rng: RNG = None,
        on_nonfinite: Literal["propagate", "raise", "skip"] = "propagate",
        reduce: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        own = vars(self)
        n = own["num_features"] = _checks.integer(num_features, "num_features", 1)
        own["channel_axis"] = _channel_axis(channel_axis)
        own["dtype"] = dtype = _checks.float_dtype(dtype)
        affine = _checks.flag(affine, "affine")
        own["scale"] = affine if scale is None else _checks.flag(scale, "scale")
        own["shift"] = affine if shift is None else _checks.flag(shift, "shift")
        own["affine"] = self.scale and self.shift
        own["track_running_stats"] = _checks.flag(track_running_stats, "track_running_stats")
        self.eps = eps
        self.momentum = momentum
        self.debias = debias
        self.on_nonfinite = on_nonfinite
        self.reduce = reduce
        self.unbiased = unbiased
        drawn = _checks.choice(gamma_init, "gamma_init", ("ones", "uniform")) == "uniform"
        check_rng(rng)
        own.update(dict.fromkeys((*STATE, "dgamma", "dbeta")), num_batches=0, num_values=0, frozen=False)
        if self.scale:
            own["gamma"] = as_generator(rng).random(n).astype(dtype) if drawn else np.ones(n, dtype)
        if self.shift:
            own["beta"] = np.zeros(n, dtype)
        if track_running_stats:
            own["running_mean"], own["running_var"] = np.zeros(n), np.ones(n)

    num_features = Fixed[int]("Number of channels.")
    channel_axis = Fixed["int | tuple[int, ...]"]("Axis of the channels, or axes.")
    dtype = Fixed[np.dtype[Any]]("Dtype of the parameters.")
    affine = Fixed[bool]("Whether there are both gamma and beta.")
    scale = Fixed[bool]("Whether there is gamma.")
    shift = Fixed[bool]("Whether there is beta.")
    track_running_stats = Fixed[bool]("Whether there are running statistics.")
    eps = Option(_checks.eps, "Number added to the variance.")
    momentum = Option(_checks.momentum, "Weight of the old running value (PyTorch: 1 - momentum); None: by counts.")
    debias = Option(lambda value: _checks.flag(value, "debias"), "Whether an average starts with the first batch.")
    on_nonfinite = Option(_on_nonfinite, "What a batch that is not finite does: propagate, raise or skip.")
    reduce = Option(_reduce, "What returns the sum over all processes that share a batch, or None.")
    unbiased = Option(lambda value: _checks.flag(value, "unbiased"), "Whether running_var takes the unbiased variance.")
    num_batches = Option(lambda n: _checks.integer(n, "num_batches", 0), "Batches in the running statistics.")
    num_values = Option(lambda n: _checks.integer(n, "num_values", 0), "Values per channel in all those batches.")
    gamma = Vector[Array | None](parameter, "Learned scale.")
    beta = Vector[Array | None](parameter, "Learned shift.")
    dgamma = Gradient[Array | None](parameter, "Gradient of gamma.")
    dbeta = Gradient[Array | None](parameter, "Gradient of beta.")
    running_mean = Vector[Array | None](_running, "Running mean, float64.")
    running_var = Vector[Array | None](_running, "Running variance, float64.")

    def __repr__(self) -> str:
        one = "" if self.scale == self.shift else f", scale={self.scale}, shift={self.shift}"
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum!r}, "
            f"affine={self.affine}{one}, track_running_stats={self.track_running_stats}, unbiased={self.unbiased}, "
            f"channel_axis={self.channel_axis}, dtype={self.dtype}, on_nonfinite={self.on_nonfinite!r}, "
            f"{'' if self.reduce is None else 'reduce=..., '}{'debias=True, ' if self.debias else ''}"
            f"{'frozen=True, ' if self.frozen else ''}training={self.training})"
        )
