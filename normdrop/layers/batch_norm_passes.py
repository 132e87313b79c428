"""The passes of batch normalization layers: forward in training and inference, and backward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from normdrop import _checks, functional
from normdrop.functional import BatchNormContext, InferenceContext
from normdrop.functional._as_one import Axes
from normdrop.layers.base import Array
from normdrop.layers.batch_norm_state import BatchNormState
from normdrop.layers.population import Population
from normdrop.layers.running import Running

S = TypeVar("S", bound=np.generic)
Masked: TypeAlias = Literal["zero", "normalize", "keep"]


class BatchNormPasses(Population, Running, BatchNormState):
    """The methods of `BatchNorm` that compute, by the options that it has."""

    _ranks: ClassVar[tuple[int, ...]] = ()
    _shape: ClassVar[str] = ""
    _of_any_rank: ClassVar[str] = "BatchNorm"

    if TYPE_CHECKING:
        num_features: Any
        reduce: Any

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
        own = self._with_gradients()
        gradients = {f"d{name}": new for name, new in (("gamma", dgamma), ("beta", dbeta)) if own[name] is not None}
        self._take_gradients(own, gradients, accumulate=accumulate, waited=context is None)
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
