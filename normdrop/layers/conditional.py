"""Batch normalization layer whose scale and shift come with the batch."""

from __future__ import annotations

from typing import Any, Literal

from normdrop import _checks, functional
from normdrop.functional import ConditionalBatchNormContext
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array
from normdrop.layers.batch_norm import BatchNorm


def _reduce(value: object) -> None:
    if value is not None:
        raise ValueError(f"reduce must be None for conditional batch normalization; got {_checks.kind(value)}")


class ConditionalBatchNorm(BatchNorm):
    r"""Normalize each channel; scale and shift it by what is given at the call, for all samples or for each.

    .. math:: y_n = \gamma_{n c} \, \frac{x_n - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + \beta_{n c}

    The scale and shift are outputs of another network, or rows of a table of classes. The layer has none of its own and
    so no parameters; `backward` returns their gradients.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    **options : optional
        As of `BatchNorm`: ``eps``, ``momentum``, ``debias``, ``track_running_stats``, ``unbiased``, ``channel_axis``,
        ``on_nonfinite``. The channel axis is one, and not axis 0.

    See Also
    --------
    normdrop.functional.conditional_batch_norm : the same without state, with notes on what it costs.
    BatchNorm : options, attributes, modes.

    References
    ----------
    .. [1] H. de Vries, F. Strub, J. Mary, H. Larochelle, O. Pietquin and A. Courville, "Modulating early visual
       processing by language", NIPS 2017, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.ConditionalBatchNorm(1)
    >>> scales = np.array([[1.0], [-5.0]])  # of two classes
    >>> classes = np.array([0, 0, 1])
    >>> layer(np.array([[1.0], [2.0], [3.0]]), gamma=scales[classes]).round(2).ravel()
    array([-1.22,  0.  , -6.12])
    >>> dx, dgamma, dbeta = layer.backward(np.ones((3, 1)))
    >>> dgamma.round(2).ravel()
    array([-1.22,  0.  ,  1.22])
    """

    _of_any_rank = "ConditionalBatchNorm"

    def __init__(self, num_features: int, **options: Any) -> None:
        own = [name for name in ("affine", "scale", "shift", "gamma_init", "dtype", "rng") if name in options]
        if own:
            raise TypeError(f"{own[0]} must not be given: scale and shift come with the batch, as gamma= and beta=")
        super().__init__(num_features, affine=False, **options)
        _checks.integer(self.channel_axis, "channel_axis", -(2**31))

    reduce = Option(_reduce, "None: the batch is in one process.")

    def forward(  # noqa: PLR0913  # as that of BatchNorm, with gamma and beta
        self,
        x: Array,
        *,
        gamma: Array | None = None,
        beta: Array | None = None,
        mask: Array | None = None,
        weights: Array | None = None,
        masked: Literal["zero", "normalize", "keep"] = "zero",
        out: Array | None = None,
        keep_x: bool = False,
        return_context: bool = False,
    ) -> Any:
        """Normalize a batch; in training mode also update the running statistics.

        Parameters
        ----------
        x : ndarray of floats, shape (N, C, ...) for ``channel_axis=1``
            Batch, as for `BatchNorm`.
        gamma, beta : ndarray of floats, shape (N, C) or (C,), optional
            Scale and shift of each sample, or of all; ``None`` means ones and zeros.
        mask, weights, masked : optional
            As for `BatchNorm`.
        out : ndarray, shape and dtype of `x`, optional
            Where to write the result. It may be `x`.
        keep_x : bool, default False
            Only in inference: whether `backward` shall also give the gradients of ``gamma`` and ``beta``.
        return_context : bool, default False
            Whether to return the context, too; the pass then does not wait in the layer.

        Returns
        -------
        y : ndarray
            Shape and dtype of `x`, in C order, or `out`. Empty for an empty `x`, which changes no state; nor does one
            in which no position counts.
        context : ConditionalBatchNormContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As by `BatchNorm.forward`; the layer is then unchanged.
        """
        x, own = _checks.array(x, "x"), vars(self)
        axis: Any = self._checked_axis(x)
        training, mean = own["training"], own["running_mean"]
        keep_x, return_context = _checks.flag(keep_x, "keep_x"), _checks.flag(return_context, "return_context")
        learns = mean is not None and training and not own["frozen"]
        by = {} if mean is None or learns else {"mean": mean, "var": own["running_var"]}
        y, context = functional.conditional_batch_norm(
            x, gamma, beta, eps=own["eps"], channel_axis=axis, mask=mask, weights=weights, masked=masked, out=out, **by
        )
        if learns and context.n:
            self._update(context, ([(x, context.x)], out), [], keep=not return_context)
        elif not return_context:
            kept = context if training or keep_x or not by else context._replace(x=None)
            self._keep(kept, asked=keep_x or (training and x.size > 0))
        return (y, context) if return_context else y

    def backward(  # type: ignore[override]  # it returns the gradients of what was given
        self, dy: Array, *, context: Any = None, out: Array | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        """Compute the gradients of a forward pass.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        context : ConditionalBatchNormContext, optional
            What the forward pass returned; by default the pass is the one that waits in the layer.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write `dx`. It may be `dy`.

        Returns
        -------
        dx : ndarray
            Gradient with respect to the input.
        dgamma, dbeta : ndarray, or None
            Gradients with respect to the ``gamma`` and ``beta`` that were given, of their shapes, or of shape (C,)
            where none was; ``None`` after inference without ``keep_x``.

        Raises
        ------
        RuntimeError
            No forward pass waits, or several do.
        TypeError, ValueError
            `dy`, `context` or `out` does not match the forward pass; the layer is then unchanged.
        """
        gradients: Any = super().backward(dy, context=context, out=out)
        return gradients  # type: ignore[no-any-return]

    def _gradients(self, dy: Array, context: Any, out: Array | None) -> tuple[Any, Array | None, Array | None]:
        return functional.conditional_batch_norm_backward(dy, context, out=out), None, None

    def _checked(self, context: Any) -> Any:
        if isinstance(context, ConditionalBatchNormContext) and context.statistics.shape != (3, self.num_features):
            raise ValueError(
                f"context is of a pass over {context.statistics.shape[-1]} channels, and this layer has "
                f"{self.num_features}; pass the context that this layer's forward returned"
            )
        return context
