"""Dropout and batch normalization of tensors, as functions with the names and arguments of PyTorch's.

Dense tensors on the CPU of dtype float32, float64, float16 or bfloat16 are computed by normdrop's kernels. All others,
and batch normalization under the transforms of `torch.func`, go to PyTorch's own functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as peer

from normdrop.functional import _masking
from normdrop.random import RNG, with_call
from normdrop.torch import _gradients, _operators
from normdrop.torch._arrays import is_served, is_served_beside

__all__ = ["batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d"]

# Axes along which whole channels are dropped, by the number of axes; PyTorch has its own mind about others.
_CHANNELS: dict[str, dict[int, tuple[int, ...]]] = {
    "dropout1d": {2: (1,), 3: (2,)},
    "dropout2d": {4: (2, 3)},
    "dropout3d": {4: (1, 2, 3), 5: (2, 3, 4)},
}


def dropout(
    input: torch.Tensor,  # noqa: A002  # PyTorch's name
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop each element with probability `p` and scale the others by 1/(1 - p), as `torch.nn.functional.dropout`.

    Parameters
    ----------
    input : torch.Tensor
        Input of any shape.
    p : float, default 0.5
        Probability of dropping an element, from 0 to 1.
    training : bool, default True
        Whether to drop; else the input is returned.
    inplace : bool, default False
        Whether to write the result to `input`.
    generator : torch.Generator, optional
        Where the mask comes from, instead of PyTorch's default generator, which `torch.manual_seed` seeds.
    rng : int, SeedSequence, Generator or MaskStream, optional
        The same, of normdrop's kind. With a `MaskStream` the mask is that of `normdrop.functional.dropout` with the
        same stream, which moves on by one call.

    Returns
    -------
    torch.Tensor
        Of the shape, dtype and memory format of `input`.

    Raises
    ------
    ValueError
        `p` is not from 0 to 1; `generator` and `rng` are both given, or one of them with a tensor that is left to
        PyTorch.

    See Also
    --------
    normdrop.torch.Dropout : the layer.

    Notes
    -----
    A dropped element is set to +0: a NaN or infinity there disappears, forward and backward.

    Examples
    --------
    >>> import torch, normdrop
    >>> from normdrop.torch import functional
    >>> x = torch.arange(1.0, 9.0)
    >>> y = functional.dropout(x, 0.5, rng=normdrop.MaskStream(0))
    >>> same, _ = normdrop.functional.dropout(x.numpy(), 0.5, rng=normdrop.MaskStream(0))
    >>> bool((y.numpy() == same).all())
    True
    """
    return _dropout("dropout", input, p, training, inplace, generator, rng)


def dropout1d(
    input: torch.Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop whole channels of (N, C, L) or (C, L), as `torch.nn.functional.dropout1d`; arguments as in `dropout`."""
    return _dropout("dropout1d", input, p, training, inplace, generator, rng)


def dropout2d(
    input: torch.Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop whole channels of (N, C, H, W), as `torch.nn.functional.dropout2d`; arguments as in `dropout`."""
    return _dropout("dropout2d", input, p, training, inplace, generator, rng)


def dropout3d(
    input: torch.Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop whole channels of (N, C, D, H, W) or (C, D, H, W), as `torch.nn.functional.dropout3d`."""
    return _dropout("dropout3d", input, p, training, inplace, generator, rng)


def _dropout(
    name: str,
    x: torch.Tensor,
    p: float,
    training: bool,
    inplace: bool,
    generator: torch.Generator | None,
    rng: RNG,
) -> torch.Tensor:
    shared_axes = () if name == "dropout" else _CHANNELS[name].get(x.dim())
    if not training or shared_axes is None or not is_served(x) or not 0.0 <= p <= 1.0:
        if training and x.numel() and not (generator is None and rng is None):
            what = f"{x.dtype} of shape {tuple(x.shape)}, layout {x.layout}, on {x.device}"
            raise ValueError(
                f"generator and rng choose the mask of a dense float tensor on the CPU; {name} leaves this "
                f"{type(x).__name__} to PyTorch: {what}. Leave both out and call torch.manual_seed(...)."
            )
        own: Callable[..., torch.Tensor] = getattr(peer, name)
        return own(x, p, training, inplace)
    if generator is None and rng is None:
        if _masking.threshold_of(p) == 0:
            return x
        key = _operators.random_key() if _gradients.is_transformed(x) else _operators.draw_key(x)
        return _drop(x, key, p, shared_axes, inplace)
    if generator is not None and rng is not None:
        raise ValueError("generator and rng are both given; leave out one of them, because a mask comes from one")
    return _drop_by(x, p, shared_axes, inplace, generator, rng)


def _drop(x: torch.Tensor, key: torch.Tensor, p: float, shared_axes: tuple[int, ...], inplace: bool) -> torch.Tensor:
    return (_gradients.dropout_ if inplace else _gradients.dropout)(x, key, p, shared_axes)


def _drop_by(
    x: torch.Tensor,
    p: float,
    shared_axes: tuple[int, ...],
    inplace: bool,
    generator: torch.Generator | None,
    rng: RNG,
) -> torch.Tensor:
    """Drop by a mask from a given source, which a failing pass leaves as it was."""
    if generator is not None:
        before = generator.get_state()
        try:
            return _drop(x, _operators.random_key(generator), p, shared_axes, inplace)
        except BaseException:
            generator.set_state(before)
            raise
    return with_call(rng, lambda key, call: _drop(x, _operators.key_of(key, call), p, shared_axes, inplace))


def batch_norm(
    input: torch.Tensor,  # noqa: A002
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Normalize each channel, as `torch.nn.functional.batch_norm`.

    Parameters
    ----------
    input : torch.Tensor, shape (N, C, ...)
        Batch.
    running_mean, running_var : torch.Tensor, shape (C,), or None
        Running statistics: updated where `training`, else what the batch is normalized by.
    weight, bias : torch.Tensor, shape (C,), optional
        Scale and shift.
    training : bool, default False
        Whether to normalize by the statistics of the batch.
    momentum : float, default 0.1
        Weight of the **new** value in the running statistics, PyTorch's way: one minus that of `normdrop.BatchNorm`.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    torch.Tensor
        Of the shape, dtype and memory format of `input`.

    Raises
    ------
    ValueError
        There is one value per channel in training.

    See Also
    --------
    normdrop.torch.BatchNorm2d : the layer.

    Notes
    -----
    The statistics of the batch are float64, whatever the dtype of the input; running ones are rounded to their dtype.
    Gradients of any order are computed. Where a graph is recorded for inference, PyTorch's own operator is: a compiler
    fuses it with its neighbors, and an exported program runs without normdrop.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import functional
    >>> functional.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    others = (running_mean, running_var, weight, bias)
    if not _is_ours(input, others, training, momentum, eps):
        return peer.batch_norm(input, *others, training, momentum, eps)
    if not training:
        return _gradients.batch_norm_inference(input, *others, eps)
    y, statistics = _gradients.batch_norm(input, weight, bias, eps)
    if running_mean is not None:
        _operators.update_running(running_mean, running_var, statistics, momentum, input.numel() // input.shape[1])
    return y


def _is_ours(
    x: torch.Tensor, others: Sequence[torch.Tensor | None], training: bool, momentum: float, eps: float
) -> bool:
    if not is_served(x) or x.dim() < 2 or _gradients.is_transformed(x) or not eps > 0.0:
        return False
    if not all(is_served_beside(v, x) for v in others) or (others[0] is None) != (others[1] is None):
        return False
    if training:
        return x.numel() > x.shape[1] and 0.0 <= momentum <= 1.0  # of one value per channel, PyTorch's error
    return others[0] is not None and not _operators.is_watched()
