"""Batch normalization layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _process, functional
from normdrop.functional import BatchNormContext, InferenceContext
from normdrop.functional import _running as running
from normdrop.functional._as_one import Axes
from normdrop.layers.attributes import Fixed, Gradient, Option, Vector, parameter
from normdrop.layers.base import Array
from normdrop.layers.batch_norm_state import STATE, BatchNormState
from normdrop.layers.population import Population
from normdrop.layers.running import Running
from normdrop.random import RNG, as_generator, check_rng

S = TypeVar("S", bound=np.generic)
Masked: TypeAlias = Literal["zero", "normalize", "keep"]


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


def _sum(before: Array | None, new: Array | None) -> Array | None:
    """Add a gradient, if there is one, to what was there before, if anything was."""
    return before if new is None else new if before is None else before + new


def _running(values: object, name: str, own: dict[str, Any]) -> None:
    running.check(values, name, own["num_features"])


class BatchNorm(Population, Running, BatchNormState):
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

    _ranks: ClassVar[tuple[int, ...]] = ()
    _shape: ClassVar[str] = ""
    _of_any_rank: ClassVar[str] = "BatchNorm"

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
    gamma = Vector["Array | None"](parameter, "Learned scale.")
    beta = Vector["Array | None"](parameter, "Learned shift.")
    dgamma = Gradient["Array | None"](parameter, "Gradient of gamma.")
    dbeta = Gradient["Array | None"](parameter, "Gradient of beta.")
    running_mean = Vector["Array | None"](_running, "Running mean, float64.")
    running_var = Vector["Array | None"](_running, "Running variance, float64.")

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        *,
        mask: Array | None = ...,
        weights: Array | None = ...,
        masked: Masked = ...,
        out: npt.NDArray[S] | None = ...,
        keep_x: bool = ...,
        return_context: Literal[False] = ...,
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        *,
        mask: Array | None = ...,
        weights: Array | None = ...,
        masked: Masked = ...,
        out: npt.NDArray[S] | None = ...,
        keep_x: bool = ...,
        return_context: Literal[True],
    ) -> tuple[npt.NDArray[S], BatchNormContext | InferenceContext]: ...

    def forward(
        self,
        x: Array,
        *,
        mask: Array | None = None,
        weights: Array | None = None,
        masked: Masked = "zero",
        out: Array | None = None,
        keep_x: bool = False,
        return_context: bool = False,
    ) -> Array | tuple[Array, BatchNormContext | InferenceContext]:
        """Normalize a batch; in training mode also update the running statistics.

        Parameters
        ----------
        x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
            Batch; any strides. Training needs more than one value per channel. It is held, not a copy of it, until
            backward, in training and with ``keep_x``: do not change it before.
        mask : ndarray of bool, optional
            Which positions count: True, as those of padded sequences before their end. Of the shape of `x` without the
            channel axis, (N, L) for `x` of shape (N, C, L), or one that broadcasts to it.
        weights : ndarray of floats, optional
            Only in training, and not if that is frozen: how often each position counts, zero or more; shape as of
            `mask`. They are rounded to float32. The running variance is that of as many values as the weights add up
            to.
        masked : {"zero", "normalize", "keep"}, default "zero"
            What `y` is where a position does not count: 0; normalized as the others; or `x`.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        keep_x : bool, default False
            Only in inference: whether `backward` shall also give `dgamma` and `dbeta`, for which `x` is kept. A frozen
            layer in training always keeps it.
        return_context : bool, default False
            Whether to return the context, too, for ``backward(dy, context=context)``; the pass then does not wait
            in the layer.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`. Empty for an empty `x`, which changes no state; nor does one
            in which no position counts.
        context : BatchNormContext or InferenceContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the layer is then unchanged.
        FloatingPointError
            The statistics of the batch are not finite, and the layer was made with ``on_nonfinite="raise"``. The layer
            is unchanged and so is `x`, also as `out`; another `out` may have been written.
        """
        x, own = _checks.array(x, "x"), vars(self)
        eps, training, mean = own["eps"], own["training"], own["running_mean"]
        axis = self._checked_axis(x)
        keep_x, return_context = _checks.flag(keep_x, "keep_x"), _checks.flag(return_context, "return_context")
        if mean is not None:
            _checks.same_place(mean, "the layer", x, "x")
        context: Any
        counted: dict[str, Any] = {}
        if mask is not None or weights is not None:
            counted = {"mask": mask, "weights": weights, "masked": masked}
        if mean is None or (training and not own["frozen"]):
            reduce = own["reduce"] if training else None
            options = {"eps": eps, "channel_axis": axis, "reduce": reduce, "out": out} | counted
            y, context = self._normalized(x, options)
            if training and mean is not None and context.n:
                kept = context.x if context.as_one is None else context.as_one.split(context.x)
                self._update(context, ([(x, kept)], out), [], keep=not return_context)
            elif not return_context:
                self._keep(context, asked=keep_x or (training and (x.size > 0 or reduce is not None)))
        else:
            vectors = mean, own["running_var"], own["gamma"], own["beta"]
            if counted.pop("weights", None) is not None:
                which = "training of a frozen layer" if training else "inference"
                raise ValueError(f"weights must be None in {which}, which takes no statistics of x; leave them out")
            keep_x = keep_x or training
            y, context = functional.batch_norm_inference(
                x, *vectors, eps=eps, channel_axis=axis, keep_x=keep_x, out=out, **counted
            )
            if not return_context:
                self._keep(context, asked=keep_x)
        return (y, context) if return_context else y

    if TYPE_CHECKING:

        def __call__(
            self,
            x: npt.NDArray[S],
            *,
            mask: Array | None = ...,
            weights: Array | None = ...,
            masked: Masked = ...,
            out: npt.NDArray[S] | None = ...,
            keep_x: bool = ...,
        ) -> npt.NDArray[S]:
            """Return what `forward` does with these arguments."""

    def _normalized(self, x: Array, options: dict[str, Any]) -> tuple[Array, Any]:
        """Return y by the statistics of the batch, and a context."""
        own = vars(self)
        return functional.batch_norm(x, own["gamma"], own["beta"], **options)

    def _checked_axis(self, x: Array) -> Axes:
        """Return the channel axis after checking that `x` has as many channels on it as the layer."""
        axis, n = vars(self)["channel_axis"], vars(self)["num_features"]
        if self._ranks:
            hint = f"Its input is {self._shape}; {self._of_any_rank} takes any rank."
            _checks.rank(x, self._ranks, type(self).__name__, hint)
        if type(axis) is tuple:
            fits = all(-x.ndim <= k < x.ndim for k in axis) and math.prod(x.shape[k] for k in axis) == n
        elif x.ndim == n == 1:
            return ()
        else:
            fits = x.ndim >= 2 and -x.ndim <= axis < x.ndim and x.shape[axis] == n
        if not fits:
            raise ValueError(
                f"x must have num_features = {n} channels on channel_axis = {axis}; got shape {x.shape}. "
                "Pass such an array, or make the layer with other num_features or channel_axis."
            )
        return axis  # type: ignore[no-any-return]

    def backward(
        self,
        dy: npt.NDArray[S],
        *,
        context: BatchNormContext | InferenceContext | None = None,
        accumulate: bool = False,
        out: npt.NDArray[S] | None = None,
    ) -> npt.NDArray[S]:
        """Compute the gradients of a forward pass.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : BatchNormContext or InferenceContext, optional
            What the forward pass returned; it may be used any number of times. Without it, the pass is the one that
            waits in the layer, which then waits no more.
        accumulate : bool, default False
            Whether to add to `dgamma` and `dbeta` instead of setting them, as for a layer that several branches share.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write the result. It may be `dy`.

        Returns
        -------
        ndarray
            Gradient with respect to the input. `dgamma` and `dbeta` are set: after inference, only if the forward pass
            was called with ``keep_x=True``, else they become ``None``, or stay as they are with ``accumulate=True``.

        Raises
        ------
        RuntimeError
            No forward pass waits, or several do.
        TypeError, ValueError
            `dy`, `context` or `out` does not match the forward pass; the layer is then unchanged.
        """
        accumulate = _checks.flag(accumulate, "accumulate")
        taken = self._waiting() if context is None else self._checked(context)
        dx: npt.NDArray[S]
        dx, dgamma, dbeta = self._gradients(dy, taken, out)
        own, passes = self._with_gradients(), self._passes
        with _process.updating:
            if accumulate:
                dgamma, dbeta = _sum(own["dgamma"], dgamma), _sum(own["dbeta"], dbeta)
            gradients = {}
            if own["gamma"] is not None:
                gradients["dgamma"] = dgamma
            if own["beta"] is not None:
                gradients["dbeta"] = dbeta
            waiting = passes.waiting
            try:
                if context is None:
                    passes.waiting = None, 0, False
                own.update(gradients)
            except BaseException:
                passes.waiting = waiting
                raise
        return dx

    def _with_gradients(self) -> dict[str, Any]:
        """Return the dictionary of the layer that has the gradients of gamma and beta."""
        return vars(self)

    def _gradients(self, dy: Array, context: Any, out: Array | None) -> tuple[Any, Array | None, Array | None]:
        """Return what backward returns, dgamma and dbeta."""
        if isinstance(context, InferenceContext):
            return functional.batch_norm_inference_backward(dy, context, out=out)
        reduce = None if getattr(context, "n_shared", None) is None else self.reduce
        return functional.batch_norm_backward(dy, context, reduce=reduce, out=out)

    def _checked(self, context: Any) -> Any:
        """Return a context after checking that it is of a pass over as many channels as the layer has."""
        if isinstance(context, (BatchNormContext, InferenceContext)):
            name = "scale" if isinstance(context, InferenceContext) else "statistics"
            vectors = _checks.array(getattr(context, name), f"context.{name}")
            n_channels = math.prod(vectors.shape[-1:])  # also of forged ones without axes
            if n_channels != self.num_features:
                raise ValueError(
                    f"context is of a pass over {n_channels} channels, and this layer has {self.num_features}; pass "
                    "the context that this layer's forward returned"
                )
        return context

    def __repr__(self) -> str:
        one = "" if self.scale == self.shift else f", scale={self.scale}, shift={self.shift}"
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum!r}, "
            f"affine={self.affine}{one}, track_running_stats={self.track_running_stats}, unbiased={self.unbiased}, "
            f"channel_axis={self.channel_axis}, dtype={self.dtype}, on_nonfinite={self.on_nonfinite!r}, "
            f"{'' if self.reduce is None else 'reduce=..., '}{'debias=True, ' if self.debias else ''}"
            f"{'frozen=True, ' if self.frozen else ''}training={self.training})"
        )
