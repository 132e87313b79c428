"""Dropout, of elements and of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as peer

from normdrop import _checks
from normdrop.functional import _masking
from normdrop.random import RNG, with_call
from normdrop.torch import _gradients, _operators
from normdrop.torch._arrays import is_served

P = ParamSpec("P")

# Axes along which whole channels are dropped, by the number of axes; PyTorch has its own mind about others.
CHANNELS: dict[str, dict[int, tuple[int, ...]]] = {
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


def _of_channels(function: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """Say once what holds for channels of any number of axes."""
    name = function.__name__
    shape = 2, 3, *[4] * int(name[-2])
    function.__doc__ = f"""{function.__doc__}

    Parameters
    ----------
    input : torch.Tensor
        Input of one of these shapes; others are left to PyTorch.
    p : float, default 0.5
        Probability of dropping a channel of a sample, from 0 to 1.
    training, inplace, generator, rng
        As for `dropout`.

    Returns
    -------
    torch.Tensor
        Of the shape, dtype and memory format of `input`.

    Raises
    ------
    ValueError
        As by `dropout`.

    See Also
    --------
    normdrop.torch.{name.capitalize()} : the layer.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import functional
    >>> y = functional.{name}(torch.ones({shape}), 0.5, rng=0)
    >>> bool((y.flatten(2) == y.flatten(2)[..., :1]).all())  # of each channel all or nothing
    True
    """
    return function


@_of_channels
def dropout1d(
    input: torch.Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop whole channels of (N, C, L) or (C, L), as `torch.nn.functional.dropout1d`."""
    return _dropout("dropout1d", input, p, training, inplace, generator, rng)


@_of_channels
def dropout2d(
    input: torch.Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: RNG = None,
) -> torch.Tensor:
    """Drop whole channels of (N, C, H, W), as `torch.nn.functional.dropout2d`."""
    return _dropout("dropout2d", input, p, training, inplace, generator, rng)


@_of_channels
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
    _checks.no_array_of_p(p)
    shared_axes = () if name == "dropout" else CHANNELS[name].get(x.dim())
    if not training or shared_axes is None or not is_served(x) or not 0.0 <= p <= 1.0:
        if training and x.numel() and not (generator is None and rng is None):
            what = f"{x.dtype} of shape {tuple(x.shape)}, layout {x.layout}, on {x.device}"
            raise ValueError(
                f"generator and rng choose the mask of a dense float tensor on the CPU; {name} leaves this "
                f"{type(x).__name__} to PyTorch: {what}. Leave both out and call torch.manual_seed(...)."
            )
        own: Callable[..., torch.Tensor] = getattr(peer, name)
        return own(x, p, training, inplace)
    if generator is None and rng is None and _masking.threshold_of(p) == 0:
        return x
    drop = _gradients.dropout_ if inplace else _gradients.dropout
    return with_key(lambda key: drop(x, key, p, shared_axes), x, generator, rng)


def with_key(
    run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, generator: torch.Generator | None, rng: RNG
) -> torch.Tensor:
    """Return what `run` makes of a key; a source that was given is left as it was if that fails."""
    if generator is not None and rng is not None:
        raise ValueError("generator and rng are both given; leave out one of them, because a mask comes from one")
    if generator is not None:
        before = generator.get_state()
        try:
            return run(_operators.random_key(generator))
        except BaseException:
            generator.set_state(before)
            raise
    if rng is not None:
        return with_call(rng, lambda key, call: run(_operators.key_of(key, call)))
    return run(_operators.random_key() if _gradients.is_transformed(x) else _operators.draw_key(x))
