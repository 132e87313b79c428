"""Layers that fuse batch normalization, a residual sum, an activation and dropout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop._activations import ACTIVATIONS
from normdrop.functional import BatchNormActContext, BatchNormActInferenceContext
from normdrop.functional._steps_of import Activation, activation_of
from normdrop.layers.attributes import Fixed, Option
from normdrop.layers.base import Array
from normdrop.layers.batch_norm import BatchNorm
from normdrop.random import RNG, as_stream, check_stream

S = TypeVar("S", bound=np.generic)
Context: TypeAlias = "BatchNormActContext | BatchNormActInferenceContext"


def _reduce(value: object) -> None:
    if value is not None:
        raise ValueError(
            f"reduce must be None for a fused layer, whose batch is in one process; got {_checks.kind(value)}. "
            "Use BatchNorm(reduce=...), functional.act_dropout and Dropout."
        )


class BatchNormAct(BatchNorm):
    r"""Normalize each channel, add a residual, apply an activation and drop elements, in one pass over memory.

    .. math:: y = \mathrm{dropout}(\mathrm{activation}(\mathrm{BN}(x) + \mathrm{residual}))

    The bits are those of `BatchNorm`, a sum, `functional.act_dropout` and `Dropout` one after the other.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    activation : str or (str, float), default "relu"
        As in `functional.act_dropout`: a name, or name and parameter such as ``("leaky_relu", 0.2)``.
    p : float, default 0.0
        Probability of dropping an element in training, from 0 to 1; as in `Dropout`, with inverted scaling. May be
        changed later through the attribute.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element: ``(2, 3)`` drops whole channels of (N, C, H, W).
    eps, momentum, debias, affine, scale, shift, track_running_stats, unbiased, channel_axis, gamma_init : optional
        As for `BatchNorm`.
    dtype : float32 or float64, default float32
        As for `BatchNorm`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the masks come from, as for `Dropout`; before that, ``gamma_init="uniform"`` draws from it.
    on_nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        As for `BatchNorm`.

    Attributes
    ----------
    gamma, beta, dgamma, dbeta, running_mean, running_var, num_batches, num_values, training, frozen : optional
        As of `BatchNorm`.
    stream : MaskStream
        Key and call number of the next mask.
    sampling : bool
        Whether dropout stays on in inference; `train` and `eval` end it.

    See Also
    --------
    normdrop.sampling : dropout on in inference, for a while and for a whole model.
    normdrop.functional.batch_norm_act : the same without state.
    BatchNorm : modes, momentum, what is learned and what is tracked.

    Notes
    -----
    Modes: training normalizes by the statistics of the batch, updates the running ones, draws a mask and moves the
    stream by one call, unless `p` is 0. Inference normalizes by the running statistics and drops nothing, unless
    `sampling` is True: then it draws masks as training does, for estimates of uncertainty. Training of a frozen layer
    normalizes as inference does, and draws masks.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR 2016, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.BatchNormAct(2, dtype=np.float64)
    >>> x, skip = np.array([[1.0, 10.0], [3.0, 30.0]]), np.array([[2.0, 0.0], [0.0, 0.0]])
    >>> np.round(layer(x, skip), 2)
    array([[1., 0.],
           [1., 1.]])
    >>> dx, dskip = layer.backward(np.ones((2, 2)))
    >>> dskip
    array([[1., 0.],
           [1., 1.]])
    """

    _of_any_rank: ClassVar[str] = "BatchNormAct"

    def __init__(  # noqa: PLR0913  # the options of all that is fused, all but one by keyword
        self,
        num_features: int,
        *,
        activation: Activation = "relu",
        p: float = 0.0,
        shared_axes: int | Iterable[int] = (),
        eps: float = 1e-5,
        momentum: float | Literal["population"] | None = 0.9,
        debias: bool = False,
        affine: bool = True,
        scale: bool | None = None,
        shift: bool | None = None,
        track_running_stats: bool = True,
        unbiased: bool = True,
        channel_axis: int = 1,
        gamma_init: Literal["ones", "uniform"] = "ones",
        dtype: npt.DTypeLike = np.float32,
        rng: RNG = None,
        on_nonfinite: Literal["propagate", "raise", "skip"] = "propagate",
    ) -> None:
        own = vars(self)
        act = activation_of(activation)
        own["activation"] = act[0] if ACTIVATIONS[act[0]].parameter is None else act
        self.p = p
        self.sampling = False
        own["shared_axes"] = _checks.axes(shared_axes)
        channel_axis = _checks.integer(channel_axis, "channel_axis", -(2**31))
        super().__init__(
            num_features, eps=eps, momentum=momentum, debias=debias, affine=affine, scale=scale, shift=shift,
            track_running_stats=track_running_stats, unbiased=unbiased, channel_axis=channel_axis,
            gamma_init=gamma_init, dtype=dtype, rng=rng, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        self.stream = as_stream(rng)  # last: it may draw from rng

    activation = Fixed["Activation"]("Name of the activation, with its parameter if it has one.")
    shared_axes = Fixed["tuple[int, ...]"]("Axes along which one mask element serves all.")
    p = Option(_checks.probability, "Probability of dropping an element.")
    reduce = Option(_reduce, "None: the batch of a fused layer is in one process.")
    stream = Option(check_stream, "Key and call number of the next mask.")
    sampling = Option(lambda value: _checks.flag(value, "sampling"), "Whether dropout stays on in inference.")

    def train(self) -> Self:
        """Switch to training mode; as of any layer."""
        self.sampling = False
        return super().train()

    def eval(self) -> Self:
        """Switch to inference mode, without dropout; as of any layer."""
        self.sampling = False
        return super().eval()

    def _sample(self) -> bool:
        self.training, self.sampling = False, True
        return self.p > 0

    @overload  # type: ignore[override]  # its contexts are others
    def forward(
        self,
        x: npt.NDArray[S],
        residual: npt.NDArray[S] | None = ...,
        *,
        out: npt.NDArray[S] | None = ...,
        keep_x: bool = ...,
        return_context: Literal[False] = ...,
    ) -> npt.NDArray[S]: ...

    @overload
    def forward(
        self,
        x: npt.NDArray[S],
        residual: npt.NDArray[S] | None = ...,
        *,
        out: npt.NDArray[S] | None = ...,
        keep_x: bool = ...,
        return_context: Literal[True],
    ) -> tuple[npt.NDArray[S], Context]: ...

    def forward(
        self,
        x: Array,
        residual: Array | None = None,
        *,
        out: Array | None = None,
        keep_x: bool = False,
        return_context: bool = False,
    ) -> Any:
        """Compute the output; in training mode also update the running statistics and move the stream.

        Parameters
        ----------
        x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
            Batch, as for `BatchNorm`; held until backward in training and with ``keep_x``.
        residual : ndarray, shape and dtype of `x`, optional
            What is added before the activation; held as `x` is.
        out : ndarray, shape and dtype of `x`, optional
            Where to write `y`. It may be `x` or `residual`, of which a copy is then held.
        keep_x : bool, default False
            Only in inference: whether there will be a `backward`, for which `x` and `residual` are kept.
        return_context : bool, default False
            Whether to return the context, too; the pass then does not wait in the layer.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`. Empty for an empty `x`, which changes no state.
        context : BatchNormActContext or BatchNormActInferenceContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the layer and its stream are then unchanged.
        FloatingPointError
            As of `BatchNorm`. The stream is unchanged as well, and so are `x` and `residual`, also as `out`.
        """
        x, own = _checks.array(x, "x"), vars(self)
        drops = own["training"] or own["sampling"]
        training, mean = own["training"], own["running_mean"]
        self._checked_axis(x)
        keep_x, return_context = _checks.flag(keep_x, "keep_x"), _checks.flag(return_context, "return_context")
        if mean is not None:
            _checks.same_place(mean, "the layer", x, "x")
        how = {"residual": residual, "out": out} | {name: own[name] for name in ("activation", "eps", "channel_axis")}
        if drops:
            how |= {"p": own["p"], "shared_axes": own["shared_axes"], "rng": own["stream"]}
        stream, waiting = own["stream"], self._passes.waiting
        made: Context | None = None
        done: list[bool] = []
        try:  # all or nothing, whatever interrupts it
            if mean is not None and (not training or own["frozen"]):
                keep_x = keep_x or training
                vectors = mean, own["running_var"], own["gamma"], own["beta"]
                y, made = functional.batch_norm_act_inference(x, *vectors, keep_x=keep_x, **how)
                if not return_context:
                    self._keep(made, asked=keep_x)
                return (y, made) if return_context else y
            y, made = functional.batch_norm_act(x, own["gamma"], own["beta"], **how)
            if training and mean is not None and x.size:
                inputs = (x, made.x), (residual, made.residual)
                self._update(made, (inputs, out), done, keep=not return_context)
            elif not return_context:
                self._keep(made, asked=keep_x or (training and x.size > 0))
        except BaseException:
            if not done:
                self._passes.waiting = waiting
                if made is not None and made.dropout.threshold > 0:
                    stream.give_back(made.dropout.call)
            raise
        return (y, made) if return_context else y

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]  # it takes no mask
            self,
            x: npt.NDArray[S],
            residual: npt.NDArray[S] | None = ...,
            *,
            out: npt.NDArray[S] | None = ...,
            keep_x: bool = ...,
        ) -> npt.NDArray[S]:
            """Return ``forward(x, residual, out=out, keep_x=keep_x)``."""

    def backward(
        self, dy: npt.NDArray[S], *, context: Any = None, accumulate: bool = False, out: npt.NDArray[S] | None = None
    ) -> npt.NDArray[S] | Any:
        """Compute the gradients of a forward pass.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : BatchNormActContext or BatchNormActInferenceContext, optional
            What the forward pass returned; by default the pass is the one that waits in the layer.
        accumulate : bool, default False
            Whether to add to ``dgamma`` and ``dbeta`` instead of setting them.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write `dx`. It may be `dy`.

        Returns
        -------
        ndarray, or tuple of two
            `dx`, the gradient with respect to `x`; ``(dx, dresidual)`` if the forward pass was given a residual.
            ``dgamma`` and ``dbeta`` are set.

        Raises
        ------
        RuntimeError
            No forward pass waits, or several do.
        TypeError, ValueError
            `dy`, `context` or `out` does not match the forward pass, or that was one in inference without ``keep_x``;
            the layer is then unchanged.
        """
        return super().backward(dy, context=context, accumulate=accumulate, out=out)

    def _gradients(self, dy: Array, context: Any, out: Array | None) -> tuple[Any, Array | None, Array | None]:
        if isinstance(context, BatchNormActInferenceContext):
            dx, dresidual, dgamma, dbeta = functional.batch_norm_act_inference_backward(dy, context, out=out)
        else:
            dx, dresidual, dgamma, dbeta = functional.batch_norm_act_backward(dy, context, out=out)
        return dx if dresidual is None else (dx, dresidual), dgamma, dbeta

    def _checked(self, context: Any) -> Any:
        if isinstance(context, (BatchNormActContext, BatchNormActInferenceContext)):
            super()._checked(context.norm)
        return context

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__({"sampling": False} | dict(state))  # which older pickles lack

    def state_dict(self) -> dict[str, Array]:
        """Return copies of what `BatchNorm` has, and key and call of the stream.

        Returns
        -------
        dict
            As of `BatchNorm`, and ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()).
        """
        return super().state_dict() | self.stream.state_dict()

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
        self._load(state, self.stream)

    def __repr__(self) -> str:
        return (
            f"{super().__repr__()[:-1]}, activation={self.activation!r}, p={self.p}, shared_axes={self.shared_axes}, "
            f"rng={self.stream!r}{', sampling=True' if self.sampling else ''})"
        )
