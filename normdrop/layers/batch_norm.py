"""Batch normalization layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device, _overlap, _saved, functional
from normdrop.functional import running
from normdrop.functional.batch_norm import BatchNormContext
from normdrop.layers.base import Array, Layer
from normdrop.random import RNG, as_generator, check_rng

_STATE = ("gamma", "beta", "running_mean", "running_var")
_COUNTS = ("num_batches", "num_values")


class BatchNorm(Layer):
    r"""Normalize each channel by the statistics of the batch, or in inference by running ones.

    .. math:: y = \gamma_c \, \frac{x - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + \beta_c

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance. Positive.
    momentum : float or None, default 0.9
        Weight of the **old** running value, from 0 to 1: ``running = momentum * running + (1 - momentum) * batch``.
        PyTorch's momentum m is ``1 - m`` here. ``None`` is the average over all batches, each weighted by its number of
        values.
    affine : bool, default True
        Whether there are a learned scale `gamma` and shift `beta`.
    track_running_stats : bool, default True
        Whether there are running statistics; without them, inference uses those of the batch.
    unbiased : bool, default True
        Whether `running_var` takes the unbiased variance, n/(n - 1) times that of the batch (the paper, PyTorch), or
        the biased one (Keras, ONNX).
    channel_axis : int, default 1
        Axis of the channels: 1 for (N, C, ...), -1 for (N, ..., C).
    gamma_init : {"ones", "uniform"}, default "ones"
        Whether `gamma` starts at 1 or is drawn from U(0, 1). `beta` starts at 0.
    dtype : float32 or float64, default float32
        Dtype of parameters and running statistics. The output always has the dtype of the input.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where ``gamma_init="uniform"`` draws from.
    on_nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What a batch does to the running statistics, in training, if its mean or variance is not finite, or is beyond
        `dtype`: it makes them NaN or infinite; the call raises an error and changes nothing; or the output is returned,
        but neither the running statistics nor the counts change.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learned scale and shift; an optimizer changes them in place.
    dgamma, dbeta : ndarray, shape (C,), or None
        Their gradients in the last backward pass.
    running_mean, running_var : ndarray, shape (C,), or None
        Running statistics; they start at 0 and 1.
    num_batches : int
        Number of batches in the running statistics.
    num_values : int
        Number of values per channel in all those batches, the weight of a cumulative average.
    training : bool
        Whether the layer is in training mode.

    See Also
    --------
    normdrop.functional.batch_norm : the same without state, with notes on accuracy.

    Notes
    -----
    Modes: training normalizes by the statistics of the batch and then updates the running ones; inference uses the
    running ones, which do not change. `backward` is right in both: in inference the statistics are constants.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal
       covariate shift", ICML 2015, Algorithms 1 and 2.

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

    def __init__(  # noqa: PLR0913  # the options of batch normalization, all but one by keyword
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.9,
        affine: bool = True,
        track_running_stats: bool = True,
        unbiased: bool = True,
        channel_axis: int = 1,
        gamma_init: Literal["ones", "uniform"] = "ones",
        dtype: npt.DTypeLike = np.float32,
        rng: RNG = None,
        on_nonfinite: Literal["propagate", "raise", "skip"] = "propagate",
    ) -> None:
        super().__init__()
        n = self._num_features = _checks.integer(num_features, "num_features", 1)
        self.eps = eps
        self.momentum = momentum
        self.on_nonfinite = on_nonfinite
        self.unbiased = _checks.flag(unbiased, "unbiased")
        self._channel_axis = _checks.integer(channel_axis, "channel_axis", -(2**31))
        dtype = _checks.float_dtype(dtype)
        _checks.choice(gamma_init, "gamma_init", ("ones", "uniform"))
        affine = _checks.flag(affine, "affine")
        track_running_stats = _checks.flag(track_running_stats, "track_running_stats")
        check_rng(rng)
        self.gamma: Array | None = None
        self.beta: Array | None = None
        if affine:
            drawn = gamma_init == "uniform"
            self.gamma = as_generator(rng).random(n).astype(dtype) if drawn else np.ones(n, dtype)
            self.beta = np.zeros(n, dtype)
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self.running_mean: Array | None = None
        self.running_var: Array | None = None
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(n, dtype), np.ones(n, dtype)
        self.num_batches = 0
        self.num_values = 0

    @property
    def num_features(self) -> int:
        """Number of channels."""
        return self._num_features

    @property
    def eps(self) -> float:
        """Number added to the variance."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        self._eps = _checks.eps(value)

    @property
    def momentum(self) -> float | None:
        """Weight of the old running value (PyTorch: 1 - momentum), or None for the cumulative average."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        self._momentum = _checks.momentum(value)

    @property
    def on_nonfinite(self) -> str:
        """What a batch whose statistics are not finite does to the running ones: propagate, raise or skip."""
        return self._on_nonfinite

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        self._on_nonfinite = _checks.choice(value, "on_nonfinite", ("propagate", "raise", "skip"))

    def forward(self, x: Array, *, out: Array | None = None, keep_x: bool = False) -> Array:  # type: ignore[override]
        """Normalize a batch; in training mode also update the running statistics.

        Parameters
        ----------
        x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
            Batch; any strides. Training needs more than one value per channel.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        keep_x : bool, default False
            Only in inference: whether `backward` shall also give `dgamma` and `dbeta`, for which `x` is kept.

        Returns
        -------
        ndarray
            Shape, dtype and memory order of `x`, or `out`. Empty for an empty `x`, which changes no state.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the layer is then unchanged.
        FloatingPointError
            The statistics of the batch are not finite, and the layer was made with ``on_nonfinite="raise"``. The layer
            is unchanged and so is `x`, also as `out`; another `out` may have been written.
        """
        x = _checks.array(x, "x")
        self._check_shape(x)
        if self.running_mean is not None:
            _checks.same_place(self.running_mean, "the layer", x, "x")
        gamma, beta, eps, axis = self.gamma, self.beta, self._eps, self._channel_axis
        context: Any
        if self.training or self.running_mean is None or self.running_var is None:
            _checks.flag(keep_x, "keep_x")
            y, context = functional.batch_norm(x, gamma, beta, eps=eps, channel_axis=axis, out=out)
            if self.training and x.size:
                self._update(context, x, out)
                return y
        else:
            mean, var = self.running_mean, self.running_var
            y, context = functional.batch_norm_inference(
                x, mean, var, gamma, beta, eps=eps, channel_axis=axis, keep_x=keep_x, out=out
            )
        self._context = context
        return y

    def _check_shape(self, x: Array) -> None:
        if self._ranks:
            _checks.rank(x, self._ranks, type(self).__name__, f"Its input is {self._shape}; BatchNorm takes any rank.")
        axis, n = self._channel_axis, self._num_features
        if x.ndim < 2 or not -x.ndim <= axis < x.ndim or x.shape[axis] != n:
            raise ValueError(
                f"x must have num_features = {n} channels on channel_axis = {axis}; got shape {x.shape}. "
                "Pass such an array, or make the layer with other num_features or channel_axis."
            )

    def _update(self, context: BatchNormContext, x: Array, out: Array | None) -> None:
        """Keep the context and fold the batch into the running statistics; all or nothing, whatever interrupts it."""
        mean, var = self.running_mean, self.running_var
        if mean is None or var is None:
            self._context = context
            return
        n = x.size // self._num_features
        before, num_batches, num_values = self._context, self.num_batches, self.num_values
        old = num_values / (num_values + n) if self._momentum is None else self._momentum
        saved = running.snapshot(mean, var)
        try:
            self._context = context
            if running.update(mean, var, context.statistics, old, n, self.unbiased, self._on_nonfinite):
                self.num_batches = num_batches + 1
                self.num_values = num_values + n
        except BaseException as error:
            vars(self).update(_context=before, num_batches=num_batches, num_values=num_values)
            running.restore(mean, var, saved)
            if isinstance(error, Exception) and out is not None:
                target = _device.view(out)
                if _overlap.is_possible(target, x):
                    target[...] = _device.view(context.x)  # the copy that was made because x was to be overwritten
            raise

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """Compute the gradients of the last forward pass.

        Parameters
        ----------
        dy : ndarray, shape and dtype of the last input
            Gradient with respect to the output.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write the result. It may be `dy`.

        Returns
        -------
        ndarray
            Gradient with respect to the input. `dgamma` and `dbeta` are set, not added to: after inference, only if the
            forward pass was called with ``keep_x=True``, else they become ``None``.

        Raises
        ------
        RuntimeError
            There was no forward pass since the last backward.
        TypeError, ValueError
            `dy` or `out` does not match the forward pass; backward can then be called again.
        """
        context = self._take_context()
        dgamma: Array | None
        dbeta: Array | None
        if isinstance(context, BatchNormContext):
            dx, dgamma, dbeta = functional.batch_norm_backward(dy, context, out=out)
        else:
            dx, dgamma, dbeta = functional.batch_norm_inference_backward(dy, context, out=out)
        done = {"_context": None} if self.gamma is None else {"_context": None, "dgamma": dgamma, "dbeta": dbeta}
        vars(self).update(done)  # in one step, which nothing interrupts
        return dx

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield ``("gamma", gamma, dgamma)`` and ``("beta", beta, dbeta)``; nothing with ``affine=False``.

        Yields
        ------
        name : str
            Name of the parameter.
        value : ndarray
            The parameter itself, to be changed in place.
        gradient : ndarray or None
            Its gradient in the last backward pass.
        """
        if self.gamma is not None and self.beta is not None:
            yield "gamma", self.gamma, self.dgamma
            yield "beta", self.beta, self.dbeta

    def _arrays(self) -> dict[str, Array]:
        names = (*_STATE, "dgamma", "dbeta")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _state(self) -> dict[str, Array]:
        return {name: values for name, values in self._arrays().items() if name in _STATE}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters, running statistics and counts.

        Returns
        -------
        dict
            ``gamma``, ``beta``, ``running_mean``, ``running_var`` as far as the layer has them, each of shape (C,);
            ``num_batches`` and ``num_values`` (int64, shape ()).
        """
        state = {name: _device.to_host(values) for name, values in self._state().items()}
        return state | {name: np.array(getattr(self, name), np.int64) for name in _COUNTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, rounded to the layer's dtype.

        Parameters
        ----------
        state : mapping
            Exactly the entries of this layer's `state_dict`.

        Raises
        ------
        TypeError, ValueError
            Missing, extra or misshapen entries; the layer is then unchanged.
        """
        arrays = self._state()
        _saved.check_keys(state, [*arrays, *_COUNTS])
        values = {}
        for name, array in arrays.items():
            like = _checks.array(array, name)
            new = _saved.entry(state, name, like.shape, "f")
            values[name] = _saved.rounded(new, like.dtype, f"state[{name!r}]")
        counts = {
            name: _checks.integer(int(_saved.entry(state, name, (), "iu")), f"state[{name!r}]", 0) for name in _COUNTS
        }
        if "running_var" in values:
            _checks.not_negative(np.asarray(state["running_var"]), "state['running_var']")
        _saved.assign(arrays, values, self, counts)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._num_features}, eps={self._eps}, momentum={self._momentum}, "
            f"affine={self.gamma is not None}, track_running_stats={self.running_mean is not None}, "
            f"unbiased={self.unbiased}, channel_axis={self._channel_axis}, on_nonfinite={self._on_nonfinite!r})"
        )
