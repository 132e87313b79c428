"""Batch normalization, a residual sum, an activation and dropout in one pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as peer

from normdrop import _checks
from normdrop.functional import _masking
from normdrop.functional._steps_of import Activation, activation_of
from normdrop.random import RNG
from normdrop.torch import _fused_gradients, _gradients, _operators
from normdrop.torch._activations import activate
from normdrop.torch._arrays import is_known, is_served
from normdrop.torch.functional._batch_norm import batch_norm, is_ours
from normdrop.torch.functional._dropout import with_key


def batch_norm_act(  # noqa: PLR0913  # PyTorch's arguments, and the options of all that is fused by keyword
    input: torch.Tensor,  # noqa: A002
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor | None = None,
    activation: Activation = "relu",
    p: float = 0.0,
    shared_axes: int | Iterable[int] = (),
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Compute dropout(activation(batch_norm(input) + residual)) in one pass over memory, forward and backward.

    Parameters
    ----------
    input, running_mean, running_var, weight, bias : torch.Tensor
        As in `batch_norm`.
    training : bool, default False
        Whether to normalize by the statistics of the batch. It does not decide whether elements are dropped: `p` does.
    momentum, eps : float
        As in `batch_norm`.
    residual : torch.Tensor, shape and dtype of `input`, optional
        What is added before the activation.
    activation : str or (str, float), default "relu"
        As in `normdrop.functional.act_dropout`: a name, or name and parameter such as ``("leaky_relu", 0.2)``.
    p : float, default 0.0
        Probability of dropping an element, from 0 to 1.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element: ``(2, 3)`` drops whole channels of (N, C, H, W).
    generator, rng : optional
        Where the mask comes from, as in `dropout`.

    Returns
    -------
    torch.Tensor
        Of the shape, dtype and memory format of `input`.

    Raises
    ------
    TypeError, ValueError
        `activation`, `p` or `shared_axes` is not as above; there is one value per channel in training; `generator` and
        `rng` are both given, or one of them with a tensor that is left to PyTorch.

    See Also
    --------
    normdrop.torch.FusedBatchNorm : the layer.
    normdrop.functional.batch_norm_act : the function for arrays.

    Notes
    -----
    The bits are those of `batch_norm`, the activation computed in float64, and `dropout`, one after the other. Backward
    keeps `input` and `residual`, no mask and no output of a step; `bias` must not change before it, as `weight` must
    not. What the kernels do not take, and a graph of inference, is computed by the steps one after the other. Dropout
    is a pass of its own in inference and, if of elements, in channels-last memory.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import functional
    >>> functional.batch_norm_act(torch.tensor([[1.0], [3.0]]), None, None, training=True)
    tensor([[0.0000],
            [1.0000]])
    """
    name, parameter = activation_of(activation)
    p = _checks.probability(p)
    drops = _masking.threshold_of(p) > 0
    axes = _masking.shared_axes_of(shared_axes, input.dim())
    others = (running_mean, running_var, weight, bias)
    law = name, parameter, p, axes, eps

    def fused(key: torch.Tensor | None) -> torch.Tensor:
        y, statistics = _fused_gradients.batch_norm_act(input, residual, weight, bias, key, law)
        if running_mean is not None:
            n = input.numel() // input.shape[1]
            _operators.update_running(running_mean, running_var, statistics, momentum, n)
        return y

    if is_ours(input, others, training, momentum, eps) and _fits(residual, input):
        if training and drops and (axes or input.is_contiguous()):  # else a mask would be drawn and turned before
            return with_key(fused, input, generator, rng)
        y = (
            fused(None)
            if training
            else _fused_gradients.batch_norm_act_inference(input, residual, others[:2], weight, bias, law)
        )
    else:
        y = batch_norm(input, *others, training, momentum, eps)
        y = activate(y if residual is None else y + residual, name, parameter)
    if not drops:
        return y
    if is_served(y):
        return with_key(lambda key: _gradients.dropout(y, key, p, axes), y, generator, rng)
    return _dropped_by_pytorch(y, p, axes, generator, rng)


def _fits(residual: torch.Tensor | None, x: torch.Tensor) -> bool:
    """Whether the kernels take this residual."""
    return residual is None or (is_known(residual) and residual.shape == x.shape and residual.dtype is x.dtype)


def _dropped_by_pytorch(
    y: torch.Tensor, p: float, axes: tuple[int, ...], generator: torch.Generator | None, rng: RNG
) -> torch.Tensor:
    if y.numel() and not (generator is None and rng is None):
        raise ValueError(
            f"generator and rng choose the mask of a dense float tensor on the CPU; this {type(y).__name__} of "
            f"{y.dtype} on {y.device} is left to PyTorch. Leave both out and call torch.manual_seed(...)."
        )
    if not axes:
        return peer.dropout(y, p)
    return y * peer.dropout(y.new_ones([1 if axis in axes else n for axis, n in enumerate(y.shape)]), p)
